"""McAuley review files: JSON lines of the 2014, 2018 and 2023 releases, plain or gzip."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lwc.data.paths import locate
from lwc.data.rows import Bad, Progress, Row, Rows, excerpt, name_of, rating_of, seconds_of, text_of
from lwc.recipe import McAuleyFile

_BOM = b"\xef\xbb\xbf"


def lines(path: Path) -> Iterator[tuple[int, bytes] | Bad]:
    """Numbered raw lines; every gzip member is read, and a stream that ends early says so after its last line."""
    number = 0
    rest = b""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        while True:
            try:
                chunk = file.read(1 << 20)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                if rest:
                    number += 1
                    yield Bad(path.name, number, "cut off: the gzip stream ends inside this line", excerpt(rest))
                yield Bad(path.name, number + 1, f"damaged gzip: rows after here are lost ({error})")
                return
            if not chunk:
                break
            parts = (rest + chunk).split(b"\n")
            rest = parts.pop()
            for part in parts:
                number += 1
                yield number, part
    if rest:
        yield number + 1, rest


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _row(record: Any, file: str, line: int) -> Row:
    if not isinstance(record, dict):
        raise ValueError(f"not an object but {type(record).__name__}")
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


def parse(raw: bytes, file: str, line: int) -> Row | Bad | None:
    """One line; None for a blank one and for the brackets of an array written one object a line."""
    text = raw.strip()
    if line == 1:
        text = text.removeprefix(_BOM).strip()
    if line == 1 and text.startswith(b"["):
        text = text[1:].strip()
    if text.startswith(b"{"):
        text = text.rstrip(b",] \t\r") if text.endswith((b",", b"]")) else text
    if not text or text in (b"]", b"[", b","):
        return None
    try:
        return _row(json.loads(text.decode("utf-8"), object_pairs_hook=_pairs), file, line)
    except UnicodeDecodeError:
        return Bad(file, line, "invalid UTF-8", excerpt(raw))
    except json.JSONDecodeError as error:
        return Bad(file, line, f"bad JSON: {error.msg}", excerpt(raw))
    except (ValueError, RecursionError) as error:
        return Bad(file, line, str(error), excerpt(raw))


def read_file(path: Path) -> Rows:
    """Reviews and bad lines of one file."""
    for item in lines(path):
        if isinstance(item, Bad):
            yield item
            continue
        number, raw = item
        found = parse(raw, path.name, number)
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
