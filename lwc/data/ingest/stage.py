"""The data stage of a large source: ingest it, then write the split files that other stages read."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lwc.core.arrays import Array
from lwc.core.spelling import likeness
from lwc.core.store import read_json, write_json
from lwc.data.ingest.run import ingest
from lwc.data.prepare import TEST_RAW, check_calibration, check_splits, stratified, takes_title
from lwc.data.quality import balance
from lwc.data.splits import NAMES
from lwc.recipe import Data

_COLUMNS = ["id", "text", "label", "user", "item", "time"]


def prepare_large(
    data: Data,
    seed: int,
    out: Path,
    scratch: Path,
    progress: Callable[[str], None],
    workers: int | None = None,
    head: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write what `lwc.data.prepare.prepare` writes, by way of shards in ``scratch``, which survive a kill.

    Memory: 16 bytes a row. Stages that train load all texts, so a large source needs ``data.limit``, a random sample of
    the kept rows.

    Raises:
        DataError: as `ingest`, or a split or class has no rows.
    """
    shards = scratch / "shards"
    quality = ingest(data, seed, shards, workers, progress)
    names = [str(name) for name in read_json(shards / "labels.json")]
    progress("writing the splits")
    chosen = _chosen(shards, data.limit, seed)
    labels = {name: _write(_tables(shards, name, chosen), out / f"{name}.parquet") for name in NAMES}
    sent = {"id": "id", "raw": "text", **({"title": "title"} if takes_title(data.text_fields) else {})}
    raw = pa.concat_tables(_tables(shards, "test", chosen, list(sent))).filter(pc.field("raw").is_valid())
    pq.write_table(raw.rename_columns(list(sent.values())), out / TEST_RAW)
    every = np.concatenate([labels[name] for name in NAMES])
    bounds = np.cumsum([0, *(len(labels[name]) for name in NAMES)])
    members = {name: np.arange(bounds[i], bounds[i + 1]) for i, name in enumerate(NAMES)}
    check_splits(members, every, names, quality["largest_user"])
    check_calibration(data.calibration, every[members["train"]])
    picked = stratified(members["train"], every, data.calibration, seed)
    _write(_rows(out / "train.parquet", picked), out / "calibration.parquet")
    labels["calibration"] = every[picked]
    for name, found in labels.items():
        quality["splits"][name] = balance(np.bincount(found, minlength=len(names)), names)
    quality["rows_used"] = len(every)
    quality["head"] = list(head or ())
    named = {likeness(one) for one in quality["head"]}
    quality["label_map_unused"] = [one for one in quality["label_map_unused"] if likeness(one) not in named]
    quality.pop("seconds")
    write_json(out / "quality.json", quality)
    for name in ("labels.json", "source.json", "quarantine.jsonl"):
        shutil.copyfile(shards / name, out / name)
    return quality


def _chosen(shards: Path, limit: int | None, seed: int) -> Array | None:
    """The sorted ids of the rows that a limit keeps; None if it keeps all."""
    if limit is None:
        return None
    ids = [pq.read_table(path, columns=["id"])["id"].to_numpy() for name in NAMES for path in _files(shards, name)]
    every = np.sort(np.concatenate(ids))
    if limit >= len(every):
        return None
    return np.sort(np.random.default_rng(seed).choice(every, limit, replace=False))


def _files(shards: Path, split: str) -> list[Path]:
    return sorted((shards / split).glob("*.parquet"))


def _tables(shards: Path, split: str, chosen: Array | None, columns: Sequence[str] = _COLUMNS) -> Iterator[pa.Table]:
    for path in _files(shards, split):
        table = pq.read_table(path, columns=list(columns))
        if chosen is None:
            yield table
        else:
            ids = table["id"].to_numpy()
            place = np.minimum(np.searchsorted(chosen, ids), len(chosen) - 1)
            yield table.filter(pa.array(chosen[place] == ids))


def _rows(path: Path, rows: Array) -> Iterator[pa.Table]:
    """The rows of a Parquet file with these sorted numbers (N,)."""
    start = 0
    for batch in pq.ParquetFile(path).iter_batches():
        mine = rows[(rows >= start) & (rows < start + len(batch))] - start
        start += len(batch)
        yield pa.Table.from_batches([batch]).take(mine)


def _write(tables: Iterator[pa.Table], path: Path) -> Array:
    """Write tables to one file, each as a row group; returns their labels (N,)."""
    labels = []
    first = next(tables)
    with pq.ParquetWriter(path, first.schema) as writer:
        for table in itertools.chain([first], tables):
            if len(table):
                writer.write_table(table)
                labels.append(table["label"].to_numpy().astype(np.int64))
    return np.concatenate(labels) if labels else np.zeros(0, dtype=np.int64)
