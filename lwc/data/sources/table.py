"""CSV, TSV, JSON, Parquet and Arrow files with a column map."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from lwc.core.errors import DataError
from lwc.data import delimited
from lwc.data.columns import Wanted
from lwc.data.containers import head_of, member_name
from lwc.data.dates import Order, order_of
from lwc.data.fields import id_of, name_of, rating_of, seconds_of, text_of, user_of
from lwc.data.json_text import object_of, objects, one_a_line
from lwc.data.paths import PACKED_SUFFIXES, TABLE_SUFFIXES, format_of, locate_all
from lwc.data.rows import Bad, BadValue, Progress, Reason, Row, Rows, excerpt
from lwc.data.source import Input, Source
from lwc.recipe import Columns, Format, TableFile

_JSON = (".json", ".jsonl", ".ndjson")
_COLUMNAR = (".parquet", ".arrow", ".feather")
WRITTEN_AS_USUAL = Format()
# Objects whose keys are taken for the columns of a JSON file.
_LOOKED_AT = 100


def mapped(record: Mapping[str, Any], columns: Columns, file: str, line: int, order: Order | None = None) -> Row | Bad:
    """One record through the column map; ``order`` is that of its dates."""

    def value(column: str | None) -> Any:
        found = record.get(column) if column is not None else None
        if isinstance(found, list | dict):
            raise BadValue(Reason.NOT_A_VALUE, f"{column!r} is {_kind(found)}")
        return found

    body = ""
    try:
        body, raw = text_of(value(columns.body)), value(columns.rating)
        if isinstance(raw, float) and math.isnan(raw):
            raise BadValue(Reason.RATING_NAN)
        rating, time = rating_of(raw), seconds_of(value(columns.time), order)
        if columns.rating is not None and rating is None:
            raise BadValue(Reason.NO_RATING)
        label = name_of(value(columns.label))
        if columns.label is not None and label is None:
            raise BadValue(Reason.NO_LABEL)
        title, user, item = text_of(value(columns.title)), user_of(value(columns.user)), id_of(value(columns.item))
        split = name_of(value(columns.split))
        if columns.split is not None and split is None:
            raise BadValue(Reason.NO_SPLIT)
    except BadValue as error:
        return Bad(file, line, error.reason, excerpt(body), error.detail)
    return Row(file, line, body, title, rating, label, user, item, time, split)


def _kind(value: object) -> str:
    return f"an object with {', '.join(map(repr, value))}"[:60] if isinstance(value, dict) else "a list"


def wanted_of(columns: Columns) -> Wanted:
    """The mapped columns of a table."""
    return Wanted({field: name for field, name in columns.model_dump().items() if name is not None})


def records(
    path: Path, form: Format, wanted: Wanted, every: bool = False
) -> Iterator[tuple[int, Mapping[str, Any]] | Bad]:
    """Line and values of every row of a table, however it is packed; the suffix of its name says how to read it.

    ``every`` gives all columns of Parquet and Arrow files, not only those wanted; text has all columns anyway.

    Raises:
        DataError: another suffix, an empty or damaged file, or no column of a wanted name.
    """
    suffix = _format(path, form)
    if suffix in _COLUMNAR:
        from lwc.data import columnar

        return (columnar.parquet if suffix == ".parquet" else columnar.arrow)(path, wanted, every)
    if suffix in _JSON:
        return _json_records(path, form, wanted)
    return delimited.records(path, suffix, form, wanted)


def columns_of(path: Path) -> list[str]:
    """Names of a table's columns, where nobody has said how it is written; keys of the first objects of a JSON file.

    Raises:
        DataError: another suffix, or an empty or damaged file.
    """
    suffix = _format(path, WRITTEN_AS_USUAL)
    if suffix in _COLUMNAR:
        from lwc.data import columnar

        return columnar.names_of(path, suffix)
    if suffix in _JSON:
        first = islice(objects(path, lambda value, file, line: object_of(value)), _LOOKED_AT)
        return list(dict.fromkeys(key for one in first if not isinstance(one, Bad) for key in one))
    return list(delimited.names_of(path, suffix, WRITTEN_AS_USUAL))


def _format(path: Path, form: Format) -> str:
    suffix = format_of(path)
    if not suffix and head_of(path, 2) == b"PK":
        suffix = format_of(member_name(path))
    if suffix in TABLE_SUFFIXES or (form.delimiter is not None and suffix != ".tar"):
        return suffix
    if suffix in (".tar", ".tgz"):
        raise DataError(f"{path}: a tar archive", f"unpack it with `tar -xf {path}` and name the files in it")
    if suffix in (".xlsx", ".xls", ".ods"):
        raise DataError(f"{path}: a spreadsheet, not a table format", "save it as CSV UTF-8")
    raise DataError(
        f"{path}: {suffix or 'no suffix'} is not a table format",
        f"use {', '.join(TABLE_SUFFIXES)}; text may be compressed as {', '.join(PACKED_SUFFIXES)}, and any text table"
        " is read with data.source.format.delimiter",
    )


def _json_records(path: Path, form: Format, wanted: Wanted) -> Iterator[tuple[int, Mapping[str, Any]] | Bad]:
    seen: set[str] = set()

    def record_of(value: object, file: str, line: int) -> tuple[int, Mapping[str, Any]]:
        fields = object_of(value)
        seen.update(fields)
        return line, fields

    yield from objects(path, record_of, wanted.names, form.encoding)
    check_keys(wanted, seen, str(path))


def json_mapper(columns: Columns, seen: set[str]) -> Callable[[object, str, int], Row | Bad]:
    """`mapped` for parsed JSON; adds the keys it meets to ``seen``."""

    def row_of(record: object, file: str, line: int) -> Row | Bad:
        fields = object_of(record)
        seen.update(fields)
        return mapped(fields, columns, file, line)

    return row_of


def check_keys(wanted: Wanted, seen: set[str], where: str) -> None:
    """Raise `DataError` for a mapped key that no JSON line has; some lines may lack it."""
    if seen and not wanted.names <= seen:
        wanted.check(sorted(seen), where)


def read_file(path: Path, columns: Columns, form: Format = WRITTEN_AS_USUAL) -> Rows:
    """Rows of one table, as `records` reads them."""
    for found in records(path, form, wanted_of(columns)):
        if isinstance(found, Bad):
            yield found
        else:
            line, record = found
            yield mapped(record, columns, path.name, line, form.dates)


def read(source: TableFile, progress: Progress) -> Rows:
    """Rows of every named table, in order."""
    files = locate_all(source.paths)
    form = _with_dates(files.values(), source)
    for name, path in files.items():
        progress(f"reading {name}")
        yield from read_file(path, source.columns, form)


def _with_dates(paths: Iterable[Path], source: TableFile) -> Format:
    """The format, with the order of dates that the whole column of all files shows.

    Raises:
        DataError: it shows none.
    """
    form, column = source.format, source.columns.time
    if column is None or form.dates is not None:
        return form
    doubtful = ""
    for path in paths:
        rows = (one for one in records(path, form, wanted_of(source.columns)) if not isinstance(one, Bad))
        order, example = order_of(record.get(column) for _, record in rows)
        if order is not None:
            return form.model_copy(update={"dates": order})
        doubtful = doubtful or (example and f"{path}: {column!r} has dates such as {example!r}")
    if doubtful:
        raise DataError(
            f"{doubtful}, and no number above 12 shows whether the day or the month is first",
            "set data.source.format.dates: day_first or month_first",
        )
    return form


def _inputs(source: TableFile) -> list[Input]:
    files = locate_all(source.paths)
    form = _with_dates(files.values(), source)
    return [_input(name, path, source.columns, form) for name, path in files.items()]


def _input(name: str, path: Path, columns: Columns, form: Format) -> Input:
    plain = _format(path, form) in _JSON and form.encoding is None and form.dates is None
    if plain and one_a_line(path, wanted_of(columns).names):
        return Input(name, path, columns)
    return Input(name, path, rows=partial(read_file, path, columns, form))


def _notes(source: TableFile) -> list[str]:
    """One sentence for all files that are read alike."""
    files: dict[str, list[str]] = {}
    named = locate_all(source.paths)
    dates = _with_dates(named.values(), source).dates
    if dates is not None and source.format.dates is None:
        text = f"dates are read with the {dates.removesuffix('_first')} first, as a number above 12 shows"
        files[text] = list(named)
    for name, path in named.items():
        suffix = _format(path, source.format)
        if suffix not in (*_JSON, *_COLUMNAR):
            for text in delimited.notes(path, suffix, source.format, wanted_of(source.columns)):
                files.setdefault(text, []).append(name)
    more = {text: f" and {len(names) - 1:,} more" if len(names) > 1 else "" for text, names in files.items()}
    return [f"{names[0]}{more[text]}: {text}." for text, names in files.items()]


SOURCE = Source[TableFile](
    read,
    files=lambda settings: locate_all(settings.paths),
    inputs=_inputs,
    notes=_notes,
)
