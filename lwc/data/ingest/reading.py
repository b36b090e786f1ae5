"""The first pass: several files at once are cut into blocks, and worker processes make a part of each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lwc.data.ingest import part as part_file
from lwc.data.ingest.blocks import Input, blocks
from lwc.data.ingest.part import make_part
from lwc.data.ingest.progress import Meter
from lwc.data.sources.table import check_columns
from lwc.recipe import Data, Ingest


def read_all(
    given: Sequence[Input], data: Data, settings: Ingest, folder: Path, pool: Executor, workers: int,
    say: Callable[[str], None], needed: Collection[str] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Make the parts of all inputs, or those ``needed``; their summaries in reading order.

    Parts that are there and whole are taken as they are: the file is decompressed again, but not parsed. At most
    ``workers`` + 2 blocks are in memory, beside one for each file that is open.

    Raises:
        DataError: a source that cannot be read, or lacks a column.
    """
    wanted = [one for one in given if needed is None or any(part.startswith(f"{one.index:04d}-") for part in needed)]
    meter = Meter("read", sum(one.path.stat().st_size for one in wanted if one.path is not None), say)
    slots = threading.BoundedSemaphore(workers + 2)
    stop = threading.Event()

    def done(future: Future[dict[str, Any]]) -> None:
        slots.release()
        if future.cancelled() or future.exception() is not None:
            stop.set()
        else:
            meter.counted(future.result()["read"])

    def read(one: Input) -> list[dict[str, Any] | Future[dict[str, Any]]]:
        found: list[dict[str, Any] | Future[dict[str, Any]]] = []
        for block in blocks(one, settings.shard_mib << 20, meter.took):
            if stop.is_set():
                break
            if needed is not None and block.part not in needed:
                continue
            there = part_file.whole(folder, block.part)
            if there is not None:
                meter.counted(there["read"])
                found.append(there)
                continue
            slots.acquire()
            future = pool.submit(make_part, block, data, one.columns, folder)
            future.add_done_callback(done)
            found.append(future)
        return found

    def tried(one: Input) -> list[dict[str, Any] | Future[dict[str, Any]]]:
        try:
            return read(one)
        except BaseException:
            stop.set()  # the other files need not be read to their ends
            raise

    with ThreadPoolExecutor(settings.files_at_once) as readers:
        try:
            files = list(readers.map(tried, wanted))
        except BaseException:
            stop.set()
            raise
    summaries = [one.result() if isinstance(one, Future) else one for found in files for one in found]
    if needed is None:
        _check_columns(given, summaries)
    return summaries


def _check_columns(given: Sequence[Input], summaries: Sequence[dict[str, Any]]) -> None:
    """A key of the column map may lack in some lines of a JSON table, not in all (as `read_json_lines` has it)."""
    for one in given:
        if one.columns is None:
            continue
        seen = {key for summary in summaries if summary["file"] == one.index for key in summary["seen"]}
        if seen and not {name for name in one.columns.model_dump().values() if name is not None} <= seen:
            check_columns(one.columns, sorted(seen), str(one.path))
