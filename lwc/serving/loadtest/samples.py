"""Files with the questions that a load test sends, their labels and the offline answers where they are known."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lwc.core.errors import DataError
from lwc.tasks.endpoint import Sample, Wire


def read_samples(path: Path, wire: Wire) -> list[Sample]:
    """Read what ``wire`` sends and compares from ``.parquet``, ``.jsonl`` or ``.csv``.

    Raises:
        DataError: no such file, no rows, a missing column, or a row that cannot be sent.
    """
    if not path.is_file():
        raise DataError(f"no samples file at {path}", "give a .parquet, .jsonl or .csv file with id, text and label")
    rows: Iterable[Mapping[str, Any]]
    if path.suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
    elif path.suffix == ".jsonl":
        rows = list(_json_lines(path))
    elif path.suffix == ".csv":
        # As text, so that a review saying "NA" or "1" stays what it is; no offline value is an empty field.
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [{**row, "offline": row.get("offline") or None} for row in csv.DictReader(file)]
    else:
        raise DataError(f"{path}: samples are .parquet, .jsonl or .csv, not {path.suffix!r}")
    samples: list[Sample] = []
    for number, row in enumerate(rows, 1):
        try:
            samples.append(wire.sample(row, number))
        except ValueError as error:
            raise DataError(f"{path}, row {number}: {error}") from error
    if not samples:
        raise DataError(f"{path}: no samples", "the file must contain at least one row")
    if len({sample.id for sample in samples}) != len(samples):
        raise DataError(f"{path}: ids are not unique", "each text needs its own id")
    return samples


def write_samples(samples: Iterable[Sample], path: Path, column: str = "text") -> None:
    """Write samples as Parquet, the questions as ``column``."""
    rows = [{"id": s.id, column: s.question, "label": s.label, "offline": s.offline} for s in samples]
    pq.write_table(pa.Table.from_pylist(rows), path)


def _json_lines(path: Path) -> Iterable[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}:{number}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: not a JSON object")
            yield row
