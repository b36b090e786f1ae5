"""Rows of CSV and TSV files. How a file is written is what the recipe says, or else what its beginning shows."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from lwc.core.errors import DataError
from lwc.data.columns import Wanted
from lwc.data.records import OPEN, Dialect, Taken, split
from lwc.data.rows import Bad, Reason, excerpt
from lwc.data.stream import head_of_text, line_end, lines, not_utf8
from lwc.recipe import Format

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SEP = re.compile(r'"?sep=(.)"?')
_QUOTED = re.compile(rb'"(?:[^"]|"")*"')
_LONGEST_NAME = 80
_PREAMBLE = 30

Sample = list[tuple[int, bytes]]
Record = tuple[int, dict[str, str]]


class _Beginning(NamedTuple):
    """The first lines of a file, from the first that is not blank.

    ``base`` is how they are split by default, ``free`` whether the delimiter may be another, ``whole`` whether the file
    has no more lines.
    """

    base: Dialect
    sample: Sample
    whole: bool
    free: bool


def notes(path: Path, suffix: str, form: Format, wanted: Wanted) -> list[str]:
    """How a file is read where its beginning decides about it, one sentence without the file's name each."""
    found: list[str] = []
    _dialect(path, suffix, form, wanted, found.append)
    return found


def records(path: Path, suffix: str, form: Format, wanted: Wanted) -> Iterator[Record | Bad]:
    """Rows of a CSV or TSV file, by the physical line on which they start.

    Line breaks inside quotes are kept. A bare carriage return ends rows if it ends the header.

    Raises:
        DataError: the file is empty, lacks a column, has one twice, or is not in the encoding of ``form``.
    """
    dialect, first = _dialect(path, suffix, form, wanted)
    width = len(dialect.names)
    for found in split(lines(path, path.name, dialect.ends, form.encoding), dialect, path.name):
        if isinstance(found, Bad):
            yield found
            continue
        taken, cells = found
        line = taken[0][0]
        if line < first:
            continue
        if len(cells) != width:
            shown = "\n".join(text for _, text in taken)
            detail = f"{len(cells)}, the header has {width}"
            if "\r" in shown:
                detail += "; it has a carriage return, which does not end lines in this file"
            yield Bad(path.name, line, Reason.CELL_COUNT, excerpt(shown), detail)
        elif line > first and dialect.names == tuple(cell.strip().lstrip("\ufeff") for cell in cells):
            yield Bad(path.name, line, Reason.HEADER_AGAIN, excerpt(taken[0][1]))
        elif any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
            raw = "\n".join(text for _, text in taken).encode("utf-8", "surrogateescape")
            yield Bad(path.name, line, Reason.NOT_UTF8, excerpt(raw), not_utf8(raw))
        else:
            yield line, dict(zip(dialect.names, cells, strict=True))


def names_of(path: Path, suffix: str, form: Format) -> tuple[str, ...]:
    """Column names of a file whose columns nobody has named yet: those of the first line, split into the most.

    Raises:
        DataError: the file is empty or no text.
    """
    base, sample, _, free = _beginning(path, suffix, form)
    marks = [base.delimiter, *(mark for mark in DELIMITERS if free and mark != base.delimiter)]
    found = [_header(replace(base, delimiter=mark), sample, Wanted({})) for mark in marks]
    return max((one[1].names for one in found if not isinstance(one, Bad)), key=len, default=())


def _beginning(path: Path, suffix: str, form: Format) -> _Beginning:
    head, whole = head_of_text(path, form.encoding)
    ends = line_end(head)
    sample = list(enumerate(head.split(ends), start=1))
    if not whole or not sample[-1][1]:
        sample.pop()
    while sample and not sample[0][1].strip():
        del sample[0]
    delimiter = form.delimiter
    if sample and (found := _SEP.fullmatch(sample[0][1].decode("utf-8", "replace").strip())) is not None:
        delimiter = delimiter or found[1]
        del sample[0]
    if not sample:
        what = "empty file" if whole and not head.strip() else "no whole line in it"
        raise DataError(f"{path}: {what}", "download or copy it again, or name another file")
    base = Dialect(delimiter or ("\t" if suffix == ".tsv" else ","), form.quoting or "standard", ends)
    return _Beginning(base, sample, whole, delimiter is None)


