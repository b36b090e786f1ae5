"""The first pass: files are cut into blocks, several at once, and worker processes turn each block into a part."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lwc.data.ingest.blocks import Block, blocks, prefix
from lwc.data.ingest.part import make_part
from lwc.data.ingest.progress import Meter
from lwc.data.ingest.seal import unbroken
from lwc.data.source import Input
from lwc.data.sources.table import check_keys, wanted_of
from lwc.recipe import Columns, Data, Ingest


@dataclass(frozen=True)
class Job:
    """An ingestion: what is read, where the result goes, and who does the work.

    Args:
        inputs: the files of ``data.source`` in reading order.
        workers: size of ``pool``; it bounds how many blocks are in memory.
    """

    data: Data
    seed: int
    out: Path
    inputs: Sequence[Input]
    pool: Executor
    workers: int
    say: Callable[[str], None]

    @property
    def settings(self) -> Ingest:
        """How to read; the defaults if the recipe has no ``data.ingest``."""
        return self.data.ingest or Ingest()

    @property
    def parts(self) -> Path:
        """The folder of the parts."""
        return self.out / "parts"


def read_all(job: Job, needed: Collection[str] | None = None) -> list[tuple[str, int]]:
    """Make the parts of all inputs, or only those ``needed``.

    Parts that exist and are whole are kept: the file is decompressed again, but not parsed. At most ``workers`` + 2
    blocks are in memory, and what was read of the next one of each open file.

    Returns:
        Name and number of rows of each part, in reading order.

    Raises:
        DataError: a source that cannot be read, or lacks a column.
    """
    wanted = [
        (file, one)
        for file, one in enumerate(job.inputs)
        if needed is None or any(part.startswith(prefix(file)) for part in needed)
    ]
    meter = Meter("read", sum(one.path.stat().st_size for _, one in wanted if one.path is not None), job.say)
    slots = threading.BoundedSemaphore(job.workers + 2)
    stop = threading.Event()

    def done(future: Future[_Made]) -> None:
        slots.release()
        if future.cancelled() or future.exception() is not None:
            stop.set()
        else:
            meter.counted(future.result().read)

    def read(file: int, one: Input) -> list[_Made | Future[_Made]]:
        found: list[_Made | Future[_Made]] = []
        coming = blocks(file, one, job.settings.shard_mib << 20, meter.took)
        handed = True
        while handed and not stop.is_set():
            slots.acquire()  # before the next block is read, so that no waiting thread has one in memory
            handed = False
            try:
                for block in coming:
                    if needed is not None and block.part not in needed:
                        continue
                    there = unbroken(job.parts / f"{block.part}.json", job.parts)
                    if there is None:
                        future = job.pool.submit(_make, block, job.data, one.columns, job.parts)
                        handed = True
                        found.append(future)
                        break
                    meter.counted(there["read"])
                    found.append(_made(there))
            except BaseException:
                stop.set()  # the other files need not be read to their ends
                raise
            finally:
                if not handed:
                    slots.release()
            if handed:
                future.add_done_callback(done)
        return found

    with ThreadPoolExecutor(job.settings.files_at_once) as readers:
        try:
            files = list(readers.map(lambda one: read(*one), wanted))
        except BaseException:
            stop.set()
            raise
    made = [one.result() if isinstance(one, Future) else one for found in files for one in found]
    if needed is None:
        _check_columns(job.inputs, made)
    return [(one.part, one.rows) for one in made]


class _Made(NamedTuple):
    """What stays in memory of a part."""

    part: str
    rows: int
    read: int
    file: int
    seen: list[str]


def _made(summary: dict[str, Any]) -> _Made:
    return _Made(*(summary[name] for name in _Made._fields))


def _make(block: Block, data: Data, columns: Columns | None, folder: Path) -> _Made:
    return _made(make_part(block, data, columns, folder))


def _check_columns(given: Sequence[Input], made: Sequence[_Made]) -> None:
    """As `read_json_lines`: some lines may lack a mapped key, but not all."""
    for file, one in enumerate(given):
        if one.columns is not None:
            keys = {key for part in made if part.file == file for key in part.seen}
            check_keys(wanted_of(one.columns), keys, str(one.path))
