"""One review as a source gives it, or the reason a line gave none."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Any, NamedTuple


class Row(NamedTuple):
    """A review. ``rating`` is 1 to 5 stars, ``time`` is in seconds since 1970, ``line`` counts from 1.

    A tuple, because there are millions: creating a frozen dataclass takes several times as long.
    """

    file: str
    line: int
    body: str = ""
    title: str = ""
    rating: float | None = None
    label: str | None = None
    user: str | None = None
    item: str | None = None
    time: int | None = None


class Reason(StrEnum):
    """Why a line gave no row. The value is the text that ``quality.json`` counts by."""

    TRUNCATED_GZIP = "truncated gzip"
    CORRUPT_GZIP = "corrupt gzip"
    DAMAGED_PARQUET = "damaged Parquet, an unknown number of rows is lost"
    LONG_LINE = "line longer than 16 MiB"
    NOT_UTF8 = "invalid UTF-8"
    BAD_JSON = "bad JSON"
    NOT_AN_OBJECT = "not an object"
    REPEATED_KEY = "a key is given twice"
    TOO_MANY_DIGITS = "a number has too many digits"
    BAD_QUOTING = "bad CSV quoting"
    CELL_COUNT = "wrong cell count"
    NO_RATING = "no rating"
    RATING_BOOLEAN = "rating is true or false, not a number"
    RATING_NO_NUMBER = "rating is not a number"
    RATING_NAN = "rating is NaN"
    RATING_OUTSIDE = "rating is outside 1 to 5"
    NO_LABEL = "no label"
    BAD_TIME = "time is neither seconds, milliseconds nor a date"
    TIME_OUTSIDE = "time is out of range"
    NO_USER = "no user"
    NO_ITEM = "no item"
    NO_TIME = "no time"
    NO_ITEM_ID = "no parent_asin or asin"
    EMPTY_TEXT = "empty text"
    NO_WORDS = "no letters or digits"


CUT_SHORT = (Reason.TRUNCATED_GZIP, Reason.CORRUPT_GZIP)
"""Reasons after which the rest of a file is lost."""


class BadValue(ValueError):
    """A value that makes its row unusable."""

    def __init__(self, reason: StrEnum, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Bad:
    """A line that gave no row.

    Args:
        reason: counted in ``quality.json``; sources outside lwc may have an enum of their own.
        excerpt: the beginning of the line.
        detail: what differs from line to line, such as the value that is refused.
    """

    file: str
    line: int
    reason: StrEnum
    excerpt: str = ""
    detail: str = ""

    @property
    def message(self) -> str:
        """Reason and detail in one sentence."""
        return f"{self.reason}: {self.detail}" if self.detail else str(self.reason)

    def entry(self) -> str:
        """The line of ``quarantine.jsonl``."""
        found = {"file": self.file, "line": self.line, "reason": self.message, "excerpt": self.excerpt}
        return json.dumps(found, ensure_ascii=True) + "\n"


Rows = Iterator[Row | Bad]
Progress = Callable[[str], None]
_EXCERPT = 120


def excerpt(raw: bytes | str) -> str:
    """The beginning of a raw line as printable text."""
    text = raw.decode("utf-8", errors="replace") if isinstance(raw, bytes) else raw
    return text[:_EXCERPT]


def rating_of(value: Any) -> float | None:
    """Stars as a number; None if there are none.

    Raises:
        BadValue: not a number, NaN, or outside 1 to 5.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool):
        raise BadValue(Reason.RATING_BOOLEAN)
    try:
        stars = float(value)
    except OverflowError:
        raise BadValue(Reason.RATING_OUTSIDE) from None
    except (TypeError, ValueError):
        raise BadValue(Reason.RATING_NO_NUMBER, f"{value!r:.40}") from None
    if math.isnan(stars):
        raise BadValue(Reason.RATING_NAN)
    if not 1 <= stars <= 5:
        raise BadValue(Reason.RATING_OUTSIDE, f"{stars:g}")
    return stars


# Milliseconds since 1970 pass this value before any review was written; seconds only in the year 5138.
MILLISECONDS = 100_000_000_000
YEAR_9999 = 253_402_300_799


def seconds_of(value: Any) -> int | None:
    """A timestamp in seconds, from seconds, milliseconds or a date; None if there is none.

    Raises:
        BadValue: none of these, or beyond the year 9999.
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, date):
        value = _utc_seconds(value)
    try:
        number = int(float(value))
    except (TypeError, ValueError, OverflowError):
        if isinstance(value, str) and (moment := _date_of(value.strip())) is not None:
            return _utc_seconds(moment)
        raise BadValue(Reason.BAD_TIME, f"{value!r:.40}") from None
    seconds = number // 1000 if abs(number) >= MILLISECONDS else number
    if abs(seconds) > YEAR_9999:  # larger ones do not fit the columns that keep them
        raise BadValue(Reason.TIME_OUTSIDE, f"{value!r:.40}")
    return seconds


_DATES = ("%d-%b-%y", "%m %d, %Y", "%m/%d/%Y")


def _date_of(text: str) -> datetime | None:
    """A date in ISO 8601 or in a form that known review files use."""
    try:
        return datetime.fromisoformat(text.removesuffix("Z"))
    except ValueError:
        pass  # not ISO: the other forms follow
    for form in _DATES:
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    return None


def _utc_seconds(value: date) -> int:
    moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def text_of(value: Any) -> str:
    """A text field; a missing value (None, NaN), a list and an object count as empty."""
    if value is None or isinstance(value, list | dict) or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value)


def name_of(value: Any) -> str | None:
    """An identifier or label as storable text (lone surrogates become ``?``); None if it is empty."""
    text = text_of(value).strip().encode("utf-8", "replace").decode("utf-8")
    return text or None
