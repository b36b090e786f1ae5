"""McAuley review files: JSON lines of the 2014, 2018 and 2023 releases, plain or gzip."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lwc.data.fields import id_of, rating_of, seconds_of, text_of, user_of
from lwc.data.json_text import object_of, objects, one_a_line
from lwc.data.paths import locate_all
from lwc.data.rows import BadValue, Progress, Reason, Row, Rows
from lwc.data.source import Input, Source
from lwc.recipe import McAuleyFile


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
        user=user_of(record.get("user_id" if new else "reviewerID")),
        item=id_of((record.get("parent_asin") or record.get("asin")) if new else record.get("asin")),
        time=seconds_of(record.get("timestamp" if new else "unixReviewTime")),
    )


_KEYS = ("overall", "rating", "reviewText", "text")


def read_file(path: Path) -> Rows:
    """Reviews and bad lines of one file."""
    return objects(path, review_of, _KEYS)


def read(source: McAuleyFile, progress: Progress) -> Rows:
    """Reviews of every named file, in order."""
    for name, path in locate_all(source.paths).items():
        progress(f"reading {name}")
        yield from read_file(path)


def _input(name: str, path: Path) -> Input:
    return Input(name, path, rows=None if one_a_line(path, _KEYS) else partial(read_file, path))


SOURCE = Source[McAuleyFile](
    read,
    files=lambda settings: locate_all(settings.paths),
    inputs=lambda settings: [_input(name, path) for name, path in locate_all(settings.paths).items()],
)
