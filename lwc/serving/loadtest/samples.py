"""Files with the questions that a load test sends, their labels and the offline answers where they are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lwc.core.errors import DataError
from lwc.data.bad_rows import refused
from lwc.data.columns import Wanted
from lwc.data.paths import format_of
from lwc.data.rows import Bad
from lwc.data.sources.table import WRITTEN_AS_USUAL, records
from lwc.tasks.endpoint import Sample, Wire


def read_samples(path: Path, wire: Wire) -> list[Sample]:
    """Read what ``wire`` sends and compares from any table that a data source reads; rows without ids are numbered.

    Raises:
        DataError: no such file, no rows, a missing column, or a row that cannot be read or sent.
    """
    if not path.is_file():
        raise DataError(f"no samples file at {path}", "give a .parquet, .jsonl, .csv or .tsv file")
    needed = f"samples need the column {wire.column}; label, offline and id are optional"
    wanted = Wanted({wire.column: wire.column}, ("id", "label", "offline"), needed, options=None, nested=True)
    rows: list[tuple[int, Mapping[str, Any]]] = []
    for found in records(path, WRITTEN_AS_USUAL, wanted, every=True):
        if isinstance(found, Bad):
            raise refused(found, path)
        rows.append(found)
    numbered = not any("id" in row for _, row in rows)
    as_text = format_of(path) in (".csv", ".tsv")
    samples: list[Sample] = []
    for number, (line, row) in enumerate(rows, 1):
        given: dict[str, Any] = {**row, "id": number} if numbered else dict(row)
        if as_text:  # an empty field is no value
            given |= {name: given.get(name) or None for name in ("label", "offline")}
        try:
            samples.append(wire.sample(given, number))
        except ValueError as error:
            raise DataError(f"{path}, line {line}: {error}", needed) from error
    if not samples:
        raise DataError(f"{path}: no samples", "the file must contain at least one row")
    if wire.column == "text" and len({sample.label is None for sample in samples}) > 1:
        raise DataError(f"{path}: some texts have a label and some have none", "give every text its label, or none")
    if len({sample.id for sample in samples}) != len(samples):
        raise DataError(f"{path}: ids are not unique", "each text needs its own id")
    return samples


def write_samples(samples: Iterable[Sample], path: Path, column: str = "text") -> None:
    """Write samples as Parquet, the questions as ``column``."""
    rows = [{"id": s.id, column: s.question, "label": s.label, "offline": s.offline} for s in samples]
    pq.write_table(pa.Table.from_pylist(rows), path)
