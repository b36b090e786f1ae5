"""Files with the questions that a load test sends, their labels and the offline answers where they are known."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lwc.core.errors import DataError
from lwc.data.bad_rows import refused
from lwc.data.columns import Wanted
from lwc.data.paths import format_of
from lwc.data.rows import Bad, Reason, excerpt
from lwc.data.sources.table import WRITTEN_AS_USUAL, columns_of, records
from lwc.data.stream import lines, not_utf8
from lwc.tasks.endpoint import Sample, Wire

_OTHER = ("id", "label", "offline")
# A longer name of an only column is rather the first text of a file without a header.
_WORDS_OF_A_NAME = 3
Numbered = list[tuple[int, Mapping[str, Any]]]


def read_samples(path: Path, wire: Wire, say: Callable[[str], None] = lambda text: None) -> list[Sample]:
    """Read what ``wire`` sends and compares: any table that a data source reads, or a .txt with one question a line.

    Labels and offline answers are optional. Rows are numbered where they have no ids, or ids that are no whole numbers.
    ``say`` gets a line about each choice that the file does not make plain.

    Raises:
        DataError: no such file, no rows, no column or several that may have the questions, or a row that cannot be read
            or sent.
    """
    if not path.is_file():
        raise DataError(f"no samples file at {path}", "give a .parquet, .jsonl, .csv, .tsv or .txt file")
    needed = f"samples need the column {wire.column}; label, offline and id are optional"
    rows = questions_of(path, wire) if format_of(path) == ".txt" else _records(path, wire, needed, say)
    ids = [row.get("id") for _, row in rows]
    numbered = not all(_is_whole(one) for one in ids)
    if numbered and any(one is not None for one in ids):
        say(f"{path}: the column id has other values than whole numbers, so that the rows are numbered")
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
        raise DataError(f"{path}: ids are not unique", "each text needs its own id, or leave the column id out")
    return samples


def _records(path: Path, wire: Wire, needed: str, say: Callable[[str], None]) -> Numbered:
    """The rows of a table, with the columns of the questions under the names that ``wire`` has for them."""
    present = columns_of(path)
    chosen = chosen_columns(path, present, wire)
    for name, column in chosen.items():
        if name != column:
            say(f"{path}: {name} is read from the column {column!r}")
    wanted = Wanted(chosen or {wire.column: wire.column}, _OTHER, needed, options=None, nested=True)
    rows: Numbered = []
    for found in records(path, WRITTEN_AS_USUAL, wanted, every=True):
        if isinstance(found, Bad):
            raise refused(found, path)
        line, row = found
        others = {name: row[name] for name in _OTHER if name in row and name not in chosen.values()}
        # A key that an object of JSON lacks is no value; `sample` says so where it needs one.
        rows.append((line, {**others, **{name: row[column] for name, column in chosen.items() if column in row}}))
    return rows


def chosen_columns(path: Path, present: Sequence[str], wire: Wire) -> dict[str, str]:
    """The column of each part of a question: of its own name, of a usual one, or the only one of the file.

    Empty where none may have the questions.

    Raises:
        DataError: several columns may have one part.
    """
    chosen: dict[str, str] = {}
    for name in wire.columns:
        usual = [column for column in present if _folded(column) in wire.like[name]]
        alike = [column for column in usual if column.strip() == name] or usual
        if not alike and name == wire.column and len(present) == 1 and _may_be_a_name(present[0]):
            alike = [present[0]]
        if len(set(alike)) > 1:
            raise DataError(
                f"{path}: {name} may be any of the columns {', '.join(map(repr, alike))}", f"rename one to {name}"
            )
        if alike:
            chosen[name] = alike[0]
    return chosen if wire.column in chosen else {}


def _folded(column: str) -> str:
    return re.sub(r"[\W_]", "", column).lower()


def _may_be_a_name(column: str) -> bool:
    return 0 < len(column.split()) <= _WORDS_OF_A_NAME and re.fullmatch(r"[^\W\d][\w .\-/()]*", column) is not None


def _is_whole(value: object) -> bool:
    try:
        int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return False
    return not isinstance(value, float) or value.is_integer()


def questions_of(path: Path, wire: Wire) -> Numbered:
    """The lines of a text file but blank ones."""
    rows: Numbered = []
    for found in lines(path, path.name):
        if isinstance(found, Bad):
            raise refused(found, path)
        number, raw = found
        try:
            text = raw.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise refused(Bad(path.name, number, Reason.NOT_UTF8, excerpt(raw), not_utf8(raw)), path) from error
        if text.strip():
            rows.append((number, wire.row_of(text)))
    return rows


def write_samples(samples: Iterable[Sample], path: Path, column: str = "text") -> None:
    """Write samples as Parquet, the questions as ``column``, or as one column for each of their parts."""
    rows = [
        {
            "id": one.id,
            **(one.question if isinstance(one.question, dict) else {column: one.question}),
            "label": one.label,
            "offline": one.offline,
        }
        for one in samples
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
