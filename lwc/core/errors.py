"""Errors a user can cause, each with a hint and the exit code it maps to."""

from __future__ import annotations

import errno
import re
from pathlib import Path

OK = 0
BUG = 1
USAGE = 2
GATE_FAILED = 3
MISSING = 4
INTERRUPTED = 130


class LwcError(Exception):
    """One clear error: what is wrong and where, plus what to do about it.

    ``exit_code`` is the process exit status the command line reports for it.
    """

    exit_code: int = BUG

    def __init__(self, message: str, hint: str = "", exit_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code


class RecipeError(LwcError):
    """The recipe or the command line is wrong (exit 2)."""

    exit_code = USAGE


class DataError(LwcError):
    """The data cannot be used as the recipe asks (exit 2)."""

    exit_code = USAGE


class ModelError(LwcError):
    """The model cannot be loaded, cut or exported (exit 2)."""

    exit_code = USAGE


class TargetError(LwcError):
    """The compression target cannot be reached (exit 2)."""

    exit_code = USAGE


class Diverged(LwcError):
    """A training came to a loss or a score that is no number."""


class ServingError(LwcError):
    """A server did not start, answer or stop as it must (exit 1 unless told otherwise)."""


class MissingDependency(LwcError):
    """Hardware, a package or a download is missing (exit 4)."""

    exit_code = MISSING


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Libraries pass the number on in the text of an error of their own.
_FULL_IN_TEXT = re.compile(rf"(?:\[Errno |\(os error )(?:{'|'.join(map(str, _FULL))})[\])]")


def disk_full(error: BaseException) -> bool:
    """Whether a write failed because the disk is full or a quota or limit is used up, whatever library reports it."""
    return getattr(error, "errno", None) in _FULL or _FULL_IN_TEXT.search(str(error)) is not None


def memory_full(error: BaseException) -> bool:
    """Whether memory ran out; torch says so of the CPU's only in the text of a `RuntimeError`."""
    return isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def no_space(place: Path | str) -> LwcError:
    """The error of a full disk, by where it was written to."""
    return LwcError(
        f"{place}: no space left on this disk", "free some space there and rerun; finished stages are reused"
    )
