"""The command line in this process, and what every command owes its user whatever the input. Not a test."""

from __future__ import annotations

import io
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from lwc.cli import main as cli
from lwc.core.errors import GATE_FAILED, MISSING, OK, USAGE

# Of all characters that no terminal shows, the ones that a sound message has.
_ALLOWED = "\n"
# Unicode's embeddings, overrides and isolates: they change the order of what is read after them.
_BIDI = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Outcome(NamedTuple):
    """How a command ended, and what it printed."""

    code: object
    out: str
    err: str


def run(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """`lwc` with these arguments, through its own `main`, with streams that encode as those of a terminal do."""
    out, err = _stream("strict"), _stream("backslashreplace")
    with monkeypatch.context() as patch:
        patch.setattr(cli, "_stop_on_signals", lambda: None)
        patch.setattr(sys, "argv", ["lwc", *arguments])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return Outcome(ended.value.code, *(stream.buffer.getvalue().decode("utf-8") for stream in (out, err)))


def _stream(errors: str) -> Any:
    return io.TextIOWrapper(io.BytesIO(), "utf-8", errors, newline="\n", write_through=True)


def faults(outcome: Outcome) -> list[str]:
    """What is wrong with how a command ended, whatever its input was; empty where nothing is."""
    lines = outcome.err.splitlines()
    found = []
    if outcome.code not in (OK, USAGE, GATE_FAILED, MISSING):
        found.append(f"exit code {outcome.code}")
    found += [f"it says {word!r}" for word in ("bug:", "Traceback") if word in outcome.err]
    # The parser of the command line has a form of its own, and `repo check --json` says it all on stdout.
    if outcome.code in (USAGE, MISSING) and not outcome.err.startswith("Usage: ") and not outcome.out.startswith("{"):
        if not any(line.startswith("error: ") and line.removeprefix("error: ").strip() for line in lines):
            found.append("no line says what is wrong")
        if not any(line.startswith("  do: ") and line.removeprefix("  do: ").strip() for line in lines):
            found.append("no line says what to do")
    odd = {one for one in outcome.out + outcome.err if _unprintable(one)}
    if odd:
        found.append(f"characters that no terminal shows: {', '.join(f'U+{ord(one):04X}' for one in sorted(odd))}")
    return found


def _unprintable(one: str) -> bool:
    return (unicodedata.category(one) in ("Cc", "Cs") and one not in _ALLOWED) or one in _BIDI
