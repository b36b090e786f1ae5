"""CSV, TSV, Parquet and JSON lines with a column map."""

from __future__ import annotations

import csv
import difflib
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lwc.core.errors import DataError
from lwc.data.fields import name_of, rating_of, seconds_of, text_of
from lwc.data.paths import locate, locate_all
from lwc.data.rows import Bad, BadValue, Progress, Reason, Row, Rows, excerpt
from lwc.data.source import Input, Source
from lwc.data.sources.mcauley import object_of
from lwc.data.sources.mcauley import read_file as read_json_file
from lwc.data.stream import line_end, lines
from lwc.recipe import Columns, TableFile

# An unclosed quote is noticed after this many characters, far more than any review has.
csv.field_size_limit(1 << 17)
_JSON = (".json", ".jsonl")


def mapped(record: Mapping[str, Any], columns: Columns, file: str, line: int) -> Row | Bad:
    """One record through the column map."""

    def value(column: str | None) -> Any:
        return record.get(column) if column is not None else None

    body, raw = text_of(value(columns.body)), value(columns.rating)
    try:
        if isinstance(raw, float) and math.isnan(raw):
            raise BadValue(Reason.RATING_NAN)
        rating, time = rating_of(raw), seconds_of(value(columns.time))
        if columns.rating is not None and rating is None:
            raise BadValue(Reason.NO_RATING)
        label = name_of(value(columns.label))
        if columns.label is not None and label is None:
            raise BadValue(Reason.NO_LABEL)
    except BadValue as error:
        return Bad(file, line, error.reason, excerpt(body), error.detail)
    return Row(
        file,
        line,
        body=body,
        title=text_of(value(columns.title)),
        rating=rating,
        label=label,
        user=name_of(value(columns.user)),
        item=name_of(value(columns.item)),
        time=time,
    )


def check_columns(columns: Columns, present: list[str], where: str) -> None:
    """Raise `DataError` for mapped columns that the table lacks, with the nearest name that it has."""
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


class _Feed:
    """Physical lines for `csv.reader`; remembers those of the current record, so that they can be read again."""

    def __init__(self, source: Iterator[tuple[int, bytes] | Bad], end: bytes) -> None:
        self._source, self._end = source, end
        self._back: deque[tuple[int, str]] = deque()
        self.taken: list[tuple[int, str]] = []
        self.bad: list[Bad] = []

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        if self._back:
            self.taken.append(self._back.popleft())
            return self.taken[-1][1]
        for item in self._source:
            if isinstance(item, Bad):
                self.bad.append(item)
                continue
            number, raw = item
            # Undecodable bytes become surrogates, which the row checks find.
            text = raw.decode("utf-8", "surrogateescape").removesuffix("\r").replace("\0", "")
            # The other line-end character is white space in this file.
            self.taken.append((number, text.replace("\r" if self._end == b"\n" else "\n", " ") + "\n"))
            return self.taken[-1][1]
        raise StopIteration

    def give_back(self, taken: list[tuple[int, str]]) -> None:
        self._back.extendleft(reversed(taken))


def _records(path: Path, name: str, delimiter: str) -> Iterator[tuple[int, list[str]] | Bad]:
    """First line and fields of every record. An unclosed quote loses one line, not the rest of the file."""
    end = line_end(path)
    feed = _Feed(lines(path, name, end), end)
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        feed.taken = []
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            number, text = feed.taken[0]
            yield Bad(name, number, Reason.BAD_QUOTING, excerpt(text), str(error))
            if not feed.bad:  # in a truncated file, the open record is the truncated one
                feed.give_back(feed.taken[1:])
            reader = csv.reader(feed, delimiter=delimiter, strict=True)
            continue
        if fields:
            yield feed.taken[0][0], fields
    yield from feed.bad


