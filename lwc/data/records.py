"""Lines of a text table into records, by a known dialect."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lwc.data.rows import Bad, Reason, excerpt

# Of one line, which is no longer. A text that is too long is refused by those who read it.
csv.field_size_limit(1 << 24)
OPEN = "a quote that is not closed"
_ESCAPED = re.compile(r'(?<!\\)((?:\\\\)*)\\"')
_NUMBER = re.compile(r'"?\d+([.,]\d+)?"?\s*')

Taken = list[tuple[int, str]]
"""Physical lines of a record with their numbers."""


@dataclass(frozen=True)
class Dialect:
    """How a file is written.

    Args:
        quoting: as in `Format`.
        names: of the columns.
        ends: the file's line end.
        merges: whether a quoted field may run over lines that are rows by themselves; only if the recipe says so.
        spaced: whether spaces after a delimiter are no part of a field, also before its quote.
        longest: a quoted field that runs over lines of more characters is not closed.
    """

    delimiter: str
    quoting: str
    ends: bytes = b"\n"
    names: tuple[str, ...] = ()
    merges: bool = True
    spaced: bool = False
    longest: int = 1 << 18


class _Open(csv.Error):
    """A record goes on for too long."""


class _Feed:
    """Physical lines for `csv.reader`; remembers those of the current record, so that they can be read again."""

    def __init__(self, source: Iterable[tuple[int, bytes] | Bad], dialect: Dialect) -> None:
        self._source, self._dialect = iter(source), dialect
        self._other_end = "\r" if dialect.ends == b"\n" else "\n"
        self._back: deque[tuple[int, str]] = deque()
        self._held = 0
        self.taken: Taken = []
        self.bad: list[Bad] = []

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        self._held = self._held if self.taken else 0
        if self._held > self._dialect.longest:
            raise _Open
        number, text = self._back.popleft() if self._back else self._read()
        self.taken.append((number, text))
        self._held += len(text)
        # The other line-end character is white space in this file.
        return text.replace(self._other_end, " ") + "\n"

    def _read(self) -> tuple[int, str]:
        for item in self._source:
            if isinstance(item, Bad):
                self.bad.append(item)
                continue
            number, raw = item
            # Undecodable bytes become surrogates, which the row checks find.
            text = raw.decode("utf-8", "surrogateescape").removesuffix("\r").replace("\0", "")
            if self._dialect.quoting == "backslash":
                text = _ESCAPED.sub(r'\1""', text)
            return number, text
        raise StopIteration

    def give_back(self, taken: Taken) -> None:
        self._back.extendleft(reversed(taken))

    def reader(self) -> Iterator[list[str]]:
        delimiter, spaced = self._dialect.delimiter, self._dialect.spaced
        if self._dialect.quoting == "none":
            return csv.reader(self, delimiter=delimiter, strict=True, quoting=csv.QUOTE_NONE)
        return csv.reader(self, delimiter=delimiter, strict=True, skipinitialspace=spaced)


def split(
    source: Iterable[tuple[int, bytes] | Bad], dialect: Dialect, name: str
) -> Iterator[tuple[Taken, list[str]] | Bad]:
    """Lines and fields of every record. An unclosed quote loses one line, not the rest of the file."""
    feed = _Feed(source, dialect)
    reader = feed.reader()
    while True:
        feed.taken = []
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            number, text = feed.taken[0]
            detail = str(error)
            if "unexpected end" in detail:
                detail = OPEN
            elif isinstance(error, _Open):
                detail = f"{OPEN} within {dialect.longest:,} characters"
            yield Bad(name, number, Reason.BAD_QUOTING, excerpt(text), detail)
            if not feed.bad:  # in a truncated file, the open record is the truncated one
                feed.give_back(feed.taken[1:])
            reader = feed.reader()
            continue
        if not dialect.merges and len(feed.taken) > 1 and _are_rows(feed.taken, dialect):
            number, text = feed.taken[0]
            detail = f"a quote joins lines {number} to {feed.taken[-1][0]}, each of which is a row by itself"
            yield Bad(name, number, Reason.BAD_QUOTING, excerpt(text), detail)
            feed.give_back(feed.taken[1:])
            reader = feed.reader()
        elif fields:
            yield feed.taken, fields
    yield from feed.bad


def _are_rows(taken: Taken, dialect: Dialect) -> bool:
    """Whether the lines of one record are rows by themselves.

    In CSV, whose text has many delimiters, they must also have numbers in the same column.
    """
    rows = [text.split(dialect.delimiter) for _, text in taken]
    if any(len(cells) != len(dialect.names) for cells in rows):
        return False
    return dialect.delimiter == "\t" or any(all(map(_NUMBER.fullmatch, column)) for column in zip(*rows, strict=True))
