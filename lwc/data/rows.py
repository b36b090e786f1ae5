"""One review as a source gives it, or the reason a line gave none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Row(NamedTuple):
    """A review. ``rating`` is 1 to 5 stars, ``time`` is in seconds since 1970, ``line`` counts from 1.

    ``split`` is the value of a split column.

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
    split: str | None = None


class Reason(StrEnum):
    """Why a line gave no row. The value is the text that ``quality.json`` counts by."""

    TRUNCATED_GZIP = "truncated gzip"
    CORRUPT_GZIP = "corrupt gzip"
    AFTER_GZIP = "bytes after the end of the gzip data"
    TRUNCATED = "truncated file"
    CORRUPT = "corrupt compressed file"
    DAMAGED_TABLE = "damaged Parquet or Arrow file"
    LONG_LINE = "line longer than 16 MiB"
    NOT_UTF8 = "invalid UTF-8"
    BAD_JSON = "bad JSON"
    NOT_AN_OBJECT = "not an object"
    REPEATED_KEY = "a key is given twice"
    TOO_MANY_DIGITS = "a number has too many digits"
    NOT_A_VALUE = "a list or an object where one value is expected"
    BAD_QUOTING = "bad CSV quoting"
    HEADER_AGAIN = "the header again"
    CELL_COUNT = "wrong cell count"
    NO_RATING = "no rating"
    RATING_BOOLEAN = "rating is true or false, not a number"
    RATING_NO_NUMBER = "rating is not a number"
    RATING_NAN = "rating is NaN"
    RATING_OUTSIDE = "rating is outside 1 to 5"
    NO_LABEL = "no label"
    NO_SPLIT = "no split"
    BAD_TIME = "time is neither a number of seconds nor a date"
    TIME_OUTSIDE = "time is out of range"
    NO_USER = "no user"
    ROUNDED_ID = "id of over 15 digits stored as a float, so that different ids may have become one"
    NO_ITEM = "no item"
    NO_TIME = "no time"
    NO_ITEM_ID = "no parent_asin or asin"
    EMPTY_TEXT = "empty text"
    NO_WORDS = "no letters, digits or emoji"
    TOO_LONG = "text longer than 200,000 characters, which the endpoint refuses"


CUT_SHORT = (Reason.TRUNCATED_GZIP, Reason.CORRUPT_GZIP, Reason.TRUNCATED, Reason.CORRUPT)
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
        rows: how many rows are lost, where a damaged file says so.
    """

    file: str
    line: int
    reason: StrEnum
    excerpt: str = ""
    detail: str = ""
    rows: int = 1

    @property
    def message(self) -> str:
        """Reason and detail in one sentence."""
        return f"{self.reason}: {self.detail}" if self.detail else str(self.reason)

    def entry(self) -> str:
        """The line of ``quarantine.jsonl``."""
        found = {"file": self.file, "line": self.line, "reason": str(self.reason), "excerpt": self.excerpt}
        if self.detail:
            found["detail"] = self.detail
        if self.rows > 1:
            found["rows"] = self.rows
        return json.dumps(found, ensure_ascii=True) + "\n"


Rows = Iterator[Row | Bad]
Progress = Callable[[str], None]
_EXCERPT = 120


def printable(text: str) -> str:
    """Text on one line without control characters: binary content must not reach a terminal."""
    return "".join(one if one.isprintable() else " " if one.isspace() else "\ufffd" for one in text)


def excerpt(raw: bytes | str) -> str:
    """The beginning of a raw line as printable text."""
    text = raw[: 4 * _EXCERPT].decode("utf-8", errors="replace") if isinstance(raw, bytes) else raw
    return printable(text[:_EXCERPT])
