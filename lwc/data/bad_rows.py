"""Bad rows: counted, kept in a quarantine file, and described by the first example of each reason."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lwc.core.errors import DataError
from lwc.data.rows import CUT_SHORT, Bad, Progress, Reason, Row, excerpt, printable
from lwc.data.source import read_rows
from lwc.recipe import DataSource

Entry = Mapping[str, Any]
"""A line of a quarantine file."""
_SHOWN = 4
_WRITTEN = ("repair the line", "say how the file is written in data.source.format (delimiter, quoting, header)")
_STARS = ("", "map data.source.columns.rating to the column with the stars")
_COPY = ("download or copy the file again", "")
# What to do with the file, and what to say in the recipe.
_HINTS: Mapping[str, tuple[str, str]] = {
    Reason.NOT_UTF8: (
        "convert the file with `iconv -f CP1252 -t UTF-8 FILE > NEW`",
        "in a table source, set data.source.format.encoding: cp1252 (or the encoding it is in)",
    ),
    Reason.BAD_QUOTING: _WRITTEN,
    Reason.CELL_COUNT: _WRITTEN,
    Reason.BAD_JSON: ("write one JSON object a line, or give the file the suffix of its format", ""),
    Reason.NOT_AN_OBJECT: ("write one JSON object a line, with a key for each column", ""),
    Reason.NOT_A_VALUE: ("write a column with the value itself, and map that", ""),
    Reason.NO_RATING: _STARS,
    Reason.RATING_NO_NUMBER: _STARS,
    Reason.NO_LABEL: ("", "map data.source.columns.label to the column with the class"),
    Reason.NO_SPLIT: ("say in every row which split it is of", ""),
    Reason.BAD_TIME: (
        "write times as ISO 8601",
        "leave data.source.columns.time out if nothing needs times; for dates such as 03/04/2023, set"
        " data.source.format.dates: day_first or month_first",
    ),
    Reason.TIME_OUTSIDE: ("", "leave data.source.columns.time out if nothing needs times"),
    Reason.ROUNDED_ID: ("write ids as integers or text, from the place where they are whole", ""),
    Reason.DAMAGED_TABLE: _COPY,
    **dict.fromkeys(CUT_SHORT, _COPY),
}


def read_good(
    source: DataSource, take: Callable[[Row], Bad | None], quarantine: Path, progress: Progress, more: bool = False
) -> tuple[int, Counter[str]]:
    """Hand every row of a source to ``take``; bad lines, and rows that it refuses, go to ``quarantine``.

    With ``more`` they are added to those of another source.

    Returns:
        How many rows were read, and how many were bad by reason. Both count the rows that a damaged file has lost.
    """
    read, counts = 0, Counter[str]()
    with quarantine.open("a" if more else "w", encoding="utf-8") as file:
        for number, item in enumerate(read_rows(source, progress), start=1):
            if number % 5000 == 0:
                progress(f"{number:,} rows read")
            bad = item if isinstance(item, Bad) else take(item)
            read += 1 if bad is None else bad.rows
            if bad is not None:
                counts[bad.reason.value] += bad.rows
                file.write(bad.entry())
    return read, counts


def good_rows(source: DataSource, limit: float, progress: Progress) -> Iterator[Row]:
    """The rows of a source whose bad rows are not kept.

    Raises:
        DataError: as `check_bad`, after the last row.
    """
    read, counts, first = 0, Counter[str](), dict[str, Entry]()
    for item in read_rows(source, progress):
        if isinstance(item, Bad):
            read += item.rows
            counts[item.reason.value] += item.rows
            first.setdefault(item.reason.value, json.loads(item.entry()))
        else:
            read += 1
            yield item
    _check(counts, read, limit, first)


def check_bad(bad: Counter[str], read: int, limit: float, quarantine: Path, hint: str = "") -> None:
    """Raise `DataError` if no row was read or is good, or if the share of bad ones is above ``limit``.

    The error shows the first row of each reason in ``quarantine``; ``hint`` comes first of what to do.
    """
    _check(bad, read, limit, first_of(quarantine, _most(bad)), hint, f"; all bad rows are in {quarantine.absolute()}")


def _most(bad: Counter[str]) -> list[str]:
    return [reason for reason, _ in bad.most_common(_SHOWN)]


def _check(
    bad: Counter[str], read: int, limit: float, first: Mapping[str, Entry], hint: str = "", kept: str = ""
) -> None:
    bad = bad - Counter({Reason.HEADER_AGAIN.value: bad[Reason.HEADER_AGAIN]})  # was never a row
    count, most = bad.total(), _most(bad)
    if read == 0:
        raise DataError("the source has no rows", "name another source")
    if count <= limit * read and count < read:
        return
    reasons = ", ".join(f"{reason} {bad[reason]}" for reason in most)
    allowed = "" if limit == 1 else f", more than data.max_bad_rows {limit:.0%}"
    shown = "".join(f"\n  {_place(first[reason])}" for reason in most if reason in first)
    hints = [hint, *(_advice(reason, first.get(reason)) for reason in most)]
    if 10 * count <= read:
        hints.append(f"to leave these rows out, set data.max_bad_rows: {math.ceil(1000 * count / read) / 1000:g}")
    what = "; ".join(dict.fromkeys(filter(None, hints))) or "repair the rows"
    raise DataError(f"{count} of {read} rows are bad{allowed} ({reasons}); the first of each:{shown}", what + kept)


def first_of(quarantine: Path, reasons: Sequence[str]) -> dict[str, Entry]:
    """The first entry of a quarantine file for each reason."""
    found: dict[str, Entry] = {}
    with quarantine.open(encoding="utf-8") as file:
        for line in file:
            entry = json.loads(line)
            if entry["reason"] in reasons:
                found.setdefault(entry["reason"], entry)
            if len(found) == len(reasons):
                break
    return found


def refused(bad: Bad, path: Path) -> DataError:
    """The error about one row, where every row must be good and no recipe describes the file."""
    entry = json.loads(bad.entry())
    return DataError(_place({**entry, "file": str(path)}), _advice(bad.reason, {**entry, "file": str(path)}, False))


def _place(entry: Entry) -> str:
    rows = f" and {entry['rows'] - 1} more rows" if "rows" in entry else ""
    value = f": {excerpt(entry['excerpt'])}" if entry["excerpt"] else ""
    detail = f": {printable(entry['detail'])}" if "detail" in entry else ""
    return f"{entry['file']}, line {entry['line']}{rows}: {entry['reason']}{detail}{value}"


def _advice(reason: str, entry: Entry | None, recipe: bool = True) -> str:
    """What to do about a reason, as its first example shows."""
    to_file, to_recipe = _HINTS.get(reason, ("", ""))
    if reason in (Reason.CELL_COUNT, Reason.BAD_QUOTING) and entry and '\\"' in entry["excerpt"]:
        to_recipe = "set data.source.format.quoting: backslash if a backslash escapes quotes"
    hints = [to_file, to_recipe] if recipe else [to_file or "repair the row"]
    return ", or ".join(filter(None, hints)).replace("FILE", entry["file"] if entry else "FILE")
