"""JSON lines into columns: plain lines through Arrow's parser, all others through `json_text.parse`.

A piece with an odd line is halved, down to a few lines, so that most of its lines still take the fast path. Both paths
give the same result, which a test checks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from lwc.core.spelling import LONE, MISSING
from lwc.data.fields import EXACT, UNITS, YEAR_9999, id_of, user_of
from lwc.data.ingest.blocks import Block
from lwc.data.ingest.strings import contents
from lwc.data.json_text import parse
from lwc.data.rows import Bad, BadValue, Reason, Row, excerpt
from lwc.data.sources.mcauley import review_of
from lwc.data.sources.table import json_mapper
from lwc.data.stream import MAX_LINE
from lwc.recipe import Columns

# Bytes parsed at a time, so that the columns of a piece stay in the processor's cache.
PIECE = 1 << 20
_ROWS = 2048
# Pieces of so few lines are not halved.
_FEW = 16
# RapidJSON, unlike the json module, accepts Inf as a number; text seldom contains it in such a place.
_INF = re.compile(rb"Inf(?=[\s,\]}])(?:(?<=[:,\[\-\t\r]Inf)|(?<=[:,\[\-\s]\sInf))")
_MISSING = pa.array(sorted(MISSING))


@dataclass(frozen=True)
class Piece:
    """Some rows (N,) as columns, with the fields of `Row`, and the lines among them that gave no row."""

    body: pa.Array
    title: pa.Array
    rating: pa.Array
    label: pa.Array
    user: pa.Array
    item: pa.Array
    time: pa.Array
    split: pa.Array
    line: pa.Array
    file: pa.Array
    bad: tuple[Bad, ...] = ()

    def __len__(self) -> int:
        return len(self.line)


@dataclass(frozen=True)
class _Keys:
    """The key of each field; None if the source has none. ``other_item`` replaces an empty item."""

    body: str | None
    title: str | None
    rating: str | None
    user: str | None
    item: str | None
    other_item: str | None
    time: str | None

    def schema(self) -> pa.Schema | None:
        """The Arrow types of the keys; None if one key is two fields of different types."""
        types = dict.fromkeys((self.body, self.title, self.user, self.item, self.other_item), pa.string())
        numbers = {self.rating: pa.float64(), self.time: pa.int64()}
        named = [(name, kind) for name, kind in (types | numbers).items() if name is not None]
        return None if (types.keys() & numbers.keys()) - {None} or self.rating == self.time else pa.schema(named)


_NEW = _Keys("text", "title", "rating", "user_id", "parent_asin", "asin", "timestamp")
_OLD = _Keys("reviewText", "summary", "overall", "reviewerID", "asin", None, "unixReviewTime")


def pieces(block: Block, columns: Columns | None, seen: set[str], size: int = PIECE) -> Iterator[Piece]:
    """The rows and bad lines of a block, as `lwc.data.sources` reads them, about ``size`` bytes at a time.

    ``columns`` is the column map of a table, None for the McAuley formats. Keys that occur are added to ``seen``.
    """
    if block.bad:
        yield of_rows(block.bad)
    for at in range(0, len(block.items), _ROWS):
        yield of_rows(block.items[at : at + _ROWS])
    start, line = 0, block.first
    while start < len(block.lines):
        stop = block.lines.find(b"\n", start + size) + 1 or len(block.lines)
        raw = block.lines[start:stop]
        yield from _read(raw, block.name, line, columns, seen)
        start, line = stop, line + raw.count(b"\n")


def _read(raw: bytes, name: str, first: int, columns: Columns | None, seen: set[str]) -> Iterator[Piece]:
    found = _plain(raw, name, first, columns, seen)
    lines = raw.count(b"\n")
    if found is not None:
        yield found
    elif lines > _FEW:
        half = raw.find(b"\n", len(raw) // 2) + 1 or raw.rfind(b"\n", 0, len(raw) // 2) + 1
        if half == len(raw):
            half = raw.rfind(b"\n", 0, len(raw) - 1) + 1
        yield from _read(raw[:half], name, first, columns, seen)
        yield from _read(raw[half:], name, first + raw.count(b"\n", 0, half), columns, seen)
    else:
        yield of_rows(list(_careful(raw, name, first, columns, seen)))


def _careful(raw: bytes, name: str, first: int, columns: Columns | None, seen: set[str]) -> Iterator[Row | Bad]:
    row_of = review_of if columns is None else json_mapper(columns, seen)
    for number, line in enumerate(raw.split(b"\n"), start=first):
        if len(line) > MAX_LINE:
            yield Bad(name, number, Reason.LONG_LINE, excerpt(line))
        elif line and (found := parse(line, name, number, row_of)) is not None:
            yield found


def of_rows(items: Sequence[Row | Bad]) -> Piece:
    """Rows and bad lines as columns. Lone surrogates, which Arrow cannot store, become spaces, as cleaning has it."""
    rows = [one for one in items if isinstance(one, Row)]
    rows = [one._replace(body=LONE.sub(" ", one.body), title=LONE.sub(" ", one.title)) for one in rows]
    numbers = {"rating": pa.float64(), "time": pa.int64(), "line": pa.int64()}
    columns = zip(Row._fields, zip(*rows, strict=True) if rows else [()] * len(Row._fields), strict=True)
    bad = tuple(one for one in items if isinstance(one, Bad))
    return Piece(**{name: pa.array(values, numbers.get(name, pa.string())) for name, values in columns}, bad=bad)


def _plain(raw: bytes, name: str, first: int, columns: Columns | None, seen: set[str]) -> Piece | None:
    """The rows of lines, each of which is an ordinary record; None if one may be anything else."""
    if columns is not None and (columns.label is not None or columns.split is not None):
        return None
    table = _table(raw, columns)
    if table is None:
        return None
    records, keys = table
    count = len(records)

    def strings_of(key: str | None) -> pa.Array:
        return records[key].combine_chunks() if key is not None else pa.nulls(count, pa.string())

    rating, time = pa.nulls(count, pa.float64()), pa.nulls(count, pa.int64())
    if keys.rating is not None:
        rating = records[keys.rating].combine_chunks()
        stars = rating.to_numpy(zero_copy_only=False)  # NaN where there are none
        if not ((stars >= 1) & (stars <= 5)).all():
            return None
    if keys.time is not None:
        seconds = _seconds(records[keys.time].combine_chunks())
        if seconds is None:
            return None
        time = seconds
    item = strings_of(keys.item)
    if keys.other_item is not None:
        given = pc.fill_null(pc.not_equal(item, ""), False)
        item = pc.if_else(given, item, strings_of(keys.other_item))
    try:
        user, item = _ids(strings_of(keys.user), user_of), _ids(item, id_of)
    except BadValue:
        return None
    if columns is not None:
        # A column of nulls may come from the schema, without any such key.
        if any(records[key].null_count == count for key in columns.model_dump().values() if key is not None):
            return None
        seen.update(records.column_names)
    return Piece(
        body=pc.fill_null(strings_of(keys.body), ""),
        title=pc.fill_null(strings_of(keys.title), ""),
        rating=rating,
        label=pa.nulls(count, pa.string()),
        user=user,
        item=item,
        time=time,
        split=pa.nulls(count, pa.string()),
        line=pa.array(np.arange(first, first + count)),
        file=pa.repeat(name, count),
    )


def _table(raw: bytes, columns: Columns | None) -> tuple[pa.Table, _Keys] | None:
    """The records of lines, one a line and without repeated keys, and the keys of their fields; None if unsure.

    Arrow's parser ignores line ends. If every line begins with ``{`` and ends in ``}``, no line can end inside an
    object, because ``}`` directly before ``{`` is not JSON; with as many objects as lines, each line is one object.
    Arrow refuses a repeated key at any depth, but checks neither UTF-8 nor depth, and accepts Inf.
    """
    if len(raw) > MAX_LINE:
        return None
    raw = raw.removesuffix(b"\n")
    if b"\r\n" in raw:
        raw = raw.replace(b"\r\n", b"\n").removesuffix(b"\r")
    if not (raw.startswith(b"{") and raw.endswith(b"}")):
        return None
    data = np.frombuffer(raw, dtype=np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    count, depth = len(ends) + 1, np.count_nonzero(data == ord("{")) + np.count_nonzero(data == ord("["))
    one_a_line = (data[ends - 1] == ord("}")).all() and (data[ends + 1] == ord("{")).all()
    if not one_a_line or depth > 4 * count + 1000 or _INF.search(raw):
        return None
    try:
        if not raw.isascii():
            pa.array([raw], pa.binary()).cast(pa.string())  # checks UTF-8
        keys = _keys_of(raw, columns)
        schema = keys.schema()
        if schema is None:
            return None
        parsing = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="infer")
        reading = pa.json.ReadOptions(use_threads=False, block_size=len(raw) + 1)
        table = pa.json.read_json(pa.BufferReader(raw), read_options=reading, parse_options=parsing)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, orjson.JSONDecodeError, UnicodeDecodeError):
        return None  # the careful path reports what is wrong, if anything
    if len(table) != count or (keys is _OLD and not {"rating", "user_id"}.isdisjoint(table.column_names)):
        return None
    return table, keys


def _keys_of(raw: bytes, columns: Columns | None) -> _Keys:
    if columns is not None:
        fields = (columns.body, columns.title, columns.rating, columns.user, columns.item, None, columns.time)
        return _Keys(*fields)
    head = orjson.loads(raw[: raw.find(b"\n")] if b"\n" in raw else raw)
    return _NEW if "rating" in head or "user_id" in head else _OLD


def _seconds(times: pa.Array) -> pa.Array | None:
    """Times in seconds, as `seconds_of` gives them; None if one is out of range."""
    values = pc.fill_null(times, 0).to_numpy()
    if len(values) and not -EXACT < values.min() <= values.max() < EXACT:
        return None
    size = np.abs(values)
    seconds = np.select([size >= least for least, _ in UNITS], [values // unit for _, unit in UNITS], values)
    if (np.abs(seconds) > YEAR_9999).any():
        return None
    nothing = times.is_null().to_numpy(zero_copy_only=False) if times.null_count else None
    return pa.array(seconds, mask=nothing)


def _ids(found: pa.Array, id_of: Callable[[object], str | None]) -> pa.Array:
    """Identifiers as ``id_of`` gives them."""
    data, offsets = contents(found)
    lengths = np.diff(offsets)
    filled = np.flatnonzero(lengths)
    ends = np.concatenate((data[offsets[filled]], data[offsets[filled + 1] - 1]))
    # A name that begins and ends in printable ASCII has no surrounding white space, and numbers are written with a dot.
    if len(filled) + found.null_count == len(found) and ((ends > 32) & (ends < 127)).all():
        dots = (data == ord(".")) | (data == ord("+"))
        if not dots.any() and not pc.any(pc.is_in(found, value_set=_MISSING)).as_py():
            return found
    return pa.array([id_of(name) for name in found.to_pylist()], pa.string())
