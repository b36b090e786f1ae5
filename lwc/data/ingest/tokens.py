"""Token ids of shards on disk, memory-mapped: training reads rows as arrays without holding the texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lwc.core.arrays import Array
from lwc.core.errors import DataError
from lwc.core.store import file_digest, read_json, write_json
from lwc.data.ingest.progress import Meter
from lwc.data.splits import NAMES

FOLDER = "tokens"
_AT_ONCE = 1000
_SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("label", pa.int64()), ("id", pa.int64())])


def tokenizer_file(given: Path) -> Path:
    """The ``tokenizer.json`` that a path is, or that a model's folder holds.

    Raises:
        DataError: there is none.
    """
    path = given / "tokenizer.json" if given.is_dir() else given
    if not path.is_file():
        raise DataError(f"{path}: no such tokenizer", "name a tokenizer.json, or a folder that holds one")
    return path


def tokenize(folder: Path, tokenizer: Path, max_length: int, pool: Executor, say: Callable[[str], None]) -> int:
    """Write the token ids of all shards of an ingestion to ``folder``/tokens/<split>/<part>.arrow; how many rows.

    Each row is cut to ``max_length`` tokens, special ones included, and not padded. Shards that are there, whole and
    of this tokenizer and length stay.

    Raises:
        DataError: ``folder`` holds no finished ingestion, or there is no tokenizer.
    """
    if not (folder / "manifest.json").is_file():
        raise DataError(f"{folder}: no finished ingestion", "run `lwc data ingest` first")
    path = tokenizer_file(tokenizer)
    identity = {"tokenizer": file_digest(path), "max_length": max_length}
    shards = [shard for name in NAMES for shard in sorted((folder / name).glob("*.parquet"))]
    meter = Meter("tokenized", len(shards), say)
    rows = 0
    for count in pool.map(_shard, shards, [path] * len(shards), [identity] * len(shards)):
        meter.took(1)
        meter.counted(count)
        rows += count
    write_json(folder / FOLDER / "tokens.json", {**identity, "rows": rows})
    return rows


def _shard(shard: Path, tokenizer: Path, identity: dict[str, Any]) -> int:
    from tokenizers import Tokenizer

    target = shard.parent.parent / FOLDER / shard.parent.name / f"{shard.stem}.arrow"
    seal = target.with_suffix(".json")
    mine = {**identity, "shard": file_digest(shard)}
    try:
        found = json.loads(seal.read_text(encoding="utf-8"))
        if found["of"] == mine and found["sha256"] == file_digest(target):
            return int(found["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing or damaged: made again below
    target.parent.mkdir(parents=True, exist_ok=True)
    encoder = Tokenizer.from_file(str(tokenizer))
    encoder.no_padding()
    encoder.enable_truncation(identity["max_length"])
    temporary, rows = target.with_suffix(".tmp"), 0
    with pa.ipc.new_file(str(temporary), _SCHEMA) as sink:
        for batch in pq.ParquetFile(shard).iter_batches(_AT_ONCE, columns=["text", "label", "id"]):
            ids = [one.ids for one in encoder.encode_batch(batch["text"].to_pylist())]
            columns = [pa.array(ids, _SCHEMA.field("input_ids").type), batch["label"], batch["id"]]
            sink.write_batch(pa.record_batch(columns, schema=_SCHEMA))
            rows += len(ids)
    temporary.replace(target)
    write_json(seal, {"of": mine, "sha256": file_digest(target), "rows": rows})
    return rows


@dataclass(frozen=True)
class TokenShards:
    """Rows of a split as token ids, read through memory maps: what is not looked at takes no memory."""

    batches: Sequence[pa.RecordBatch]
    starts: Array

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> tuple[Array, int]:
        """(token ids (T,), int32, label id) of a row."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = int(np.searchsorted(self.starts, index, side="right")) - 1
        batch, row = self.batches[which], index - int(self.starts[which])
        ids: Array = batch["input_ids"][row].values.to_numpy()
        return ids, batch["label"][row].as_py()


def load_tokens(folder: Path, split: str) -> TokenShards:
    """Open ``train``, ``validation`` or ``test`` of an ingestion that was tokenized.

    Raises:
        LwcError: it was not.
    """
    read_json(folder / FOLDER / "tokens.json")
    batches: list[pa.RecordBatch] = []
    for path in sorted((folder / FOLDER / split).glob("*.arrow")):
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batches += [reader.get_batch(index) for index in range(reader.num_record_batches)]
    starts = np.concatenate(([0], np.cumsum([len(batch) for batch in batches]))).astype(np.int64)
    return TokenShards(batches, starts)
