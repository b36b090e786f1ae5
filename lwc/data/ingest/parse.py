"""JSON lines into rows: what is plain goes the short way through orjson, all else the way of `mcauley.parse`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from lwc.data.ingest.blocks import Block
from lwc.data.rows import Bad, Row, excerpt, seconds_of
from lwc.data.sources.mcauley import check_object, parse, review_of
from lwc.data.sources.table import mapped
from lwc.data.stream import MAX_LINE
from lwc.recipe import Columns


@dataclass(frozen=True)
class _Keys:
    """Which key holds which field; None (no key of JSON) where the source has none. ``other_item`` stands in."""

    body: str | None
    title: str | None
    rating: str | None
    user: str | None
    item: str | None
    other_item: str | None
    time: str | None


_NEW = _Keys("text", "title", "rating", "user_id", "parent_asin", "asin", "timestamp")
_OLD = _Keys("reviewText", "summary", "overall", "reviewerID", "asin", None, "unixReviewTime")
_EXACT = 1 << 53


def _keys(value: Any) -> int:
    """Keys of all objects in a parsed value."""
    if isinstance(value, dict):
        return len(value) + sum(_keys(one) for one in value.values())
    if isinstance(value, list):
        return sum(_keys(one) for one in value)
    return 0


def _each_key_once(raw: bytes, record: dict[str, Any]) -> bool:
    """False where a key may be given twice: orjson keeps the last one and says nothing.

    A key ends in ``":``, which text can hold only behind a backslash or at the very start of a string; so without
    white space before colons and without ``\\\\"`` the count is never too low, and a key too many always shows.
    """
    if b" :" in raw or b"\t:" in raw or b"\r:" in raw or b'\\\\"' in raw:
        return False
    ends = raw.count(b'":') - raw.count(b'\\":')
    return ends == len(record) or ends == _keys(record)


def _plain(record: dict[str, Any], keys: _Keys, file: str, line: int) -> Row | None:
    """The row of an ordinary record; None where a field is of a kind that the careful way must judge."""
    get: Any = record.get
    rating = get(keys.rating)
    number = isinstance(rating, float | int) and not isinstance(rating, bool)
    if keys.rating is not None and not (number and 1 <= rating <= 5):
        return None
    item = get(keys.item) or get(keys.other_item)
    body, title, user, time = get(keys.body), get(keys.title), get(keys.user), get(keys.time)
    for text in (body, title, user, item):
        if text is not None and type(text) is not str:
            return None
    if time is not None:
        if type(time) is not int or not -_EXACT < time < _EXACT:
            return None
        time = seconds_of(time)
    return Row(
        file, line, body or "", title or "", float(rating) if number else None, None,
        (user or "").strip() or None, (item or "").strip() or None, time,
    )  # fmt: skip


def rows_of(block: Block, columns: Columns | None, seen: set[str]) -> Iterator[Row | Bad]:
    """Rows and bad lines of a block, as `lwc.data.sources` reads them (a test holds both to the same).

    ``columns`` is the column map of a table, None for the McAuley formats; keys found are added to ``seen``.
    """
    yield from block.bad
    yield from block.items
    name = block.name
    fixed = None
    if columns is not None:
        fixed = _Keys(
            columns.body, columns.title, columns.rating, columns.user, columns.item, None, columns.time
        )  # fmt: skip

    def careful(record: Any, file: str, line: int) -> Row | Bad:
        if columns is None:
            return review_of(record, file, line)
        check_object(record)
        seen.update(record)
        return mapped(record, columns, file, line)

    for line, raw in enumerate(block.lines.split(b"\n"), start=block.first):
        if not raw:
            continue
        if len(raw) > MAX_LINE:
            yield Bad(name, line, "line longer than 16 MiB", excerpt(raw))
            continue
        found: Row | Bad | None = None
        if columns is None or columns.label is None:
            try:
                record = orjson.loads(raw)
            except orjson.JSONDecodeError:
                record = None  # perhaps NaN, a bracket of an array, or damage: the careful way tells
            if type(record) is dict and _each_key_once(raw, record):
                keys = fixed or (_NEW if "rating" in record or "user_id" in record else _OLD)
                try:
                    found = _plain(record, keys, name, line)
                except ValueError:
                    found = None  # the careful way words the reason
                if found is not None and fixed is not None:
                    seen.update(record)
        if found is None:
            found = parse(raw, name, line, careful)
        if found is not None:
            yield found
