"""McAuley review files: JSON lines of the 2014, 2018 and 2023 releases, plain or gzip."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lwc.data.paths import locate
from lwc.data.rows import Bad, Progress, Row, Rows, excerpt, name_of, rating_of, seconds_of, text_of
from lwc.data.stream import lines
from lwc.recipe import McAuleyFile


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def check_object(record: Any) -> None:
    """Raise `ValueError` where a line holds another JSON value than an object."""
    if not isinstance(record, dict):
        raise ValueError(f"not an object but {type(record).__name__}")


def review_of(record: Any, file: str, line: int) -> Row:
    """A review of any of the three releases; `ValueError` where it has no usable rating, or is no object."""
    check_object(record)
    new = "rating" in record or "user_id" in record
    rating = rating_of(record.get("rating" if new else "overall"))
    if rating is None:
        raise ValueError("no rating")
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
    raw: bytes, file: str, line: int, row_of: Callable[[Any, str, int], Row | Bad] = review_of
) -> Row | Bad | None:
    """One line; None for a blank one and for the brackets of an array written one object a line.

    ``row_of`` makes the row of a parsed value; its `ValueError` is the reason why the line gave none.
    """
    text = raw.strip()
    if line == 1 and text.startswith(b"["):
        text = text[1:].strip()
    if text.startswith(b"{"):
        text = text.rstrip(b",] \t\r") if text.endswith((b",", b"]")) else text
    if not text or text in (b"]", b"[", b","):
        return None
    try:
        return row_of(json.loads(text.decode("utf-8"), object_pairs_hook=_pairs), file, line)
    except UnicodeDecodeError:
        return Bad(file, line, "invalid UTF-8", excerpt(raw))
    except json.JSONDecodeError as error:
        return Bad(file, line, f"bad JSON: {error.msg}", excerpt(raw))
    except RecursionError:
        return Bad(file, line, "bad JSON: nested too deep", excerpt(raw))
    except ValueError as error:
        return Bad(file, line, str(error), excerpt(raw))


def read_file(path: Path, row_of: Callable[[Any, str, int], Row | Bad] = review_of) -> Rows:
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


def files(source: McAuleyFile) -> list[Path]:
    """The files that are read."""
    return [locate(name) for name in source.paths]
