"""Content-addressed store of stage results: written aside, manifest last, one atomic rename."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwc.core.errors import LwcError

MANIFEST = "manifest.json"
# Beside the run folders: the store. In each run folder: what its stages were made from.
STORE_FOLDER = ".store"
RECORD = "stages.json"


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def key_of(ingredients: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of everything a stage's result depends on."""
    return hashlib.sha256(canonical(ingredients).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_paths(paths: list[Path]) -> str:
    """One digest over the content of files and folders, independent of where they lie."""
    total = hashlib.sha256()
    for path in paths:
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        for file in files:
            name = file.name if path.is_file() else file.relative_to(path).as_posix()
            total.update(f"{name}\0{file_digest(file)}\n".encode())
    return total.hexdigest()


def write_json(path: Path, value: Any, *, sync: bool = True) -> None:
    """Write JSON so that a reader sees the old file or the whole new one, never half of it.

    Without ``sync`` that holds for a process that is killed, but not for a machine that loses its power.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        if sync:
            file.flush()
            os.fsync(file.fileno())
    part.replace(path)


def read_json(path: Path) -> Any:
    """Parsed JSON of ``path``; a missing or damaged file is an `LwcError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LwcError(f"{path}: missing", "run the stage that writes it again") from error
    except json.JSONDecodeError as error:
        raise LwcError(f"{path}, line {error.lineno}: not valid JSON", "delete it and run again") from error


def publish_folder(source: Path, destination: Path) -> None:
    """Copy ``source`` to ``destination``, replacing what is there in two renames."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    fresh = destination.with_name(f".{destination.name}.new-{os.getpid()}")
    old = destination.with_name(f".{destination.name}.old-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    # A server that ran on the source leaves compiled Python behind.
    shutil.copytree(source, fresh, ignore=shutil.ignore_patterns("__pycache__"))
    if destination.exists():
        destination.rename(old)
    fresh.rename(destination)
    shutil.rmtree(old, ignore_errors=True)


@dataclass(frozen=True)
class Artifact:
    """A finished stage result. ``digest`` covers the content of what later stages read of it, not times or place."""

    path: Path
    digest: str
    seconds: float


@contextmanager
def exclusive(lock: Path, problem: LwcError) -> Iterator[None]:
    """Hold the lock file ``lock``; raise ``problem`` at once where another process holds it. The file stays."""
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise problem from error
        yield


class Store:
    """``root/<stage>/<key>/`` holds finished results, ``root/work/`` those in the making."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def place(self, stage: str, key: str) -> Path:
        """Where the result lies, once it is finished."""
        return self.root / stage / key[:24]

    def find(self, stage: str, key: str) -> Artifact | None:
        """The finished result, or None where there is none or its files do not match its manifest."""
        folder = self.place(stage, key)
        manifest = folder / MANIFEST
        if not manifest.is_file():
            return None
        try:
            content = json.loads(manifest.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError):
            return None
        if content.get("key") != key:
            return None
        for name, recorded in content["files"].items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != recorded["bytes"]:
                return None
            if file_digest(path) != recorded["sha256"]:
                return None
        return Artifact(folder, content["digest"], content["seconds"])

    @contextmanager
    def build(self, stage: str, key: str) -> Iterator[tuple[Path, Path]]:
        """Folders (out, scratch) to build a result in; ``scratch`` survives a kill, for resuming.

        The caller fills ``out`` and then calls `commit`. Two processes that build the same key take turns.
        """
        work = self.root / "work" / f"{stage}-{key[:24]}"
        # Locks lie beside the work folders and are never deleted: a deleted lock file locks nobody out.
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / work.name).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            out, scratch = work / "out", work / "scratch"
            if out.exists():
                shutil.rmtree(out)
            out.mkdir(parents=True)
            scratch.mkdir(exist_ok=True)
            yield out, scratch

    def commit(
        self, stage: str, key: str, ingredients: Mapping[str, Any], seconds: float, account: Collection[str] = ()
    ) -> Artifact:
        """Seal what `build` handed out: hash the files, write the manifest, rename into place.

        ``account`` names files that tell of the making, and are read by people alone: they are sealed too, but a
        result that differs in nothing else has the same ``digest``.
        """
        work = self.root / "work" / f"{stage}-{key[:24]}"
        out = work / "out"
        files = {
            path.relative_to(out).as_posix(): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
            for path in sorted(out.rglob("*"))
            if path.is_file()
        }
        digest = key_of({name: entry["sha256"] for name, entry in files.items() if name not in account})
        write_json(
            out / MANIFEST,
            {
                "stage": stage,
                "key": key,
                "digest": digest,
                "seconds": round(seconds, 3),
                "ingredients": dict(ingredients),
                "files": files,
            },
        )
        final = self.place(stage, key)
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            shutil.rmtree(final)
        out.rename(final)
        shutil.rmtree(work, ignore_errors=True)
        return Artifact(final, digest, seconds)
