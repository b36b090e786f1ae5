"""Title, brand and category of items by the item's id, in a sorted file that is read through a memory map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from lwc.data.bad_rows import refused
from lwc.data.fields import name_of
from lwc.data.json_text import object_of, objects
from lwc.data.paths import locate_all
from lwc.data.rows import Bad, BadValue, Reason

FIELDS = ("item_title", "item_brand", "item_category")


def _described(value: object, file: str, line: int) -> Any:
    """(id, title, brand, category) of a metadata record of the 2014, 2018 or 2023 release."""
    record = object_of(value)
    item = name_of(record.get("parent_asin")) or name_of(record.get("asin"))
    if item is None:
        raise BadValue(Reason.NO_ITEM_ID)
    details = record.get("details")
    brand = name_of(record.get("brand")) or name_of(record.get("store"))
    if brand is None and isinstance(details, dict):
        brand = name_of(details.get("Brand"))
    category = name_of(record.get("main_category")) or name_of(record.get("main_cat"))
    path = record.get("category") or record.get("categories")
    if category is None and isinstance(path, list) and path:
        category = name_of(path[0][0] if isinstance(path[0], list) and path[0] else path[0])
    return item, name_of(record.get("title")), brand, category


def build(paths: Sequence[str], folder: Path) -> dict[str, int]:
    """Write the items of metadata files (JSON lines, plain or gzip) to ``folder``, and bad lines to ``bad.jsonl``.

    An item keeps its first description. Memory: 16 bytes an item.

    Returns:
        How many lines were read, how many items there are, and how many lines were bad.

    Raises:
        DataError: a file is missing, is not text, or has no item at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("item", pa.string()), *((name, pa.string()) for name in FIELDS)])
    hashes: list[np.ndarray[Any, np.dtype[np.uint64]]] = []
    bad = 0
    with pa.ipc.new_file(str(folder / "items.arrow"), schema) as sink, (folder / "bad.jsonl").open("w") as quarantine:
        for batch, lost in _batches(paths):
            keys = (xxhash.xxh3_64_intdigest(str(row[0]).encode()) for row in batch)
            hashes.append(np.fromiter(keys, dtype=np.uint64, count=len(batch)))
            columns = list(zip(*batch, strict=True)) or [()] * len(schema)
            sink.write_batch(pa.record_batch([pa.array(column, pa.string()) for column in columns], schema=schema))
            quarantine.writelines(one.entry() for one in lost)
            bad += len(lost)
    every = np.concatenate(hashes) if hashes else np.zeros(0, dtype=np.uint64)
    order = np.argsort(every, kind="stable")
    np.save(folder / "keys.npy", every[order])
    np.save(folder / "order.npy", order)
    return {"read": len(every) + bad, "items": len(np.unique(every)), "bad": bad}


def _batches(paths: Sequence[str]) -> Iterator[tuple[list[tuple[str | None, ...]], list[Bad]]]:
    rows: list[tuple[str | None, ...]] = []
    bad: list[Bad] = []
    for path in locate_all(paths).values():
        good, first = 0, None
        for found in objects(path, _described, ("asin", "parent_asin")):
            if isinstance(found, Bad):
                bad.append(found)
                first = first or found
            else:
                rows.append(found)
                good += 1
            if len(rows) >= 10_000:
                yield rows, bad
                rows, bad = [], []
        if first is not None and not good:
            raise refused(first, path)
    yield rows, bad


def look_up(folder: Path, items: pa.ChunkedArray) -> list[pa.Array]:
    """Title, brand and category (N,) of items; null for an unknown item."""
    names = items.to_pylist()
    keys = np.load(folder / "keys.npy", mmap_mode="r")
    wanted = np.fromiter(
        (xxhash.xxh3_64_intdigest(name.encode()) if name is not None else 0 for name in names),
        dtype=np.uint64,
        count=len(names),
    )
    if not len(keys):
        return [pa.nulls(len(names), pa.string()) for _ in FIELDS]
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    order = np.load(folder / "order.npy", mmap_mode="r")
    with pa.memory_map(str(folder / "items.arrow")) as source:
        found = pa.ipc.open_file(source).read_all().take(order[place])
        # The id itself decides: two ids may share a hash.
        same = pa.array([a is not None and a == b for a, b in zip(names, found["item"].to_pylist(), strict=True)])
        nothing = pa.scalar(None, pa.string())
        return [pc.if_else(same, found[name], nothing).combine_chunks() for name in FIELDS]
