"""McAuley review files: JSON lines of the 2014, 2018 and 2023 releases, plain or gzip."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

from lwc.data.fields import name_of, rating_of, seconds_of, text_of
from lwc.data.paths import locate, locate_all
from lwc.data.rows import Bad, BadValue, Progress, Reason, Row, Rows, excerpt
from lwc.data.source import Input, Source
from lwc.data.stream import lines
from lwc.recipe import McAuleyFile


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadValue(Reason.REPEATED_KEY)
    return found


def object_of(value: object) -> dict[str, Any]:
    """A JSON value that must be an object, else `BadValue`."""
    if not isinstance(value, dict):
        raise BadValue(Reason.NOT_AN_OBJECT, type(value).__name__)
    return value


def review_of(value: object, file: str, line: int) -> Row:
    """A review of any of the three releases.

    Raises:
        BadValue: not an object, or no usable rating or time.
    """
    record = object_of(value)
    new = "rating" in record or "user_id" in record
    rating = rating_of(record.get("rating" if new else "overall"))
    if rating is None:
        raise BadValue(Reason.NO_RATING)
    return Row(
        file,
        line,
        body=text_of(record.get("text" if new else "reviewText")),
        title=text_of(record.get("title" if new else "summary")),
        rating=rating,
        user=name_of(record.get("user_id" if new else "reviewerID")),
        item=name_of((record.get("parent_asin") or record.get("asin")) if new else record.get("asin")),
        time=seconds_of(record.get("timestamp" if new else "unixReviewTime")),
    )


def parse(
    raw: bytes, file: str, line: int, row_of: Callable[[object, str, int], Row | Bad] = review_of
) -> Row | Bad | None:
    """One line; None for a blank one and for the brackets of an array with one object a line.

    ``row_of`` turns a parsed value into a row, or raises `BadValue`.
    """
    text = raw.strip()
    if line == 1 and text.startswith(b"["):
        text = text[1:].strip()
    if text.startswith(b"{"):
        text = text.rstrip(b",] \t\r") if text.endswith((b",", b"]")) else text
    if not text or text in (b"]", b"[", b","):
        return None
    reason: StrEnum
    try:
        return row_of(json.loads(text.decode("utf-8"), object_pairs_hook=_pairs), file, line)
    except UnicodeDecodeError:
        reason, detail = Reason.NOT_UTF8, ""
    except json.JSONDecodeError as error:
        reason, detail = Reason.BAD_JSON, error.msg
    except RecursionError:
        reason, detail = Reason.BAD_JSON, "nested too deep"
    except BadValue as error:
        reason, detail = error.reason, error.detail
    except ValueError:  # of an integer
        reason, detail = Reason.TOO_MANY_DIGITS, f"over {sys.get_int_max_str_digits():,}"
    return Bad(file, line, reason, excerpt(raw), detail)


def read_file(path: Path, row_of: Callable[[object, str, int], Row | Bad] = review_of) -> Rows:
    """Reviews and bad lines of one file."""
    for item in lines(path, path.name):
        if isinstance(item, Bad):
            yield item
            continue
        number, raw = item
        found = parse(raw, path.name, number, row_of)
        if found is not None:
            yield found


def read(source: McAuleyFile, progress: Progress) -> Rows:
    """Reviews of every named file, in order."""
    for name in source.paths:
        progress(f"reading {name}")
        yield from read_file(locate(name))


SOURCE = Source[McAuleyFile](
    read,
    files=lambda settings: locate_all(settings.paths),
    inputs=lambda settings: [Input(name, locate(name)) for name in settings.paths],
)
