"""One block of a source, read and cleaned, as a part on disk: rows, sorted hashes, quarantine, summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from lwc.core.arrays import Array
from lwc.data.cleaning import MAX_CHARACTERS
from lwc.data.duplicates import fold
from lwc.data.ingest.blocks import Block
from lwc.data.ingest.fingerprints import band_keys, bands_of, signatures
from lwc.data.ingest.folding import fold_many, hash_names
from lwc.data.ingest.parse import Piece, pieces
from lwc.data.ingest.seal import seal
from lwc.data.ingest.sketches import HyperLogLog, diversity, languages, lengths, months
from lwc.data.ingest.strings import clean_many
from lwc.data.labels import label_name, label_value
from lwc.data.prepare import takes_title
from lwc.data.rows import Bad, Reason, Row, excerpt
from lwc.recipe import Columns, Data, Labels

SUFFIXES = ("rows.arrow", "keys.npy", "order.npy", "labels.npy", "bad.jsonl")
SCHEMA = pa.schema(
    {
        "text": pa.string(), "raw": pa.string(), "title": pa.string(),
        "label": pa.dictionary(pa.int32(), pa.string()), "user": pa.string(), "item": pa.string(),
        "time": pa.int64(), "line": pa.int64(), "key": pa.uint64(),
    }
)  # fmt: skip
_IN_PIECES = SCHEMA.set(SCHEMA.get_field_index("label"), pa.field("label", pa.string()))


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

    def as_json(self, table: pa.Table) -> dict[str, Any]:
        """The summary of a part with these rows, whose columns are in one chunk."""
        label, user, item, time = (table[name].combine_chunks() for name in ("label", "user", "item", "time"))
        self.users.add(hash_names(user))
        self.items.add(hash_names(item))
        distinct, windows = diversity(np.concatenate(self.running)) if self.running else (0, 0)
        names = label.dictionary.to_pylist()
        labels = np.bincount(label.indices.to_numpy(), minlength=len(names)).tolist()
        return {
            "labels": dict(zip(names, labels, strict=True)),
            "without_user": user.null_count,
            "without_item": item.null_count,
            "without_time": time.null_count,
            "months": months(time, label),
            "languages": dict(self.languages),
            "lengths": np.trim_zeros(self.lengths, "b").tolist(),
            "diversity": {"distinct": distinct, "windows": windows},
            "sketches": {"users": self.users.text(), "items": self.items.text(), "words": self.words.text()},
        }


def make_part(block: Block, data: Data, columns: Columns | None, folder: Path) -> dict[str, Any]:
    """Read, clean and label a block, and write its part to ``folder``, the summary last.

    Returns:
        The summary.

    Raises:
        DataError: the source has no stars, or no label column.
    """
    summary, seen = _Summary(), set[str]()
    bands = bands_of(data.near_duplicate_threshold) if data.near_duplicate_threshold < 1 else 0
    kept = [_IN_PIECES.empty_table()]
    near: list[Array] = [np.zeros((bands, 0), dtype=np.uint64)]
    bad: list[Bad] = []
    read = left_out = 0
    values: Counter[str] = Counter()
    for piece in pieces(block, columns, seen):
        read += len(piece) + sum(one.rows for one in piece.bad)
        bad += piece.bad
        raw = _text(piece, data.text_fields)
        text, (label, value) = clean_many(raw), _labels(piece, data.labels)
        good = label.is_valid().to_numpy(zero_copy_only=False)
        long = pc.greater(pc.utf8_length(raw), MAX_CHARACTERS).to_numpy(zero_copy_only=False)
        good &= ~long
        folded = fold_many(text.filter(pa.array(good)))
        worded = np.diff(folded.starts) > 0
        good[good] = worded
        counted = good.copy()
        for row in np.flatnonzero(~good).tolist():
            found = text[row].as_py()
            if long[row]:
                bad.append(Bad(piece.file[row].as_py(), piece.line[row].as_py(), Reason.TOO_LONG, excerpt(found)))
            elif fold(found):
                left_out += 1
                counted[row] = True
            else:
                reason = Reason.NO_WORDS if found else Reason.EMPTY_TEXT
                bad.append(Bad(piece.file[row].as_py(), piece.line[row].as_py(), reason, excerpt(found)))
        for one in pc.value_counts(value.filter(pa.array(counted))).to_pylist():
            if one["values"] is not None:
                values[one["values"]] += one["counts"]
        key, starts = folded.keys[worded], np.append(folded.starts[:-1][worded], folded.starts[-1])
        none = pa.scalar(None, pa.string())
        # Only what cleaning changed: most texts would be kept twice.
        sent, title = pc.if_else(pc.equal(raw, text), none, raw), pa.array([None] * len(raw), pa.string())
        if takes_title(data.text_fields):
            sent, title = piece.body, piece.title
        named = {"text": text, "raw": sent, "title": title, "label": label, "user": piece.user, "item": piece.item,
                 "time": piece.time, "line": piece.line}  # fmt: skip
        table = pa.table(named).filter(pa.array(good)).append_column("key", pa.array(key))
        kept.append(table.cast(_IN_PIECES))
        if len(key):
            empty = np.zeros((0, len(key)), dtype=np.uint64)
            near.append(band_keys(signatures(folded.words, starts), bands) if bands else empty)
            summary.add(folded.words, starts)
    table = pa.concat_tables(kept)
    label = table["label"].combine_chunks().dictionary_encode()
    table = table.set_column(table.column_names.index("label"), "label", label).combine_chunks()
    account = {
        "part": block.part, "file": block.file, "number": block.number, "name": block.name, "read": read,
        "rows": len(table), "left_out": left_out, "seen": sorted(seen),
        "values": dict(values), "bad": _counted(bad),
        **summary.as_json(table),
    }  # fmt: skip
    _write(folder / block.part, table, near, bad)
    return seal(folder / f"{block.part}.json", folder, (f"{block.part}.{suffix}" for suffix in SUFFIXES), account)


def _counted(bad: Sequence[Bad]) -> dict[str, int]:
    """Rows that are bad or lost, by reason."""
    found = Counter[str]()
    for one in bad:
        found[one.reason.value] += one.rows
    return dict(found)


def _text(piece: Piece, fields: Sequence[str]) -> pa.Array:
    """The fields one below the other; cleaning removes the line end of an empty one."""
    found = [getattr(piece, name) for name in fields]
    return found[0] if len(found) == 1 else pc.binary_join_element_wise(*found, "\n")


def _labels(piece: Piece, labels: Labels) -> tuple[pa.Array, pa.Array]:
    """Class names (N,), null for rows that the scheme leaves out, and the values (N,) that they are made from."""
    field = "label" if labels.scheme == "column" else "rating"
    found = getattr(piece, field).dictionary_encode(null_encoding="encode")
    file = piece.file[0].as_py() if len(piece) else ""
    rows = [Row(file, 0, **{field: value}) for value in found.dictionary.to_pylist()]
    names = [label_name(row, labels) for row in rows]
    values = [None if labels.scheme == "none" else label_value(row, labels) for row in rows]
    return pa.array(names, pa.string()).take(found.indices), pa.array(values, pa.string()).take(found.indices)


def _write(stem: Path, table: pa.Table, near: list[Array], bad: list[Bad]) -> None:
    key = table["key"].to_numpy()
    every = np.vstack([key[None], np.concatenate(near, axis=1)])
    # Sorted by hash, so that a range of hashes is one slice of each run; rows stay in order within a hash.
    order = np.argsort(every, axis=1, kind="stable")
    label = table["label"].combine_chunks()
    names = [xxhash.xxh32_intdigest(name.encode()) for name in label.dictionary.to_pylist()]
    labels = np.array(names, dtype=np.uint32)[label.indices.to_numpy()]
    np.save(f"{stem}.keys.npy", np.take_along_axis(every, order, axis=1))
    np.save(f"{stem}.order.npy", order.astype(np.uint32))
    np.save(f"{stem}.labels.npy", labels[order[0]])
    with pa.ipc.new_file(f"{stem}.rows.arrow", SCHEMA) as sink:
        sink.write_table(table.cast(SCHEMA))
    with Path(f"{stem}.bad.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(one.entry() for one in sorted(bad, key=lambda one: one.line))


def state_bytes(threshold: float) -> dict[str, int]:
    """Bytes per million rows that finding duplicates needs, on disk until the end and in memory.

    A split by user or at random needs no state.
    """
    runs = 1 + (bands_of(threshold) if threshold < 1 else 0)
    return {"disk": 1_000_000 * (runs * (8 + 4) + 4 + 1), "memory": 1_000_000, "split": 0}


def read_part(folder: Path, part: str) -> pa.Table:
    """Rows of a part, memory-mapped."""
    with pa.memory_map(f"{folder / part}.rows.arrow") as source:
        return pa.ipc.open_file(source).read_all()
