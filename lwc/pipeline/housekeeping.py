"""What the store of a runs folder contains, which runs use it, and what can go."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lwc.core.errors import USAGE, LwcError
from lwc.core.store import MANIFEST, RECORD, STORE_FOLDER, key_of, read_record, taken

_WORK, _LOCKS, _ANSWERS = "work", "locks", "teacher"
_UNFINISHED = (_WORK, _ANSWERS)
"""Interrupted stages, and the uncut model's answers that an interrupted sweep left."""


@dataclass(frozen=True)
class Entry:
    """A finished or unfinished stage result: its size, when it was last written, and the runs that use it.

    ``stage`` of an unfinished one is ``work``, and ``name`` begins with the stage. ``held``: a run is at work on it.
    """

    stage: str
    name: str
    path: Path
    bytes: int
    written: float
    runs: tuple[str, ...] = ()
    held: bool = False

    @property
    def needed(self) -> bool:
        """Whether a run would have to make it again."""
        return bool(self.runs) or self.held


def contents(runs: Path) -> list[Entry]:
    """Everything in the store, stage by stage, the newest first.

    Raises:
        LwcError: there is no store, or a run's record is damaged, so that nobody knows what it uses.
    """
    store = runs / STORE_FOLDER
    if not store.is_dir():
        raise LwcError(f"{runs}: no stage store", "give the folder that `lwc run --runs` wrote to", USAGE)
    users = _users(runs)
    found = []
    for stage in sorted(path for path in store.iterdir() if path.is_dir() and path.name != _LOCKS):
        for folder in (path for path in stage.iterdir() if path.is_dir()):
            files = [path for path in folder.rglob("*") if path.is_file()]
            written = max((path.stat().st_mtime for path in files), default=folder.stat().st_mtime)
            used = tuple(users.get((stage.name, folder.name), ()))
            size = sum(path.stat().st_size for path in files)
            held = stage.name == _WORK and _held(store / _LOCKS / folder.name)
            found.append(Entry(stage.name, folder.name, folder, size, written, used, held))
    return sorted(found, key=lambda one: (one.stage, -one.written))


def _users(runs: Path) -> dict[tuple[str, str], list[str]]:
    users: dict[tuple[str, str], list[str]] = {}
    for record in sorted(runs.glob(f"*/{RECORD}")):
        run = record.parent
        for stage, ingredients in read_record(run).items():
            users.setdefault((stage, key_of(ingredients)[:24]), []).append(run.name)
    return users


def _held(lock: Path) -> bool:
    if not lock.is_file():
        return False
    with taken(lock) as free:
        return not free


def unneeded(entries: list[Entry], days: float, unfinished: bool, now: float | None = None) -> list[Entry]:
    """What no run uses and nobody has written for so many days; unfinished work only if asked, as it can be resumed."""
    before = (time.time() if now is None else now) - days * 86_400
    return [
        one
        for one in entries
        if not one.needed
        and one.written <= before
        and (unfinished if one.stage in _UNFINISHED else (one.path / MANIFEST).is_file())
    ]


def prune(entries: list[Entry], say: Callable[[Entry], None] = lambda entry: None) -> int:
    """Delete entries, each as a whole and only while no run builds it. Returns the bytes that were freed."""
    freed = 0
    for entry in entries:
        store = entry.path.parent.parent
        name = entry.name if entry.stage == _WORK else f"{entry.stage}-{entry.name}"
        (store / _LOCKS).mkdir(exist_ok=True)
        with taken(store / _LOCKS / name) as free:
            if not free:
                continue
            # Renamed first: a half-deleted result must not look whole.
            going = store / _WORK / f".gone-{name}"
            going.parent.mkdir(exist_ok=True)
            shutil.rmtree(going, ignore_errors=True)
            entry.path.rename(going)
            shutil.rmtree(going)
        freed += entry.bytes
        say(entry)
    return freed
