"""Objects in a JSON file: one a line, in an array, or one after another over several lines."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable, Collection, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from lwc.core.errors import DataError
from lwc.data.containers import Cut
from lwc.data.rows import Bad, BadValue, Reason, excerpt
from lwc.data.stream import MAX_LINE, head_of_text, lines, not_utf8, text

T = TypeVar("T")
# Strings, whose last quote may not have been read yet, and what opens and closes a value.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*("?)|[{}\[\]]', re.DOTALL)
_BETWEEN = b" \t\r\n,"
_PRETTY = re.compile(r"\{[ \t\r]*\n")
_MORE_ON_THE_LINE = re.compile(r"[ \t]*,[ \t]*[^ \t\r\n]")
_LIST_OF_ROWS = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:\s*\[\s*\{')
_COLUMN = re.compile(r'\{\s*"(?:[^"\\]|\\.)*"\s*:\s*(?:\[|\{\s*"0"\s*:)')
_TO_JSON = (
    "python -c 'import ast, json, sys; [print(json.dumps(ast.literal_eval(line))) for line in sys.stdin]'"
    " < {path} > NEW.jsonl"
)


def object_of(value: object) -> dict[str, Any]:
    """A JSON value that must be an object, else `BadValue`."""
    if not isinstance(value, dict):
        raise BadValue(Reason.NOT_AN_OBJECT, type(value).__name__)
    return value


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadValue(Reason.REPEATED_KEY)
    return found


def parse(raw: bytes, file: str, line: int, row_of: Callable[[object, str, int], T | Bad]) -> T | Bad | None:
    """One line; None for a blank one and for the brackets of an array with one object a line.

    ``row_of`` turns a parsed value into a row, or raises `BadValue`.
    """
    found = raw.strip()
    if line == 1 and found.startswith(b"["):
        found = found[1:].strip()
    if found.startswith(b"{"):
        found = found.rstrip(b",] \t\r") if found.endswith((b",", b"]")) else found
    if not found or found in (b"]", b"[", b","):
        return None
    return _parsed(found, raw, file, line, row_of)


def _parsed(found: bytes, raw: bytes, file: str, line: int, row_of: Callable[[object, str, int], T | Bad]) -> T | Bad:
    reason: StrEnum
    try:
        return row_of(json.loads(found.decode("utf-8"), object_pairs_hook=_pairs), file, line)
    except UnicodeDecodeError:
        reason, detail = Reason.NOT_UTF8, not_utf8(raw)
    except json.JSONDecodeError as error:
        reason, detail = Reason.BAD_JSON, error.msg
    except RecursionError:
        reason, detail = Reason.BAD_JSON, "nested too deep"
    except BadValue as error:
        reason, detail = error.reason, error.detail
    except ValueError:  # of an integer
        reason, detail = Reason.TOO_MANY_DIGITS, f"over {sys.get_int_max_str_digits():,}"
    return Bad(file, line, reason, excerpt(raw), detail)


def objects(
    path: Path,
    row_of: Callable[[object, str, int], T | Bad],
    keys: Collection[str] = (),
    encoding: str | None = None,
) -> Iterator[T | Bad]:
    """What ``row_of`` makes of every object, and bad lines.

    Args:
        keys: keys that tell a row from an object that contains all rows.

    Raises:
        DataError: the file has another shape, such as one object with a list of all rows.
    """
    if not one_a_line(path, keys, encoding):
        for value in _values(path, encoding):
            yield value if isinstance(value, Bad) else _parsed(value[1], value[1], path.name, value[0], row_of)
        return
    for item in lines(path, path.name, encoding=encoding):
        found = item if isinstance(item, Bad) else parse(item[1], path.name, item[0], row_of)
        if found is not None:
            yield found


def one_a_line(path: Path, keys: Collection[str] = (), encoding: str | None = None) -> bool:
    """Whether a JSON file has at most one object a line, as its first object shows.

    Raises:
        DataError: one object contains all rows, or the lines are Python, not JSON.
    """
    head, whole = head_of_text(path, encoding)
    content = head.decode("utf-8", "replace").lstrip()
    first, _, _ = content.partition("\n")
    if _is_python(first.strip().rstrip(",")):
        raise DataError(
            f"{path}: Python dictionaries (quotes are '), not JSON",
            "convert it: " + _TO_JSON.format(path=path),
        )
    array = content.startswith("[")
    body = content[1:].lstrip() if array else content
    if not body.startswith(("{", "[") if array else "{"):
        return True
    try:
        value, end = json.JSONDecoder().raw_decode(body)
    except (ValueError, RecursionError):
        if not (whole or array) and ("\n" not in content or _PRETTY.match(body)):
            _refuse_outer(body, path)
        return True
    if not array and whole and not body[end:].strip():
        _refuse_shape(value, path, keys)
    return not (_PRETTY.match(body) or (array and _MORE_ON_THE_LINE.match(body[end:])))


def _is_python(line: str) -> bool:
    if not re.match(r"\{\s*u?'", line):
        return False
    try:
        return isinstance(ast.literal_eval(line), dict)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False


def _refuse_outer(body: str, path: Path) -> None:
    """As `_refuse_shape`, for an object that is larger than what was looked at."""
    if (found := _LIST_OF_ROWS.search(body)) is not None:
        _rows_under(found[1], path)
    if _COLUMN.match(body):
        _by_column(path)


def _refuse_shape(value: dict[str, Any], path: Path, keys: Collection[str]) -> None:
    """Raise `DataError` for the only object of a file if it contains rows, and is none."""
    if any(key in value and not isinstance(value[key], list | dict) for key in keys):
        return
    for name, found in value.items():
        if isinstance(found, list) and found and all(isinstance(one, dict) for one in found):
            _rows_under(name, path)
    if len(value) > 1 and (
        all(isinstance(found, dict) for found in value.values())
        or all(isinstance(found, list) for found in value.values())
    ):
        _by_column(path)


def _rows_under(name: str, path: Path) -> NoReturn:
    raise DataError(
        f"{path}: one object with the rows in a list under {name!r}",
        f"write one row a line: jq -c '.[\"{name}\"][]' {path} > NEW.jsonl",
    )


def _by_column(path: Path) -> NoReturn:
    raise DataError(
        f"{path}: one object with the values of each column, not one object for each row",
        f"write one row a line: python -c \"import pandas; pandas.read_json('{path}')"
        f".to_json('NEW.jsonl', orient='records', lines=True)\"",
    )


def _values(path: Path, encoding: str | None) -> Iterator[tuple[int, bytes] | Bad]:
    """Every object of an array, or of several objects one after another, with the line that it starts on."""
    buffer = bytearray()
    line, depth, at, start = 1, 0, 0, 0
    opened = False

    def between(stop: int) -> Iterator[tuple[int, bytes]]:
        # The brackets of the array itself carry no row; anything else is not lost without a word.
        found = bytes(buffer[start:stop]).strip(_BETWEEN)
        if found:
            yield line + buffer[start:stop].count(b"\n", 0, buffer[start:stop].find(found)), found

    for part in text(path, encoding):
        if isinstance(part, Cut):
            at_line = line + buffer[start:].count(b"\n")
            yield Bad(path.name, at_line, part.reason, excerpt(bytes(buffer[start:])), part.detail, part.rows)
            return
        buffer += part
        while (token := _TOKEN.search(buffer, at)) is not None:
            mark = token[0]
            if mark[:1] == b'"':
                if not token[1]:
                    break  # the rest of the string is not read yet
            elif mark in (b"{", b"["):
                if depth == 0 and mark == b"[" and not opened:
                    yield from between(token.start())
                    line, start, opened = line + buffer[start : token.end()].count(b"\n"), token.end(), True
                else:
                    if depth == 0:
                        yield from between(token.start())
                        line, start = line + buffer[start : token.start()].count(b"\n"), token.start()
                    depth += 1
            elif depth == 0:
                yield from between(token.start())
                line, start = line + buffer[start : token.end()].count(b"\n"), token.end()
            else:
                depth -= 1
                if depth == 0:
                    yield line, bytes(buffer[start : token.end()])
                    line, start = line + buffer[start : token.end()].count(b"\n"), token.end()
            at = token.end()
        else:
            at = len(buffer)
        if start:
            del buffer[:start]
            at, start = at - start, 0
        if len(buffer) > MAX_LINE:
            yield Bad(path.name, line, Reason.LONG_LINE, excerpt(bytes(buffer)), "the rest of the file is lost")
            return
    if depth:
        yield Bad(path.name, line, Reason.TRUNCATED, excerpt(bytes(buffer)), "the file ends inside an object")
    else:
        yield from between(len(buffer))
