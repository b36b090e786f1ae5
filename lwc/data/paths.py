"""Where data files are: named paths and ``LWC_DATA_DIR``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from lwc.core.errors import DataError


def locate(name: str) -> Path:
    """A data file by path; a relative one is looked up in the working directory, then in ``LWC_DATA_DIR``.

    Raises:
        DataError: there is no such file.
    """
    path = Path(name).expanduser()
    tried = [path]
    folder = os.environ.get("LWC_DATA_DIR")
    if folder and not path.is_absolute():
        tried.append(Path(folder) / path)
    for candidate in tried:
        if candidate.is_file():
            return candidate
    places = ", ".join(str(candidate.absolute()) for candidate in tried)
    raise DataError(f"{name}: no such data file (looked at {places})", "fix the path, or set LWC_DATA_DIR")


def locate_all(names: Iterable[str]) -> dict[str, Path]:
    """`locate` for several files: name → path."""
    return {name: locate(name) for name in names}


def local_dataset(name: str) -> str | None:
    """A dataset's folder, in the working directory or ``LWC_DATA_DIR``; None if there is none of this name."""
    for base in (Path(), Path(os.environ.get("LWC_DATA_DIR") or ".")):
        if (base / name).is_dir():
            return str(base / name)
    return None