def _dialect(
    path: Path, suffix: str, form: Format, wanted: Wanted, say: Callable[[str], None] = lambda _: None
) -> tuple[Dialect, int]:
    """How a file is written, and the number of the first line that is a row."""
    base, sample, whole, free = _beginning(path, suffix, form)
    header: Taken = []
    if form.header is False:
        dialect = _numbered(base, sample, path, wanted)
    else:
        header, dialect = _with_header(base, sample, path, form, wanted, say, free)
        sample = [one for one in sample if one[0] > header[-1][0]]
    first = header[-1][0] + 1 if header else sample[0][0]
    if any(re.match(' +"', cell) for cell in _cells(dialect, sample)):
        spaced = replace(dialect, spaced=True)
        if _unread(spaced, base.quoting, sample, whole) <= _unread(dialect, base.quoting, sample, whole):
            dialect = spaced
            say("spaces before quotes are left out, as the beginning shows")
    if form.quoting is None:
        quoting, merges = _quoting(dialect, sample, whole, header)
        dialect = replace(dialect, quoting=quoting, merges=merges)
        if quoting != ("none" if dialect.delimiter == "\t" else "standard"):
            say(f"quoting is {quoting}, as the beginning shows")
    return _with_row_names(dialect, sample, say), first


def _cells(dialect: Dialect, sample: Sample) -> Iterator[str]:
    return (cell for found in split(sample, dialect, "") if not isinstance(found, Bad) for cell in found[1])


def _numbered(base: Dialect, sample: Sample, path: Path, wanted: Wanted) -> Dialect:
    rows = (found[1] for found in split(sample, base, path.name) if not isinstance(found, Bad))
    names = tuple(str(number) for number in range(1, len(next(rows, [""])) + 1))
    advice = f"without a header, columns are named by number, '1' to '{len(names)}'"
    if len(names) == 1:
        advice += "; if there are several, " + _set(wanted, "delimiter")
    wanted.check(names, str(path), advice)
    return replace(base, names=names)


def _header(base: Dialect, sample: Sample, wanted: Wanted) -> tuple[Taken, Dialect] | Bad:
    found = next(split(sample, replace(base, spaced=True), ""))
    if isinstance(found, Bad):
        found = next(split(sample, base, ""))
    if isinstance(found, Bad):
        return found
    taken, cells = found
    return taken, replace(base, names=tuple(wanted.spelled(cell.strip()) for cell in cells))


def _with_header(
    base: Dialect, sample: Sample, path: Path, form: Format, wanted: Wanted, say: Callable[[str], None], free: bool
) -> tuple[Taken, Dialect]:
    """The header's lines, and the dialect with its names; a ``free`` delimiter may be another than the usual one."""
    header, advice = _header(base, sample, wanted), ""
    lacking = isinstance(header, Bad) or wanted.missing(header[1].names)
    if lacking and form.header is None and (later := _later_header(base, sample, wanted, free)) is not None:
        say(f"the header is on line {later[0][0][0]}, and the lines before it are left out")
        return later
    if lacking:
        tried = {mark: _header(replace(base, delimiter=mark), sample, wanted) for mark in DELIMITERS}
        others = {mark: one for mark, one in tried.items() if not isinstance(one, Bad)}
        fitting = {mark: one for mark, one in others.items() if not wanted.missing(one[1].names)}
        widest = max(others, key=lambda mark: len(others[mark][1].names), default=None)
        if free and len(fitting) == 1:
            ((mark, header),) = fitting.items()
            say(f"fields are separated by {DELIMITERS[mark]}, as the header shows")
        elif widest and (isinstance(header, Bad) or len(header[1].names) == 1) and len(others[widest][1].names) > 1:
            header = others[widest] if free else header
            # A header that has some of the columns is split right; what it lacks is another matter.
            if not free or wanted.names.isdisjoint(others[widest][1].names):
                advice = f"; if fields are separated by {DELIMITERS[widest]}, {_set(wanted, f'delimiter: {widest!r}')}"
    if isinstance(header, Bad):
        where = f"{path}, line {sample[0][0]}"
        raise DataError(f"{where}: the header cannot be read: {header.message}: {header.excerpt}", "repair the header")
    taken, dialect = header
    if form.header is None:
        _check_header(dialect, path, wanted)
    wanted.check(dialect.names, str(path), advice and wanted.hint + advice)
    return taken, dialect


def _later_header(base: Dialect, sample: Sample, wanted: Wanted, free: bool) -> tuple[Taken, Dialect] | None:
    """A line below a title or comments that has every wanted column, of which there must be several."""
    marks = [base.delimiter, *(mark for mark in DELIMITERS if mark != base.delimiter)] if free else [base.delimiter]
    for start in range(1, min(_PREAMBLE, len(sample))) if len(wanted.names) > 1 else ():
        for mark in marks:
            found = _header(replace(base, delimiter=mark), sample[start : start + _PREAMBLE], wanted)
            if not isinstance(found, Bad) and not wanted.missing(found[1].names):
                return found
    return None


