"""From parts to shards: the kept rows of each split as Parquet, and the rule that assigns a row to a split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lwc.core.arrays import Array
from lwc.core.store import write_whole
from lwc.data.ingest.dedupe import KEPT, Parts
from lwc.data.ingest.folding import mix
from lwc.data.ingest.metadata import FIELDS, look_up
from lwc.data.ingest.part import read_part
from lwc.data.ingest.seal import seal
from lwc.data.splits import NAMES, positions_of
from lwc.recipe import Split

_DAY = 86_400
# Columns whose values repeat within a shard, and those whose minimum and maximum are useful.
_REPEATED = ["label", "item", "file", *FIELDS]
_SORTED = ["id", "time", "file", "line"]


@dataclass(frozen=True)
class Rule:
    """How rows are split: train ends at ``first`` and validation at ``second``, in time at ``early`` and ``late``."""

    kind: str
    first: float
    second: float
    seed: int
    early: int = 0
    late: int = 0


def rule_of(settings: Split, kind: str, seed: int, parts: Parts, decisions: Array) -> Rule:
    """The rule of a split. By user and at random it needs no other rows; by time, two moments from two scans."""
    first, second = 1 - settings.validation - settings.test, 1 - settings.test
    if kind != "time":
        return Rule(kind, first, second, seed)
    early, late = moments(parts, decisions, (first, second))
    return Rule(kind, first, second, seed, early, late)


def moments(parts: Parts, decisions: Array, shares: Sequence[float]) -> list[int]:
    """For each share, the first moment before which that share of kept rows lies; equal moments stay together."""
    days: Counter[int] = Counter()
    for times in _times(parts, decisions):
        days.update(dict(zip(*(a.tolist() for a in np.unique(times // _DAY, return_counts=True)), strict=True)))
    ordered = sorted(days)
    before = np.concatenate(([0], np.cumsum([days[day] for day in ordered])))
    found = []
    for share in shares:
        wanted = share * before[-1]
        place = int(np.flatnonzero(before[:-1] < wanted)[-1])
        day = ordered[place]
        times = np.sort(np.concatenate([t[t // _DAY == day] for t in _times(parts, decisions)]))
        older = before[place] + np.searchsorted(times, times, side="left")
        past = times[older >= wanted]
        found.append(int(past[0]) if len(past) else (day + 1) * _DAY)
    return found


def _times(parts: Parts, decisions: Array) -> Iterable[Array]:
    for name, start, end in zip(parts.names, parts.starts[:-1], parts.starts[1:], strict=True):
        times = read_part(parts.folder, name)["time"].to_numpy()
        yield times[decisions[start:end] == KEPT].astype(np.int64)


def assign(rule: Rule, table: pa.Table) -> Array:
    """Split (N,) of rows: 0 train, 1 validation, 2 test."""
    if rule.kind == "time":
        times = table["time"].to_numpy()
        return np.where(times < rule.early, 0, np.where(times < rule.late, 1, 2))
    if rule.kind == "user":
        owners = table["user"].combine_chunks()
        if owners.null_count:  # as `lwc.data.splits.owner`
            owners = pc.coalesce(owners, pc.binary_join_element_wise("\0", table["text"].combine_chunks(), ""))
        users = owners.dictionary_encode()
        places = positions_of(rule.seed, users.dictionary.to_pylist())
        positions = places[users.indices.to_numpy()] if len(users) else places
    else:
        salt = mix(np.array([rule.seed], dtype=np.uint64))
        positions = mix(table["key"].to_numpy() ^ salt) / 2.0**64
    return np.where(positions < rule.first, 0, np.where(positions < rule.second, 1, 2))


def summary(out: Path, part: str) -> Path:
    """Where a shard's summary is."""
    return out / "shards" / f"{part}.json"


def write_shard(
    parts: Parts, index: int, decisions: Path, rule: Rule, names: Sequence[str], metadata: Path | None, out: Path
) -> dict[str, Any]:
    """Write the kept rows of a part to ``out``/<split>/<part>.parquet, then their summary.

    Returns:
        The summary.
    """
    part, start = parts.names[index], int(parts.starts[index])
    table = read_part(parts.folder, part)
    why = np.array(np.load(decisions, mmap_mode="r")[start : start + len(table)])
    kept = np.flatnonzero(why == KEPT)
    # The text replaces a missing user.
    wanted = ["user", "time", "key", *(["text"] if table["user"].null_count else [])]
    of_kept = table.select(wanted).take(kept)
    split = assign(rule, of_kept)
    found: dict[str, Any] = {"part": part, "start": start, "rows": {}, "labels": {}}
    found["without_user"], found["without_time"] = of_kept["user"].null_count, of_kept["time"].null_count
    users = pc.value_counts(of_kept["user"].drop_null())
    many = users.filter(pc.greater_equal(pc.struct_field(users, "counts"), max(1, len(of_kept) // 100)))
    found["users"] = {one["values"]: one["counts"] for one in many.to_pylist()}
    files = {name: f"{name}/{part}.parquet" for name in NAMES}
    for number, name in enumerate(NAMES):
        rows = _columns(table, kept[split == number], start, int(part[:4]), names, metadata)
        if name != "test":  # verification sends test texts as the source has them
            rows = rows.drop_columns(["raw", "title"])
        write = partial(pq.write_table, rows, compression="zstd", use_dictionary=_REPEATED, write_statistics=_SORTED)
        write_whole(out / files[name], write, sync=False)
        counts = np.bincount(rows["label"].to_numpy(), minlength=len(names)).tolist()
        found["rows"][name], found["labels"][name] = len(rows), dict(zip(names, counts, strict=True))
    return seal(summary(out, part), out, files.values(), found)


def _columns(
    table: pa.Table, rows: Array, start: int, file: int, names: Sequence[str], metadata: Path | None
) -> pa.Table:
    """The columns of a shard for some rows (N,) of a part."""
    table = table.take(pa.array(rows))
    label = table["label"].cast(pa.string())
    columns = {
        "id": pa.array(rows + start, pa.int64()), "text": table["text"], "raw": table["raw"],
        "title": table["title"], "label": pc.index_in(label, value_set=pa.array(names, pa.string())).cast(pa.int64()),
        "user": table["user"], "item": table["item"], "time": table["time"],
        "file": pa.array(np.full(len(rows), file), pa.int32()), "line": table["line"],
    }  # fmt: skip
    if metadata is not None:
        columns.update(zip(FIELDS, look_up(metadata, table["item"]), strict=True))
    return pa.table(columns)


def sample(out: Path, split: str, most: int) -> tuple[list[str], Array]:
    """At most ``most`` texts of a split, evenly spaced over up to twenty of its shards, and their label ids (N,)."""
    files = sorted((out / split).glob("*.parquet"))
    tables = [pq.read_table(path, columns=["text", "label"]) for path in files[:: -(-len(files) // 20) or 1]]
    table = pa.concat_tables(tables)
    rows = np.arange(min(most, len(table))) * len(table) // max(1, min(most, len(table)))
    chosen = table.take(pa.array(rows))
    return chosen["text"].to_pylist(), chosen["label"].to_numpy()
