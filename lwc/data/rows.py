"""One review as a source gives it, or the reason why a line gave none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, NamedTuple


class Row(NamedTuple):
    """A review. ``rating`` is 1 to 5 stars, ``time`` seconds since 1970, ``line`` 1-based.

    A tuple, because millions are made: a frozen dataclass takes several times as long.
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


@dataclass(frozen=True)
class Bad:
    """A line that gave no review, and why; ``excerpt`` is its beginning."""

    file: str
    line: int
    reason: str
    excerpt: str = ""


Rows = Iterator[Row | Bad]
Progress = Callable[[str], None]
_EXCERPT = 120


def excerpt(raw: bytes | str) -> str:
    """The beginning of a raw line as printable text."""
    text = raw.decode("utf-8", errors="replace") if isinstance(raw, bytes) else raw
    return text[:_EXCERPT]


def rating_of(value: Any) -> float | None:
    """Stars as a number; None where there are none.

    Raises:
        ValueError: not a number, NaN, or outside 1 to 5.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool):
        raise ValueError("rating is true or false, not a number")
    try:
        stars = float(value)
    except OverflowError:
        raise ValueError("rating is outside 1 to 5") from None
    except (TypeError, ValueError):
        raise ValueError(f"rating is not a number: {value!r:.40}") from None
    if math.isnan(stars):
        raise ValueError("rating is NaN")
    if not 1 <= stars <= 5:
        raise ValueError(f"rating is outside 1 to 5: {stars:g}")
    return stars


# Milliseconds since 1970 pass this value before any review was written; seconds only in the year 5138.
MILLISECONDS = 100_000_000_000
YEAR_9999 = 253_402_300_799


def seconds_of(value: Any) -> int | None:
    """A timestamp in seconds, whether given in seconds or milliseconds; None where there is none.

    Raises:
        ValueError: neither, nor a date, or beyond the year 9999.
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
        raise ValueError(f"time is neither seconds, milliseconds nor a date: {value!r:.40}") from None
    seconds = number // 1000 if abs(number) >= MILLISECONDS else number
    if abs(seconds) > YEAR_9999:  # larger ones do not fit the columns that keep them
        raise ValueError(f"time is out of range: {value!r:.40}")
    return seconds


_DATES = ("%d-%b-%y", "%m %d, %Y", "%m/%d/%Y")


def _date_of(text: str) -> datetime | None:
    """ISO 8601, or one of the forms that the known review files use."""
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
    """A text field; what is missing (None, NaN) or no text (a list, an object) counts as empty."""
    if value is None or isinstance(value, list | dict) or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value)


def name_of(value: Any) -> str | None:
    """An identifier or label as text that can be stored (lone surrogates become ``?``); None where there is none."""
    text = text_of(value).strip().encode("utf-8", "replace").decode("utf-8")
    return text or None
