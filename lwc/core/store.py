"""A content-addressed store of stage results, and files and folders that are never half written."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lwc.core.errors import USAGE, LwcError, disk_full, no_space

MANIFEST = "manifest.json"
# Beside the run folders: the store. In each run folder: what its stages were made from.
LFS_POINTER = b"version https://git-lfs"
"""The first bytes of what Git LFS leaves in place of a file that was not fetched."""
STORE_FOLDER = ".store"
RECORD = "stages.json"


def canonical(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def key_of(ingredients: Mapping[str, Any]) -> str:
    """The SHA-256 of the canonical JSON of everything that a stage's result depends on."""
    return hashlib.sha256(canonical(ingredients).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_paths(paths: list[Path]) -> str:
    """One digest of the content of files and folders, wherever they are."""
    total = hashlib.sha256()
    for path in paths:
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        for file in files:
            name = file.name if path.is_file() else file.relative_to(path).as_posix()
            total.update(f"{name}\0{file_digest(file)}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def write_whole(path: Path, content: bytes | Callable[[BinaryIO], object], *, sync: bool = True) -> None:
    """Write a file so that a reader sees the old one or the whole new one.

    If the write fails, for example because the disk is full, the old file stays and nothing else is left behind.

    Args:
        content: the bytes, or a function that writes them to a file.
        sync: also survive a power failure, at the cost of waiting for the disk.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a write fails without a name
        raise


def write_json(path: Path, value: object, *, sync: bool = True) -> None:
    """`write_whole` for JSON; NaN and infinity are refused."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(path, f"{text}\n".encode(), sync=sync)


def read_json(path: Path) -> Any:
    """The parsed JSON of ``path``, with no more numbers than `write_json` writes: no NaN, no infinity.

    Raises:
        LwcError: the file is missing or damaged (exit 2: people move and edit files).
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_finite, parse_float=_finite)
    except FileNotFoundError as error:
        raise LwcError(f"{path}: missing", "rerun the stage that writes it", USAGE) from error
    except (ValueError, RecursionError) as error:
        where = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise LwcError(f"{path}{where}: not valid JSON", "delete it and rerun the command", USAGE) from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def read_record(run: Path) -> dict[str, Any]:
    """What the stages of a run folder were made from; empty if it does not say.

    Raises:
        LwcError: the file is damaged.
    """
    path = run / RECORD
    found = read_json(path) if path.is_file() else {}
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise LwcError(f"{path}: not a record of stages", "delete it and rerun the command", USAGE)
    return found


@contextmanager
def replacing(destination: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of ``destination`` at the end of the block, or vanishes if that raises.

    An older one is replaced by two renames.

    Raises:
        LwcError: the disk is full.
    """
    destination.absolute().parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (destination.with_name(f".{destination.name}.{state}-{os.getpid()}") for state in ("new", "old"))
    for aside in (fresh, old):
        shutil.rmtree(aside, ignore_errors=True)
    fresh.mkdir()
    try:
        yield fresh
        if destination.exists():
            destination.rename(old)
        fresh.rename(destination)
    except BaseException as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if disk_full(error):
            raise no_space(destination) from error
        raise
    shutil.rmtree(old, ignore_errors=True)


def publish_folder(source: Path, destination: Path, added: Mapping[str, str] | None = None) -> None:
    """Copy a folder to ``destination``; an older one stays if the copy fails (`replacing`).

    Copies, never links: people edit a published file in place, and a link would carry the edit into the store.

    Args:
        added: text files that the copy has besides, by name.

    Raises:
        LwcError: the disk is full.
    """
    with replacing(destination) as fresh:
        # A server that used the source leaves compiled Python behind.
        shutil.copytree(source, fresh, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        for name, text in (added or {}).items():
            (fresh / name).write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Artifact:
    """A finished stage result. ``digest`` covers only the content that later stages read, not timestamps or paths."""

    path: Path
    digest: str
    seconds: float


@contextmanager
def taken(lock: Path) -> Iterator[bool]:
    """Hold the lock file ``lock``, which stays, unless another process does; gives whether this one holds it."""
    with lock.open("a+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@contextmanager
def exclusive(lock: Path, problem: LwcError) -> Iterator[None]:
    """Hold the lock file ``lock``, which stays; raise ``problem`` if another process holds it."""
    with taken(lock) as free:
        if not free:
            raise problem
        yield


class Store:
    """Finished results in ``root/<stage>/<key>/``, unfinished ones in ``root/work/``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def place(self, stage: str, key: str) -> Path:
        """The folder of the finished result."""
        return self.root / stage / key[:24]

    def find(self, stage: str, key: str) -> Artifact | None:
        """The finished result, or None if there is none or a file does not match the manifest."""
        folder = self.place(stage, key)
        manifest = folder / MANIFEST
        if not manifest.is_file():
            return None
        try:
            content = json.loads(manifest.read_text(encoding="utf-8"))
            found = Artifact(folder, content["digest"], content["seconds"])
            files = [(folder / name, one["bytes"], one["sha256"]) for name, one in content["files"].items()]
            if content["key"] != key:
                return None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # damaged
            return None
        for path, size, digest in files:
            if not path.is_file() or path.stat().st_size != size or file_digest(path) != digest:
                return None
        return found

    @contextmanager
    def build(
        self, stage: str, key: str, wait: Callable[[str], None] = lambda holder: None
    ) -> Iterator[tuple[Path, Path]]:
        """Two folders to build a result in: ``out``, and ``scratch``, which survives a kill so that work can resume.

        The caller fills ``out`` and then calls `commit`. Two processes that build the same key take turns; ``wait`` is
        called with who has the turn, if this one has to wait for it.
        """
        work = self.root / "work" / f"{stage}-{key[:24]}"
        # Locks are outside the work folders and never deleted: a deleted lock file locks nobody out.
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / work.name).open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                wait(lock.read())
                fcntl.flock(lock, fcntl.LOCK_EX)
            lock.truncate(0)
            lock.write(f"pid {os.getpid()}, since {time.strftime('%H:%M')}")
            lock.flush()
            out, scratch = work / "out", work / "scratch"
            if out.exists():
                shutil.rmtree(out)
            out.mkdir(parents=True)
            scratch.mkdir(exist_ok=True)
            yield out, scratch

    def commit(
        self, stage: str, key: str, ingredients: Mapping[str, Any], seconds: float, account: Collection[str] = ()
    ) -> Artifact:
        """Finish what `build` began: hash the files, write the manifest, rename the folder.

        ``account`` names files that only people read, such as the time a stage took. They are in the manifest, but not
        in ``digest``.
        """
        work = self.root / "work" / f"{stage}-{key[:24]}"
        out = work / "out"
        files = {
            path.relative_to(out).as_posix(): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
            for path in sorted(out.rglob("*"))
            if path.is_file()
        }
        digest = key_of({name: entry["sha256"] for name, entry in files.items() if name not in account})
        manifest = {"stage": stage, "key": key, "digest": digest, "seconds": round(seconds, 3)}
        write_json(out / MANIFEST, {**manifest, "ingredients": dict(ingredients), "files": files})
        final = self.place(stage, key)
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            shutil.rmtree(final)
        out.rename(final)
        shutil.rmtree(work, ignore_errors=True)
        return Artifact(final, digest, seconds)
