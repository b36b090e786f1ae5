"""``lwc data ingest``: from a source to shards and a quality report; stopped anywhere, it goes on from there."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from lwc.core.arrays import Array
from lwc.core.errors import DataError, LwcError
from lwc.core.machine import cpu_limit
from lwc.core.store import MANIFEST, exclusive, file_digest, key_of, read_json, write_json
from lwc.data.ingest import metadata, shards
from lwc.data.ingest import part as part_file
from lwc.data.ingest.blocks import Input, inputs
from lwc.data.ingest.dedupe import Parts, decide
from lwc.data.ingest.progress import Meter
from lwc.data.ingest.quality import describe, totals
from lwc.data.ingest.reading import read_all
from lwc.data.paths import locate
from lwc.data.prepare import check_bad, label_names
from lwc.data.splits import NAMES, kind_of
from lwc.recipe import Data, Ingest

VERSION = 2
_Say = Callable[[str], None]


def ingest(
    data: Data,
    seed: int,
    out: Path,
    workers: int | None = None,
    progress: _Say | None = None,
    pool: Executor | None = None,
) -> dict[str, Any]:
    """Read a source into ``out``: ``<split>/*.parquet``, ``quality.json``, ``quarantine.jsonl``, ``manifest.json``.

    Columns of the shards: id, text, label (a position in ``labels.json``), user, item, time, file, line, and with
    ``data.ingest.metadata`` item_title, item_brand and item_category. The work is done by ``pool``, or by so many
    ``workers`` (processes; default: the CPUs of this machine).

    Raises:
        DataError: unusable data, or ``out`` holds the result of something else.
        LwcError: a worker process died.
    """
    say = progress or (lambda _: None)
    settings = data.ingest or Ingest()
    workers = workers or cpu_limit()
    given = inputs(data.source)
    out.mkdir(parents=True, exist_ok=True)
    busy = DataError(f"{out}: another process is writing there", "wait for it, or name another --out")
    with exclusive(out / "lock", busy), workers_pool(workers) if pool is None else nullcontext(pool) as executor:
        _claim(out, data, seed, given)
        try:
            return _line(data, settings, seed, out, given, executor, workers, say)
        except BrokenProcessPool as error:
            hint = "likely out of memory: lower data.ingest.shard_mib or --workers, and run again to go on from here"
            raise LwcError("a worker process of the ingestion died", hint) from error


def _line(
    data: Data, settings: Ingest, seed: int, out: Path, given: Sequence[Input], pool: Executor, workers: int, say: _Say
) -> dict[str, Any]:
    took: dict[str, float] = {}
    with _timed(took, "read"):
        parts = _parts(data, settings, out, given, pool, workers, say)
        total = totals(read_json(parts.folder / f"{name}.json") for name in parts.names)
    if total["rows"] != parts.rows:
        raise DataError(f"{out}: the source gives other rows than before", "delete the folder and run again")
    check_bad(total["bad"], total["read"], data.max_bad_rows)
    if parts.rows == 0:
        raise DataError("no row is left after cleaning and labelling", "use another label scheme or source")
    with _timed(took, "compare"):
        decisions = _decisions(data, out, parts, pool, say)
    with _timed(took, "write"):
        names = label_names(data.labels, total["labels"])
        rule = _rule(data, seed, out, parts, decisions, total)
        joined = _metadata(settings, out, say)
        written = _shards(out, parts, rule, names, joined, pool, workers, say)
    quality = describe(data, total, decisions, written, rule.kind, names)
    if joined is not None:
        quality["metadata"] = read_json(joined / "done.json")
    _finish(out, data, given, parts, names, quality, written)
    return {**quality, "seconds": {name: round(seconds, 2) for name, seconds in took.items()}}


def _parts(
    data: Data, settings: Ingest, out: Path, given: Sequence[Input], pool: Executor, workers: int, say: _Say
) -> Parts:
    """All parts; read are those without a shard, and all while duplicates are not known."""
    folder, listing = out / "parts", out / "parts.json"
    folder.mkdir(exist_ok=True)
    if not listing.is_file():
        write_json(listing, read_all(given, data, settings, folder, pool, workers, say))
    listed = [(str(name), int(rows)) for name, rows in read_json(listing)]
    decided = _stored_decisions(out) is not None

    def lacking(name: str) -> bool:
        if not all((folder / f"{name}.{end}").is_file() for end in ("json", "bad.jsonl")):
            return True
        return not (decided and shards.whole(out, name)) and part_file.whole(folder, name) is None

    needed = {name for name, _ in listed if lacking(name)}
    if needed:
        say(f"{len(needed)} parts are read again")
        read_all(given, data, settings, folder, pool, workers, say, needed)
    starts = np.concatenate(([0], np.cumsum([rows for _, rows in listed]))).astype(np.int64)
    return Parts(folder, tuple(name for name, _ in listed), starts)


def _stored_decisions(out: Path) -> Array | None:
    path, seal = out / "decisions.npy", out / "decisions.json"
    if path.is_file() and seal.is_file() and read_json(seal)["sha256"] == file_digest(path):
        stored: Array = np.load(path)
        return stored
    return None


def _decisions(data: Data, out: Path, parts: Parts, pool: Executor, say: _Say) -> Array:
    stored = _stored_decisions(out)
    if stored is not None:
        return stored
    say("exact duplicates")
    path = out / "decisions.npy"
    found = decide(parts, data.near_duplicate_threshold, path, pool, say)
    write_json(out / "decisions.json", {"sha256": file_digest(path), "rows": len(found)})
    return found


def _rule(data: Data, seed: int, out: Path, parts: Parts, decisions: Array, total: dict[str, Any]) -> shards.Rule:
    stored = out / "split.json"
    if not stored.is_file():
        without = {"user": total["without_user"], "time": total["without_time"]}
        kind = kind_of(data.split, total["rows"], without)
        write_json(stored, shards.rule_of(data.split, kind, seed, parts, decisions).__dict__)
    return shards.Rule(**read_json(stored))


def _metadata(settings: Ingest, out: Path, say: _Say) -> Path | None:
    if not settings.metadata:
        return None
    folder = out / "metadata"
    if not (folder / "done.json").is_file():
        say("reading item metadata")
        write_json(folder / "done.json", metadata.build(settings.metadata, folder))
    return folder


def _shards(
    out: Path, parts: Parts, rule: shards.Rule, names: list[str], joined: Path | None, pool: Executor, workers: int,
    say: _Say,
) -> list[dict[str, Any]]:  # fmt: skip
    for name in (*NAMES, "shards"):
        (out / name).mkdir(exist_ok=True)
    found = [shards.whole(out, name) for name in parts.names]
    open_ = [index for index, one in enumerate(found) if one is None]
    meter = Meter("written", len(open_), say)
    calls = [(parts, index, out / "decisions.npy", rule, names, joined, out) for index in open_]
    for index, one in zip(open_, pool.map(shards.write_shard, *zip(*calls, strict=True)) if calls else (), strict=True):
        found[index] = one
        meter.took(1)
        meter.counted(sum(one["rows"].values()))
    return [one for one in found if one is not None]


def _finish(
    out: Path, data: Data, given: Sequence[Input], parts: Parts, names: list[str], quality: dict[str, Any],
    written: Sequence[dict[str, Any]],
) -> None:  # fmt: skip
    """Write what describes the whole, the manifest last, and drop what only the making needed."""
    with (out / "quarantine.tmp").open("wb") as target:
        for name in parts.names:
            target.write((parts.folder / f"{name}.bad.jsonl").read_bytes())
    (out / "quarantine.tmp").replace(out / "quarantine.jsonl")
    write_json(out / "labels.json", names)
    files = [one.path for one in given if one.path is not None]
    described = [{"name": one.name, "bytes": one.stat().st_size, "sha256": file_digest(one)} for one in files]
    source = {"source": data.source.kind, "settings": data.source.model_dump(mode="json"), "files": described}
    write_json(out / "source.json", {**source, "text_fields": list(data.text_fields)})
    write_json(out / "quality.json", quality)
    contents = {name: digest for one in written for name, digest in one["files"].items()}
    own = ("labels.json", "source.json", "quality.json", "quarantine.jsonl")
    contents.update({name: file_digest(out / name) for name in own})
    write_json(out / MANIFEST, {"version": VERSION, "rows": quality["rows_used"], "files": contents})
    for name in parts.names:
        for suffix in part_file.SUFFIXES:
            if suffix != "bad.jsonl":
                (parts.folder / f"{name}.{suffix}").unlink(missing_ok=True)


def _claim(out: Path, data: Data, seed: int, given: Sequence[Input]) -> None:
    """Write down what this folder is of; refuse one that is of something else."""
    paths = [one.path for one in given if one.path is not None]
    paths += [locate(name) for name in data.ingest.metadata] if data.ingest is not None else []
    files = [(one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in paths]
    # What only sifts the result, or judges it, may change.
    settings = data.model_dump(mode="json", exclude={"limit", "calibration", "max_bad_rows"})
    ingredients = {"version": VERSION, "data": settings, "seed": seed, "files": files}
    mine, path = json.loads(json.dumps(ingredients)), out / "ingest.json"
    if path.is_file():
        theirs = read_json(path)
        changed = sorted(name for name in mine if theirs["of"].get(name) != mine[name])
        if changed:
            raise DataError(f"{out}: holds an ingestion with another {', '.join(changed)}",
                            "name another --out, or delete the folder")  # fmt: skip
    elif any(one.name != "lock" for one in out.iterdir()):
        raise DataError(f"{out}: holds other things than an ingestion", "name another --out")
    write_json(path, {"key": key_of(mine), "of": mine})


@contextmanager
def workers_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes that leave Ctrl-C to the one that started them, and end when it is killed."""
    context = multiprocessing.get_context("spawn")  # threads and fork do not go together
    pool = ProcessPoolExecutor(workers, context, initializer=_begin_worker, initargs=(os.getpid(),))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)  # a pool does not tell its workers when it is killed; they must not write beside the next run

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _timed(took: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    took[name] = time.monotonic() - start
