"""The first pass: several files at once are cut into blocks, and worker processes make a part of each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from lwc.data.ingest import part as part_file
from lwc.data.ingest.blocks import Block, Input, blocks
from lwc.data.ingest.part import make_part
from lwc.data.ingest.progress import Meter
from lwc.data.sources.table import check_columns
from lwc.recipe import Columns, Data, Ingest


def read_all(
    given: Sequence[Input], data: Data, settings: Ingest, folder: Path, pool: Executor, workers: int,
    say: Callable[[str], None], needed: Collection[str] | None = None,
) -> list[tuple[str, int]]:  # fmt: skip
    """Make the parts of all inputs, or those ``needed``; name and rows of each in reading order.

    Parts that are there and whole are taken as they are: the file is decompressed again, but not parsed. At most
    ``workers`` + 2 blocks are in memory, beside what was read of the next one for each file that is open.

    Raises:
        DataError: a source that cannot be read, or lacks a column.
    """
    wanted = [one for one in given if needed is None or any(part.startswith(f"{one.index:04d}-") for part in needed)]
    meter = Meter("read", sum(one.path.stat().st_size for one in wanted if one.path is not None), say)
    slots = threading.BoundedSemaphore(workers + 2)
    stop = threading.Event()

    def done(future: Future[_Made]) -> None:
        slots.release()
        if future.cancelled() or future.exception() is not None:
            stop.set()
        else:
            meter.counted(future.result().read)

    def read(one: Input) -> list[_Made | Future[_Made]]:
        found: list[_Made | Future[_Made]] = []
        coming = blocks(one, settings.shard_mib << 20, meter.took)
        handed = True
        while handed and not stop.is_set():
            slots.acquire()  # before the next block is read: who waits for a slot holds no block
            handed = False
            try:
                for block in coming:
                    if needed is not None and block.part not in needed:
                        continue
                    there = part_file.whole(folder, block.part)
                    if there is None:
                        future = pool.submit(_make, block, data, one.columns, folder)
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

    with ThreadPoolExecutor(settings.files_at_once) as readers:
        try:
            files = list(readers.map(read, wanted))
        except BaseException:
            stop.set()
            raise
    made = [one.result() if isinstance(one, Future) else one for found in files for one in found]
    if needed is None:
        _check_columns(given, made)
    return [(one.part, one.rows) for one in made]


class _Made(NamedTuple):
    """What is kept in memory of a part."""

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
    """A key of the column map may lack in some lines of a JSON table, not in all (as `read_json_lines` has it)."""
    for one in given:
        if one.columns is None:
            continue
        seen = {key for part in made if part.file == one.index for key in part.seen}
        if seen and not {name for name in one.columns.model_dump().values() if name is not None} <= seen:
            check_columns(one.columns, sorted(seen), str(one.path))
