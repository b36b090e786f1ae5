"""Where data files lie: named paths, ``LWC_DATA_DIR``, and the download cache."""

from __future__ import annotations

import os
from pathlib import Path

from lwc.core.errors import DataError


def locate(name: str) -> Path:
    """A data file by path; a relative one is looked up here, then in ``LWC_DATA_DIR``.

    Raises:
        DataError: it is in neither place.
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


def local_dataset(name: str) -> str | None:
    """A dataset's folder here, or in ``LWC_DATA_DIR``; None where the name is none."""
    for base in (Path(), Path(os.environ.get("LWC_DATA_DIR") or ".")):
        if (base / name).is_dir():
            return str(base / name)
    return None