def read_delimited(path: Path, delimiter: str, columns: Columns) -> Rows:
    """Rows of a CSV or TSV file, numbered by the physical line on which they start.

    A byte-order mark is dropped and line breaks inside quotes are kept. A bare carriage return ends rows if it ends the
    header.
    """
    header: list[str] = []
    for found in _records(path, path.name, delimiter):
        if isinstance(found, Bad):
            yield found
            continue
        line, cells = found
        if not header:
            header = [cell.strip() for cell in cells]
            check_columns(columns, header, str(path))
        elif len(cells) != len(header):
            detail = f"{len(cells)}, the header has {len(header)}"
            yield Bad(path.name, line, Reason.CELL_COUNT, excerpt(cells[0]), detail)
        elif any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
            yield Bad(path.name, line, Reason.NOT_UTF8)
        else:
            yield mapped(dict(zip(header, cells, strict=True)), columns, path.name, line)
    if not header:
        raise DataError(f"{path}: empty file", "name another file")


def read_parquet(path: Path, columns: Columns) -> Rows:
    """Rows of a Parquet file; ``line`` is the row number. Damage ends the file with one `Bad`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file: {error}", "name another file") from error
    check_columns(columns, file.schema_arrow.names, str(path))
    wanted = sorted({name for name in columns.model_dump().values() if name is not None})
    line = 0
    batches = file.iter_batches(columns=wanted)
    while True:
        try:
            batch = next(batches, None)
        except (OSError, pa.ArrowException) as error:
            yield Bad(path.name, line + 1, Reason.DAMAGED_PARQUET, detail=str(error))
            return
        if batch is None:
            return
        for index in range(batch.num_rows):
            line += 1
            try:
                record = {name: _decoded(batch.column(name)[index].as_py()) for name in wanted}
            except UnicodeDecodeError:
                yield Bad(path.name, line, Reason.NOT_UTF8)
                continue
            yield mapped(record, columns, path.name, line)


def json_mapper(columns: Columns, seen: set[str]) -> Callable[[object, str, int], Row | Bad]:
    """`mapped` for parsed JSON; adds the keys it meets to ``seen``."""

    def row_of(record: object, file: str, line: int) -> Row | Bad:
        fields = object_of(record)
        seen.update(fields)
        return mapped(fields, columns, file, line)

    return row_of


def check_keys(columns: Columns, seen: set[str], where: str) -> None:
    """Raise `DataError` for a mapped key that no JSON line has; some lines may lack it."""
    if seen and not {name for name in columns.model_dump().values() if name is not None} <= seen:
        check_columns(columns, sorted(seen), where)


def read_json_lines(path: Path, columns: Columns) -> Rows:
    """Rows of a file with one JSON object a line. Some lines may lack a mapped key, but not all."""
    seen: set[str] = set()
    yield from read_json_file(path, json_mapper(columns, seen))
    check_keys(columns, seen, str(path))


def _decoded(value: object) -> object:
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _format(path: Path) -> str:
    """The suffix that names the format, lower case; empty if there is none."""
    return next((suffix.lower() for suffix in reversed(path.suffixes) if suffix.lower() != ".gz"), "")


def read_file(path: Path, columns: Columns) -> Rows:
    """Rows of one table; the suffix of its name says how to read it.

    Raises:
        DataError: another suffix, an empty or damaged file, or no column of a name in ``columns``.
    """
    suffix = _format(path)
    if suffix in (".csv", ".tsv"):
        return read_delimited(path, "," if suffix == ".csv" else "\t", columns)
    if suffix == ".parquet":
        return read_parquet(path, columns)
    if suffix in _JSON:
        return read_json_lines(path, columns)
    raise DataError(
        f"{path}: {suffix or 'no suffix'} is not a table format",
        "use .csv, .tsv, .jsonl or .json with one object a line (all also .gz), or .parquet",
    )


def read(source: TableFile, progress: Progress) -> Rows:
    """Rows of every named table, in order."""
    for name in source.paths:
        progress(f"reading {name}")
        yield from read_file(locate(name), source.columns)


def _input(name: str, columns: Columns) -> Input:
    path = locate(name)
    if _format(path) in _JSON:
        return Input(name, path, columns)
    return Input(name, path, rows=partial(read_file, path, columns))


SOURCE = Source[TableFile](
    read,
    files=lambda settings: locate_all(settings.paths),
    inputs=lambda settings: [_input(name, settings.columns) for name in settings.paths],
)
