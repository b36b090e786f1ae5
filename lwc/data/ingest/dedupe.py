"""Duplicates over all parts in bounded memory: the sorted hashes of the parts are merged range by range.

For each row one byte says whether it is kept, or why not; it is the only state that grows, 1 MB a million rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from lwc.core.arrays import Array
from lwc.data.ingest.fingerprints import bands_of, shingles
from lwc.data.ingest.folding import fold_many
from lwc.data.ingest.part import read_part

_Result = TypeVar("_Result")
KEPT, REPEAT, CONFLICT, NEAR = 0, 1, 2, 3
# Hashes merged at a time, 40 bytes each.
_RANGE = 1_000_000
# Of the texts that share a key, so many are compared with all others: a frequent key must not cost its square.
_LEADERS = 8
# Pairs of texts compared at a time.
_COMPARED = 4096


@dataclass(frozen=True)
class Parts:
    """The parts of an ingestion: names in reading order, and the number (P + 1,) of the first row of each."""

    folder: Path
    names: tuple[str, ...]
    starts: Array

    @property
    def rows(self) -> int:
        return int(self.starts[-1])


def _slice(parts: Parts, band: int, low: int, high: int) -> tuple[Array, Array, Array]:
    """Keys, rows and labels with ``low`` ≤ key < ``high``, sorted by key; rows stay in order within a key."""
    keys, rows, labels = [], [], []
    for name, start in zip(parts.names, parts.starts, strict=False):
        run = np.load(f"{parts.folder / name}.keys.npy", mmap_mode="r")[band]
        begin = int(np.searchsorted(run, np.uint64(low)))
        end = len(run) if high >= 1 << 64 else int(np.searchsorted(run, np.uint64(high)))
        if begin == end:
            continue
        keys.append(np.array(run[begin:end]))
        order = np.load(f"{parts.folder / name}.order.npy", mmap_mode="r")[band, begin:end]
        rows.append(order.astype(np.int64) + start)
        if band == 0:
            labels.append(np.array(np.load(f"{parts.folder / name}.labels.npy", mmap_mode="r")[begin:end]))
    if not keys:
        nothing = np.zeros(0, dtype=np.int64)
        return nothing, nothing, nothing
    key, row = np.concatenate(keys), np.concatenate(rows)
    order = np.argsort(key, kind="stable")
    return key[order], row[order], np.concatenate(labels)[order] if labels else row[:0]


def _groups(keys: Array) -> Array:
    """A number (N,) for each of the sorted keys, the same for equal ones."""
    return np.concatenate(([0], np.cumsum(keys[1:] != keys[:-1]))) if len(keys) else keys


def exact(parts: Parts, low: int, high: int) -> tuple[Array, Array]:
    """Rows to drop in a range of hashes, and why: later copies of a text, or all copies if their labels differ."""
    keys, rows, labels = _slice(parts, 0, low, high)
    if not len(keys):
        return rows, np.zeros(0, dtype=np.uint8)
    group = _groups(keys)
    first = np.flatnonzero(np.concatenate(([True], group[1:] != group[:-1])))
    mixed = np.maximum.reduceat(labels, first) != np.minimum.reduceat(labels, first)
    decision = np.full(len(rows), REPEAT, dtype=np.uint8)
    decision[first] = KEPT
    decision[mixed[group]] = CONFLICT
    return rows[decision != KEPT], decision[decision != KEPT]


def near(parts: Parts, band: int, low: int, high: int, decisions: Path, threshold: float) -> Array:
    """Rows in a range of band keys whose word 3-gram Jaccard similarity with an earlier kept row reaches ``threshold``.

    Of the rows that share a key, the first is compared with all others, then the first of the rest, up to eight times.
    """
    keys, rows, _ = _slice(parts, band, low, high)
    if not len(keys):
        return rows
    open_ = np.load(decisions, mmap_mode="r")[rows] == KEPT
    keys, rows = keys[open_], rows[open_]
    found: list[Array] = []
    for _ in range(_LEADERS):
        group = _groups(keys)
        sizes = np.bincount(group) if len(group) else group
        several = sizes[group] > 1 if len(group) else np.zeros(0, dtype=bool)
        if not several.any():
            break
        keys, rows, group = keys[several], rows[several], group[several]
        starts = np.flatnonzero(np.concatenate(([True], group[1:] != group[:-1])))
        leader = np.repeat(rows[starts], np.diff(np.append(starts, len(rows))))
        follows = leader != rows
        keys, rows, leader = keys[follows], rows[follows], leader[follows]
        same = similar(parts, leader, rows, threshold)
        found.append(rows[same])
        keys, rows = keys[~same], rows[~same]
    return np.concatenate(found) if found else rows[:0]


def similar(parts: Parts, one: Array, other: Array, threshold: float) -> Array:
    """Whether (N,) pairs of rows reach a word 3-gram Jaccard similarity of ``threshold``."""
    found = np.zeros(len(one), dtype=bool)
    for begin in range(0, len(one), _COMPARED):
        a, b = one[begin : begin + _COMPARED], other[begin : begin + _COMPARED]
        rows, place = np.unique(np.concatenate([a, b]), return_inverse=True)
        hashes, text = _grams(texts_of(parts, rows))
        sizes = np.bincount(text, minlength=len(rows))
        # The 3-grams of both texts of every pair, sorted by pair; shared ones occur twice.
        starts, counts = (np.cumsum(sizes) - sizes)[place], sizes[place]
        first = np.repeat(starts - (np.cumsum(counts) - counts), counts)
        values = hashes[first + np.arange(len(first))]
        pair = np.repeat(np.tile(np.arange(len(a)), 2), counts)
        order = np.lexsort((values, pair))
        values, pair = values[order], pair[order]
        twice = (values[1:] == values[:-1]) & (pair[1:] == pair[:-1])
        shared = np.bincount(pair[1:][twice], minlength=len(a))
        either = counts[: len(a)] + counts[len(a) :] - shared
        found[begin : begin + len(a)] = shared / np.maximum(either, 1) >= threshold
    return found


def _grams(texts: pa.Array) -> tuple[Array, Array]:
    """Hashes (S,) of the distinct 3-grams of each text, and their texts (S,), sorted by text and hash."""
    folded = fold_many(texts)
    hashes, text = shingles(folded.words, folded.starts)
    order = np.lexsort((hashes, text))
    hashes, text = hashes[order], text[order]
    again = np.append(False, (hashes[1:] == hashes[:-1]) & (text[1:] == text[:-1]))
    return hashes[~again], text[~again]


def texts_of(parts: Parts, rows: Array) -> pa.Array:
    """The texts of rows (N,) in ascending order."""
    found: list[pa.Array] = []
    part = np.searchsorted(parts.starts, rows, side="right") - 1
    for index in np.unique(part):
        mine = rows[part == index] - parts.starts[index]
        found += read_part(parts.folder, parts.names[index])["text"].take(mine).chunks
    return pa.concat_arrays(found)


def _ranges(rows: int) -> Iterator[tuple[int, int]]:
    count = max(1, -(-rows // _RANGE))
    bounds = [(1 << 64) * i // count for i in range(count + 1)]
    yield from itertools.pairwise(bounds)


def decide(parts: Parts, threshold: float, decisions: Path, pool: Executor, progress: Callable[[str], None]) -> Array:
    """Decide for every row (N,) whether it is kept, or why not; also written to ``decisions`` (npy).

    Raises:
        OSError: a part cannot be read.
    """
    found = np.zeros(parts.rows, dtype=np.uint8)
    ranges = list(_ranges(parts.rows))
    for rows, why in _in_turn(pool, exact, [(parts, *bounds) for bounds in ranges]):
        found[rows] = why
    np.save(decisions, found)
    bands = bands_of(threshold) if threshold < 1 else 0
    for band in range(1, bands + 1):
        progress(f"near duplicates, band {band} of {bands}")
        for rows in _in_turn(pool, near, [(parts, band, *bounds, decisions, threshold) for bounds in ranges]):
            found[rows] = NEAR
        # The next band skips the rows that this one dropped.
        np.save(decisions, found)
    return found


def _in_turn(
    pool: Executor, function: Callable[..., _Result], calls: Sequence[tuple[object, ...]]
) -> Iterable[_Result]:
    return pool.map(function, *zip(*calls, strict=True))
