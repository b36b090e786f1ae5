"""One block of a source, read and cleaned, as a part on disk: rows, sorted runs of hashes, quarantine, summary."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from lwc.arrays import Array
from lwc.artifacts import file_digest, write_json
from lwc.data.cleaning import clean
from lwc.data.ingest.blocks import Block
from lwc.data.ingest.fingerprints import band_keys, bands_of, signatures
from lwc.data.ingest.folding import fold_many
from lwc.data.ingest.parse import rows_of
from lwc.data.ingest.sketches import HyperLogLog, diversity, languages, lengths, months
from lwc.data.prepare import label_name
from lwc.data.rows import Bad, Row
from lwc.recipe import Columns, Data

_AT_ONCE = 2048
_WORD = re.compile(r"\w")
SUFFIXES = ("rows.arrow", "keys.npy", "order.npy", "labels.npy", "bad.jsonl")
SCHEMA = pa.schema(
    {
        "text": pa.string(), "label": pa.dictionary(pa.int32(), pa.string()), "user": pa.string(),
        "item": pa.string(), "time": pa.int64(), "line": pa.int64(), "key": pa.uint64(),
    }
)  # fmt: skip


@dataclass
class _Kept:
    """Rows of a part, column by column."""

    text: list[str] = field(default_factory=list)
    label: list[str] = field(default_factory=list)
    user: list[str | None] = field(default_factory=list)
    item: list[str | None] = field(default_factory=list)
    time: list[int | None] = field(default_factory=list)
    line: list[int] = field(default_factory=list)


class _Summary:
    """Counts and sketches of the rows of a part."""

    def __init__(self) -> None:
        self.users, self.items, self.words = HyperLogLog(), HyperLogLog(), HyperLogLog()
        self.languages: Counter[str] = Counter()
        self.lengths = np.zeros(0, dtype=np.int64)
        self.running: list[Array] = []
        self.held = 0

    def add(self, words: Array, starts: Array) -> None:
        self.words.add(words)
        self.languages += languages(words, starts)
        counted = lengths(starts)
        self.lengths = counted if not len(self.lengths) else self.lengths + counted
        if self.held < 100_000:
            self.running.append(words)
            self.held += len(words)

    def as_json(self, kept: _Kept) -> dict[str, Any]:
        self.users.add(_hashes(kept.user))
        self.items.add(_hashes(kept.item))
        distinct, windows = diversity(np.concatenate(self.running)) if self.running else (0, 0)
        return {
            "labels": dict(Counter(kept.label)),
            "without_user": kept.user.count(None),
            "without_item": kept.item.count(None),
            "without_time": kept.time.count(None),
            "months": months(kept.time, kept.label),
            "languages": dict(self.languages),
            "lengths": np.trim_zeros(self.lengths, "b").tolist(),
            "diversity": {"distinct": distinct, "windows": windows},
            "sketches": {"users": self.users.text(), "items": self.items.text(), "words": self.words.text()},
        }


def _hashes(names: list[str | None]) -> Array:
    distinct = {name for name in names if name is not None}
    return np.fromiter(
        (xxhash.xxh3_64_intdigest(name.encode()) for name in distinct), dtype=np.uint64, count=len(distinct)
    )


def make_part(block: Block, data: Data, columns: Columns | None, folder: Path) -> dict[str, Any]:
    """Read, clean and label a block; write its part to ``folder``, its summary last; the summary.

    Raises:
        DataError: the source has no stars, or no label column.
    """
    kept, summary, seen = _Kept(), _Summary(), set[str]()
    keys: list[Array] = []
    near: list[Array] = []
    bad: list[Bad] = []
    read = left_out = 0
    names: dict[float | None, str | None] = {}
    bands = bands_of(data.near_duplicate_threshold)
    fields = data.text_fields
    waiting = _Kept()

    def flush() -> None:
        nonlocal waiting
        if waiting.text:
            folded = fold_many(waiting.text)
            keys.append(folded.keys)
            if data.near_duplicate_threshold < 1:
                near.append(band_keys(signatures(folded.words, folded.starts), bands))
            summary.add(folded.words, folded.starts)
            for name, column in kept.__dict__.items():
                column.extend(getattr(waiting, name))
            waiting = _Kept()

    for item in rows_of(block, columns, seen):
        read += 1
        if isinstance(item, Bad):
            bad.append(item)
            continue
        text = clean("\n".join(part for part in (getattr(item, name) for name in fields) if part))
        if not _WORD.search(text):
            bad.append(Bad(item.file, item.line, "no letters or digits" if text else "empty text", text[:120]))
            continue
        name = _label(item, data.labels.scheme, names)
        if name is None:
            left_out += 1
            continue
        waiting.text.append(text)
        waiting.label.append(name)
        waiting.user.append(item.user)
        waiting.item.append(item.item)
        waiting.time.append(item.time)
        waiting.line.append(item.line)
        if len(waiting.text) >= _AT_ONCE:
            flush()
    flush()
    found = {
        "part": block.part, "file": block.file, "number": block.number, "name": block.name, "read": read,
        "rows": len(kept.text), "left_out": left_out, "seen": sorted(seen),
        "bad": dict(Counter(one.reason.split(":")[0].split("(")[0].strip() for one in bad)),
        **summary.as_json(kept),
    }  # fmt: skip
    _write(folder / block.part, kept, keys, near, bad)
    found["files"] = {suffix: file_digest(folder / f"{block.part}.{suffix}") for suffix in SUFFIXES}
    write_json(folder / f"{block.part}.json", found)
    return found


def _label(row: Row, scheme: str, names: dict[float | None, str | None]) -> str | None:
    if scheme == "column":
        return label_name(row, scheme)
    if row.rating not in names:
        names[row.rating] = label_name(row, scheme)
    return names[row.rating]


def _write(stem: Path, kept: _Kept, keys: list[Array], near: list[Array], bad: list[Bad]) -> None:
    key = np.concatenate(keys) if keys else np.zeros(0, dtype=np.uint64)
    every = np.vstack([key[None], *([np.concatenate(near, axis=1)] if near else [])])
    # Runs sorted by hash, so that a range of hashes is one slice of each; rows in order within a hash.
    order = np.argsort(every, axis=1, kind="stable")
    labels = np.fromiter(
        (xxhash.xxh32_intdigest(one.encode()) for one in kept.label), dtype=np.uint32, count=len(kept.label)
    )
    np.save(_at(stem, "keys.npy"), np.take_along_axis(every, order, axis=1))
    np.save(_at(stem, "order.npy"), order.astype(np.uint32))
    np.save(_at(stem, "labels.npy"), labels[order[0]])
    columns = {**kept.__dict__, "key": key}
    table = pa.table({name: pa.array(columns[name]).cast(SCHEMA.field(name).type) if name != "label"
                      else pa.array(kept.label, pa.string()).dictionary_encode() for name in SCHEMA.names},
                     schema=SCHEMA)  # fmt: skip
    with pa.ipc.new_file(_at(stem, "rows.arrow"), SCHEMA) as sink:
        sink.write_table(table.combine_chunks())
    with Path(_at(stem, "bad.jsonl")).open("w", encoding="utf-8") as file:
        for one in sorted(bad, key=lambda one: one.line):
            file.write(json.dumps(one.__dict__, ensure_ascii=True) + "\n")


def _at(stem: Path, suffix: str) -> str:
    return f"{stem}.{suffix}"


def state_bytes(threshold: float) -> dict[str, int]:
    """Bytes that telling duplicates apart takes for a million rows, on disk until the end and in memory.

    The split by user or at random keeps nothing at all.
    """
    runs = 1 + (bands_of(threshold) if threshold < 1 else 0)
    return {"disk": 1_000_000 * (runs * (8 + 4) + 4 + 1), "memory": 1_000_000, "split": 0}


def read_part(folder: Path, part: str) -> pa.Table:
    """Rows of a part, memory-mapped."""
    with pa.memory_map(f"{folder / part}.rows.arrow") as source:
        return pa.ipc.open_file(source).read_all()


def whole(folder: Path, part: str) -> dict[str, Any] | None:
    """The summary of a part whose files are all what they were when written; None for any other."""
    try:
        found: dict[str, Any] = json.loads((folder / f"{part}.json").read_text(encoding="utf-8"))
        digests = {suffix: file_digest(folder / f"{part}.{suffix}") for suffix in SUFFIXES}
    except (OSError, ValueError):
        return None  # missing or damaged: to be made again
    return found if found.get("files") == digests else None
