"""One review as a source gives it, or the reason why a line gave none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """A review. ``rating`` is 1 to 5 stars, ``time`` seconds since 1970, ``line`` 1-based."""

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
    try:
        stars = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"rating {value!r} is not a number") from None
    if math.isnan(stars):
        raise ValueError("rating is NaN")
    if not 1 <= stars <= 5:
        raise ValueError(f"rating {stars:g} is outside 1 to 5")
    return stars


# Milliseconds since 1970 pass this value before any review was written; seconds only in the year 5138.
_MILLISECONDS = 100_000_000_000


def seconds_of(value: Any) -> int | None:
    """A timestamp in seconds, whether given in seconds or milliseconds; None where there is none."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    try:
        number = int(float(value))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"time {value!r} is not a number of seconds or milliseconds") from None
    return number // 1000 if abs(number) >= _MILLISECONDS else number


def text_of(value: Any) -> str:
    """A text field; anything but text (None, NaN, a number's NaN) counts as empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value)


def name_of(value: Any) -> str | None:
    """An identifier or label as text; None where there is none."""
    text = text_of(value).strip()
    return text or None
