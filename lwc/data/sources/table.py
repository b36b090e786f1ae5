"""CSV, TSV and Parquet files with a column map."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from lwc.data.paths import locate
from lwc.data.rows import Bad, Progress, Row, Rows, name_of, rating_of, seconds_of, text_of
from lwc.errors import DataError
from lwc.recipe import Columns, TableFile

csv.field_size_limit(1 << 24)


def mapped(record: Mapping[str, Any], columns: Columns, file: str, line: int) -> Row | Bad:
    """One record through the column map."""

    def value(column: str | None) -> Any:
        return record.get(column) if column is not None else None

    raw = value(columns.rating)
    if isinstance(raw, float) and math.isnan(raw):
        return Bad(file, line, "rating is NaN", text_of(value(columns.body))[:120])
    try:
        rating, time = rating_of(raw), seconds_of(value(columns.time))
    except ValueError as error:
        return Bad(file, line, str(error), text_of(value(columns.body))[:120])
    if columns.rating is not None and rating is None:
        return Bad(file, line, "no rating", text_of(value(columns.body))[:120])
    label = name_of(value(columns.label))
    if columns.label is not None and label is None:
        return Bad(file, line, "no label", text_of(value(columns.body))[:120])
    return Row(
        file,
        line,
        body=text_of(value(columns.body)),
        title=text_of(value(columns.title)),
        rating=rating,
        label=label,
        user=name_of(value(columns.user)),
        item=name_of(value(columns.item)),
        time=time,
    )


def check_columns(columns: Columns, present: list[str], where: str) -> None:
    """Raise `DataError` for every mapped column that the table lacks, with the nearest one it has."""
    lacking = [
        f"{field}: {name!r}{_near(name, present)}"
        for field, name in columns.model_dump().items()
        if name is not None and name not in present
    ]
    if lacking:
        raise DataError(
            f"{where}: no column for {'; '.join(lacking)}; it has {', '.join(map(repr, present))}",
            "fix data.source.columns",
        )


def _near(name: str, present: list[str]) -> str:
    close = difflib.get_close_matches(name, present, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value,unused-ignore]


def _counted(file: Iterator[str], ended: list[str]) -> Iterator[str]:
    """Lines of a stream; a gzip that ends early ends it, and says so in ``ended``."""
    try:
        yield from file
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        ended.append(f"damaged gzip: rows after here are lost ({error})")


def read_delimited(path: Path, delimiter: str, columns: Columns) -> Rows:
    """Rows of a CSV or TSV: BOM dropped, line breaks inside quotes kept, bare CR ends a row.

    Line numbers are those of the physical line a row ends on.
    """
    with _open(path) as raw:
        # surrogateescape keeps a row with invalid bytes countable; it is refused below.
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline=None)
        ended: list[str] = []
        reader = csv.reader(_counted(iter(text), ended), delimiter=delimiter)
        header = next(reader, None)
        if header is None:
            raise DataError(f"{path}: empty file", "name another file")
        check_columns(columns, header, str(path))
        rows = iter(reader)
        while True:
            try:
                cells = next(rows)
            except StopIteration:
                break
            except csv.Error as error:
                yield Bad(path.name, reader.line_num, f"bad CSV: {error}")
                continue
            if not cells:
                continue
            if len(cells) != len(header):
                yield Bad(
                    path.name, reader.line_num, f"{len(cells)} cells, the header has {len(header)}", cells[0][:120]
                )
                continue
            record = dict(zip(header, cells, strict=True))
            if any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
                yield Bad(path.name, reader.line_num, "invalid UTF-8")
                continue
            yield mapped(record, columns, path.name, reader.line_num)
        if ended:
            yield Bad(path.name, reader.line_num + 1, ended[0])


def read_parquet(path: Path, columns: Columns) -> Rows:
    """Rows of a Parquet file, batch by batch; ``line`` is the row number."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file: {error}", "name another file") from error
    check_columns(columns, file.schema_arrow.names, str(path))
    wanted = sorted({name for name in columns.model_dump().values() if name is not None})
    line = 0
    for batch in file.iter_batches(columns=wanted):
        for record in batch.to_pylist():
            line += 1
            yield mapped(record, columns, path.name, line)


def read_file(path: Path, columns: Columns) -> Rows:
    """Rows of one table, by its suffix."""
    suffix = path.suffixes[-2] if path.suffix == ".gz" and len(path.suffixes) > 1 else path.suffix
    if suffix in (".csv", ".tsv"):
        return read_delimited(path, "," if suffix == ".csv" else "\t", columns)
    if suffix == ".parquet":
        return read_parquet(path, columns)
    raise DataError(
        f"{path}: {suffix or 'no suffix'} is not a table format", "use .csv, .tsv (both also .gz) or .parquet"
    )


def read(source: TableFile, progress: Progress) -> Rows:
    """Rows of every named table, in order."""
    for name in source.paths:
        progress(f"reading {name}")
        yield from read_file(locate(name), source.columns)


def files(source: TableFile) -> list[Path]:
    """The files that are read."""
    return [locate(name) for name in source.paths]
