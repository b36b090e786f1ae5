"""A source read by the small reader and by the ingestion, which must agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lwc.core.errors import DataError
from lwc.data.ingest.blocks import blocks
from lwc.data.ingest.parse import pieces
from lwc.data.rows import Bad, Row
from lwc.data.source import inputs_of, quiet, read_rows
from lwc.data.sources.table import check_keys, wanted_of
from lwc.recipe import DataSource

Found = tuple[list[Row], list[Bad]]


def both(source: DataSource) -> Found:
    """Rows and bad rows in reading order.

    Raises:
        DataError: both readers refuse the source, with the same message.
    """
    small = _of(lambda: list(read_rows(source, quiet)))
    large = _of(lambda: list(_ingested(source)))
    if isinstance(small, DataError):
        assert isinstance(large, DataError)
        assert (small.message, small.hint) == (large.message, large.hint)
        raise small
    assert large == small
    return small


def _of(read: Callable[[], list[Row | Bad]]) -> Found | DataError:
    try:
        found = read()
    except DataError as error:
        return error
    return [one for one in found if isinstance(one, Row)], [one for one in found if isinstance(one, Bad)]


def _ingested(source: DataSource) -> Iterator[Row | Bad]:
    for file, one in enumerate(inputs_of(source)):
        seen: set[str] = set()
        for block in blocks(file, one, 1 << 16):
            for piece in pieces(block, one.columns, seen):
                columns = (getattr(piece, name).to_pylist() for name in Row._fields)
                yield from (Row(*values) for values in zip(*columns, strict=True))
                yield from piece.bad
        if one.columns is not None:
            check_keys(wanted_of(one.columns), seen, str(one.path))
