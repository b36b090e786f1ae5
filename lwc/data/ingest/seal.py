"""Summaries that vouch for files: each has the SHA-256 of those it describes, so that damage is found and mended."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lwc.core.store import file_digest, write_json


def seal(path: Path, folder: Path, names: Iterable[str], content: dict[str, Any]) -> dict[str, Any]:
    """Write a summary of files in ``folder``, whose ``files`` are their digests; returns it."""
    sealed = {**content, "files": {name: file_digest(folder / name) for name in names}}
    write_json(path, sealed, sync=False)  # `unbroken` detects a damaged one
    return sealed


def unbroken(path: Path, folder: Path) -> dict[str, Any] | None:
    """The summary that `seal` wrote, or None if it or one of its files is missing or damaged."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        whole = all(file_digest(folder / name) == digest for name, digest in found["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if whole else None
