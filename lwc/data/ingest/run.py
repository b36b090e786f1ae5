"""``lwc data ingest``: from a source to shards and a quality report; killed at any time, it resumes."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lwc.core.arrays import Array
from lwc.core.children import end_with_parent
from lwc.core.errors import DataError, LwcError
from lwc.core.machine import cpu_limit
from lwc.core.store import MANIFEST, exclusive, file_digest, read_json, write_json, write_whole
from lwc.data.bad_rows import check_bad
from lwc.data.ingest import metadata, shards
from lwc.data.ingest import part as part_file
from lwc.data.ingest.dedupe import Parts, decide
from lwc.data.ingest.progress import Meter
from lwc.data.ingest.quality import describe, totals
from lwc.data.ingest.reading import Job, read_all
from lwc.data.ingest.seal import seal, unbroken
from lwc.data.labels import check_values, label_names, unused_keys
from lwc.data.paths import locate_all
from lwc.data.quality import SAMPLE, giveaways
from lwc.data.source import inputs_of, notes_of, provenance, quiet
from lwc.data.splits import NAMES, kind_of
from lwc.recipe import Data

VERSION = 5


def ingest(
    data: Data,
    seed: int,
    out: Path,
    workers: int | None = None,
    progress: Callable[[str], None] | None = None,
    pool: Executor | None = None,
) -> dict[str, Any]:
    """Read a source into ``out``: ``<split>/*.parquet``, ``quality.json``, ``quarantine.jsonl``, ``manifest.json``.

    Columns of the shards: id, text, label (a position in ``labels.json``), user, item, time, file, line, and with
    ``data.ingest.metadata`` also item_title, item_brand and item_category. A killed ingestion resumes.

    Args:
        workers: number of processes; by default the CPUs of this machine.
        pool: does the work instead of new processes.

    Returns:
        The content of ``quality.json``, and the seconds of each pass.

    Raises:
        DataError: unusable data, or ``out`` contains something else.
        LwcError: a worker process died.
    """
    inputs, workers = inputs_of(data.reading()), workers or cpu_limit()
    out.mkdir(parents=True, exist_ok=True)
    busy = DataError(f"{out}: another process is writing there", "wait until it ends, or name another --out")
    with exclusive(out / "lock", busy), workers_pool(workers) if pool is None else nullcontext(pool) as executor:
        job = Job(data, seed, out, inputs, executor, workers, progress or quiet)
        _claim(job)
        try:
            return _line(job)
        except BrokenProcessPool as error:
            hint = "likely out of memory: lower data.ingest.shard_mib or --workers, and rerun the command to resume"
            raise LwcError("a worker process of the ingestion died", hint) from error


def _line(job: Job) -> dict[str, Any]:
    data, out = job.data, job.out
    took: dict[str, float] = {}
    with _timed(took, "read"):
        parts = _parts(job)
        total = totals(read_json(parts.folder / f"{name}.json") for name in parts.names)
    if total["rows"] != parts.rows:
        raise DataError(f"{out}: the source now gives other rows", "delete the folder and rerun the command")
    check_bad(total["bad"], total["read"], data.max_bad_rows, _quarantine(job, parts))
    values = check_values(data, total["values"])
    if parts.rows == 0:
        raise DataError("no row is left after cleaning and labelling", "use another label scheme or source")
    with _timed(took, "compare"):
        decisions = _decisions(job, parts)
    with _timed(took, "write"):
        names = label_names(data.labels, total["labels"])
        rule = _rule(job, parts, decisions, total)
        joined = _metadata(job)
        written = _shards(job, parts, rule, names, joined)
    quality = describe(data, total, decisions, written, rule.kind, names)
    quality["read_as"] = notes_of(data.reading())
    quality["label_values"] = values
    quality["label_map_unused"] = unused_keys(data.labels, total["values"])
    quality["label_tokens"] = giveaways(*shards.sample(out, "train", SAMPLE), names)
    if joined is not None:
        quality["metadata"] = read_json(joined / "done.json")
    _finish(job, parts, names, quality, written)
    return {**quality, "seconds": {name: round(seconds, 2) for name, seconds in took.items()}}


def _parts(job: Job) -> Parts:
    """All parts. Only those without a shard are read again, or all while duplicates are not known."""
    out, folder, listing = job.out, job.parts, job.out / "parts.json"
    folder.mkdir(exist_ok=True)
    if not listing.is_file():
        write_json(listing, read_all(job))
    listed = [(str(name), int(rows)) for name, rows in read_json(listing)]
    decided = _stored_decisions(out) is not None

    def lacking(name: str) -> bool:
        if not all((folder / f"{name}.{end}").is_file() for end in ("json", "bad.jsonl")):
            return True
        written = decided and unbroken(shards.summary(out, name), out) is not None
        return not written and unbroken(folder / f"{name}.json", folder) is None

    needed = {name for name, _ in listed if lacking(name)}
    if needed:
        job.say(f"{len(needed)} parts are read again")
        read_all(job, needed)
    starts = np.concatenate(([0], np.cumsum([rows for _, rows in listed]))).astype(np.int64)
    return Parts(folder, tuple(name for name, _ in listed), starts)


def _stored_decisions(out: Path) -> Array | None:
    if unbroken(out / "decisions.json", out) is None:
        return None
    stored: Array = np.load(out / "decisions.npy")
    return stored


def _decisions(job: Job, parts: Parts) -> Array:
    stored = _stored_decisions(job.out)
    if stored is not None:
        return stored
    job.say("exact duplicates")
    found = decide(parts, job.data.near_duplicate_threshold, job.out / "decisions.npy", job.pool, job.say)
    seal(job.out / "decisions.json", job.out, ["decisions.npy"], {"rows": len(found)})
    return found


def _rule(job: Job, parts: Parts, decisions: Array, total: dict[str, Any]) -> shards.Rule:
    stored, split = job.out / "split.json", job.data.split
    if not stored.is_file():
        without = {"user": total["without_user"], "time": total["without_time"]}
        kind = kind_of(split, total["rows"], without)
        write_json(stored, shards.rule_of(split, kind, job.seed, parts, decisions).__dict__)
    return shards.Rule(**read_json(stored))


def _metadata(job: Job) -> Path | None:
    if not job.settings.metadata:
        return None
    folder = job.out / "metadata"
    if not (folder / "done.json").is_file():
        job.say("reading item metadata")
        write_json(folder / "done.json", metadata.build(job.settings.metadata, folder))
    return folder


def _shards(job: Job, parts: Parts, rule: shards.Rule, names: list[str], joined: Path | None) -> list[dict[str, Any]]:
    out = job.out
    for name in (*NAMES, "shards"):
        (out / name).mkdir(exist_ok=True)
    found = [unbroken(shards.summary(out, name), out) for name in parts.names]
    open_ = [index for index, one in enumerate(found) if one is None]
    meter = Meter("written", len(open_), job.say)
    calls = [(parts, index, out / "decisions.npy", rule, names, joined, out) for index in open_]
    made = job.pool.map(shards.write_shard, *zip(*calls, strict=True)) if calls else ()
    for index, one in zip(open_, made, strict=True):
        found[index] = one
        meter.took(1)
        meter.counted(sum(one["rows"].values()))
    return [one for one in found if one is not None]


def _quarantine(job: Job, parts: Parts) -> Path:
    """Write the bad rows of all parts to one file."""

    def write(file: BinaryIO) -> None:
        for name in parts.names:
            file.write((parts.folder / f"{name}.bad.jsonl").read_bytes())

    write_whole(job.out / "quarantine.jsonl", write)
    return job.out / "quarantine.jsonl"


def _finish(
    job: Job, parts: Parts, names: list[str], quality: dict[str, Any], written: Sequence[dict[str, Any]]
) -> None:
    """Write the files that describe the whole, the manifest last, and delete intermediate files."""
    out = job.out
    _quarantine(job, parts)
    write_json(out / "labels.json", names)
    write_json(out / "source.json", provenance(job.data.sources, job.data.text_fields))
    write_json(out / "quality.json", quality)
    contents = {name: digest for one in written for name, digest in one["files"].items()}
    own = ("labels.json", "source.json", "quality.json", "quarantine.jsonl")
    contents.update({name: file_digest(out / name) for name in own})
    write_json(out / MANIFEST, {"version": VERSION, "rows": quality["rows_used"], "files": contents})
    for name in parts.names:
        for suffix in part_file.SUFFIXES:
            if suffix != "bad.jsonl":
                (parts.folder / f"{name}.{suffix}").unlink(missing_ok=True)


def _claim(job: Job) -> None:
    """Record what this folder is made from; start over where files changed under an unfinished ingestion.

    Files are the same by name, size and time, or else by content.

    Raises:
        DataError: the folder is made from something else, or its finished ingestion from other files.
    """
    data, out = job.data, job.out
    paths = [one.path for one in job.inputs if one.path is not None]
    paths += locate_all(job.settings.metadata).values()
    files = [[one.name, one.stat().st_size, one.stat().st_mtime_ns] for one in paths]
    # Settings that only limit or check the result may change.
    settings = data.model_dump(mode="json", exclude={"limit", "calibration", "max_bad_rows"})
    mine = {"version": VERSION, "data": settings, "seed": job.seed, "files": files}
    digests: list[str] | None = None
    path = out / "ingest.json"
    if path.is_file():
        theirs = read_json(path)
        changed = {name for name in mine if theirs["of"].get(name) != mine[name]}
        digests = theirs.get("sha256")
        if "files" in changed and not changed & {"data", "seed"}:
            now = [file_digest(one) for one in paths]
            names = [one.name for one in paths]
            if now == digests and names == [name for name, *_ in theirs["of"]["files"]]:
                changed.remove("files")
            digests = now
        if changed and changed <= {"files", "version"} and not (out / MANIFEST).is_file():
            job.say(f"the {' and '.join(sorted(changed))} changed since this unfinished ingestion began: starting over")
            _clear(out)
        elif changed:
            raise DataError(f"{out}: contains an ingestion with another {', '.join(sorted(changed))}",
                            "name another --out, or delete the folder")  # fmt: skip
    elif any(one.name != "lock" for one in out.iterdir()):
        raise DataError(f"{out}: contains other things than an ingestion", "name another --out")
    write_json(path, {"of": mine, "sha256": digests or [file_digest(one) for one in paths]})


def _clear(out: Path) -> None:
    """Delete an ingestion, what says that it is one last."""
    for one in sorted(out.iterdir(), key=lambda path: path.name == "ingest.json"):
        if one.is_dir():
            shutil.rmtree(one)
        elif one.name != "lock":
            one.unlink()


@contextmanager
def workers_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes that ignore Ctrl-C and end with this one: killed, it must not write beside the next run."""
    context = multiprocessing.get_context("spawn")  # threads and fork do not go together
    pool = ProcessPoolExecutor(workers, context, initializer=_begin_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


@contextmanager
def _timed(took: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    took[name] = time.monotonic() - start
