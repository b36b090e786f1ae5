"""Folders that are written whole or not at all, and never over something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lwc.core.errors import USAGE, LwcError
from lwc.core.store import replacing


@contextmanager
def new_folder(place: Path, ours: str | None = None) -> Iterator[Path]:
    """A folder to fill, which becomes ``place`` at the end of the block, or vanishes if the block raises.

    An earlier ``place`` is replaced if it is empty or has the file ``ours``, by which a result is known.

    Raises:
        LwcError: ``place`` is something else, or the disk is full.
    """
    if place.exists() and not (place.is_dir() and (not any(place.iterdir()) or (ours and (place / ours).is_file()))):
        what = "exists" if ours is None else "exists and is not an earlier result of this kind"
        raise LwcError(f"{place} {what}", "name another folder", USAGE)
    with replacing(place) as made:
        yield made