def _set(wanted: Wanted, setting: str) -> str:
    return f"set {wanted.options}.{setting}" if wanted.options else f"rewrite the file ({setting} is not usual)"


def _check_header(dialect: Dialect, path: Path, wanted: Wanted) -> None:
    """Raise `DataError` for a first line that is a row, or is not UTF-8."""
    line = dialect.delimiter.join(dialect.names)
    raw = line.encode("utf-8", "surrogateescape")
    if found := not_utf8(raw):
        option = f", or set {wanted.options}.encoding: cp1252" if wanted.options else ""
        hint = f"convert it with `iconv -f CP1252 -t UTF-8 {path} > NEW`{option}; if it is binary, write it as text"
        raise DataError(f"{path}: the header is not UTF-8: {found}: {excerpt(raw)}", hint)
    lacking = wanted.missing(dialect.names)
    if lacking and re.match(r'\s*\[?\s*\{\s*"', line):
        raise DataError(f"{path}: JSON, not a text table: {excerpt(line)}", "give the file the suffix .jsonl")
    near = any(difflib.get_close_matches(name, dialect.names, n=1) for name in lacking)
    number = any(re.fullmatch(r"\d+(\.\d+)?", name) for name in dialect.names)
    names = dialect.names if lacking else wanted.names
    if any(len(name) > _LONGEST_NAME for name in names) or (lacking and number and not near):
        hint = "give the file a header line"
        if wanted.options:
            hint = f"set {wanted.options}.header: false and name columns by number, from '1'; true if it is a header"
        raise DataError(f"{path}: the first line looks like a row, not a header: {excerpt(line)}", hint)


def _quoting(dialect: Dialect, sample: Sample, whole: bool, header: Taken) -> tuple[str, bool]:
    """Quoting, decided from the beginning of a file, and whether a quoted field may join lines that are rows.

    TSV knows no quoting, so its quotes are text, unless more rows can be read with quoted fields, or as many where the
    header is quoted or a field has doubled quotes. In CSV, a backslash escapes a quote if more rows are read like that.
    """

    def unread(quoting: str) -> int:
        return _unread(dialect, quoting, sample, whole)

    if dialect.delimiter != "\t":
        escapes = any(b'\\"' in raw for _, raw in sample)
        return ("backslash" if escapes and unread("backslash") < unread("standard") else "standard"), False
    in_quotes = bool(header) and all(_is_quoted(text) for _, text in header)
    quotes = [cell for _, raw in sample if b'"' in raw for cell in raw.split(b"\t")]
    if not in_quotes and not quotes:
        return "none", True
    shown = in_quotes or any(_QUOTED.fullmatch(cell) and b'""' in cell[1:-1] for cell in quotes)
    standard, literal = unread("standard"), unread("none")
    return ("standard", False) if standard < literal or (shown and standard == literal) else ("none", True)


def _is_quoted(line: str) -> bool:
    return all(_QUOTED.fullmatch(cell.encode()) for cell in line.rstrip("\n").split("\t"))


def _unread(dialect: Dialect, quoting: str, sample: Sample, whole: bool) -> int:
    """How many records of a sample cannot be read; the last one of a part of a file may be open."""
    tried = replace(dialect, quoting=quoting, merges=False, longest=1 << 17)
    bad, widths = 0, Counter[int]()
    for found in split(sample, tried, ""):
        if not isinstance(found, Bad):
            widths[len(found[1])] += 1
        elif not whole and found.detail == OPEN:
            break
        else:
            bad += 1
    if dialect.delimiter == "\t" and set(widths) == {len(dialect.names) + 1}:  # `_with_row_names`
        return bad
    return bad + widths.total() - widths[len(dialect.names)]


def _with_row_names(dialect: Dialect, sample: Sample, say: Callable[[str], None]) -> Dialect:
    """As ``dialect``, unless all rows have one cell more: an empty last one, or a row number in front, as R has it."""
    rows = [found[1] for found in split(sample, dialect, "") if not isinstance(found, Bad)]
    if len(rows) < 2 or any(len(cells) != len(dialect.names) + 1 for cells in rows):
        return dialect
    if not any(cells[-1] for cells in rows):
        say("every row ends in a delimiter more than the header")
        return replace(dialect, names=(*dialect.names, ""))
    if all(cells[0].isdecimal() for cells in rows) and len({cells[0] for cells in rows}) == len(rows):
        say("the first column has no name; it numbers the rows")
        return replace(dialect, names=("", *dialect.names))
    return dialect
