"""A source as blocks: whole lines of JSON, or rows that another reader made, a bounded number of bytes at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lwc.data.ingest.inflate import fast_chunks
from lwc.data.paths import locate
from lwc.data.rows import Bad, Row, Rows, excerpt
from lwc.data.sources import amazon_2023
from lwc.data.sources.registry import SOURCES
from lwc.data.sources.table import read_file
from lwc.data.stream import MAX_LINE, Cut, first_line
from lwc.recipe import Amazon2023, Columns, DataSource, McAuleyFile, TableFile


@dataclass(frozen=True)
class Block:
    """A piece of one file. ``lines`` is raw JSON whose first line has the number ``first``; or ``items`` are rows.

    ``bad`` are lines that were given up while the file was cut into blocks.
    """

    file: int
    name: str
    number: int
    first: int = 1
    lines: bytes = b""
    items: tuple[Row | Bad, ...] = ()
    bad: tuple[Bad, ...] = ()

    @property
    def part(self) -> str:
        """The name of what this block becomes; names sort as the source reads."""
        return f"{self.file:04d}-{self.number:06d}"


@dataclass(frozen=True)
class Input:
    """One file of a source, or the whole of a source that is not files.

    JSON lines have ``columns`` (None: the McAuley formats) and are parsed by the workers; others come from ``rows``.
    """

    index: int
    name: str
    path: Path | None = None
    columns: Columns | None = None
    rows: Callable[[], Rows] | None = field(default=None, compare=False)


def inputs(source: DataSource) -> list[Input]:
    """The files of a source, in reading order.

    Raises:
        DataError: a file is not there.
    """
    if isinstance(source, Amazon2023):
        path = amazon_2023.fetch(source.category, lambda _: None)
        return [Input(0, path.name, path)]
    if isinstance(source, McAuleyFile):
        return [Input(index, name, locate(name)) for index, name in enumerate(source.paths)]
    if not isinstance(source, TableFile):
        return [Input(0, source.kind, rows=lambda: SOURCES[source.kind].read(source, lambda _: None))]
    found = []
    for index, name in enumerate(source.paths):
        path = locate(name)
        suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
        if suffixes and suffixes[-1] in (".json", ".jsonl"):
            found.append(Input(index, name, path, source.columns))
        else:
            found.append(Input(index, name, path, rows=lambda path=path: read_file(path, source.columns)))  # type: ignore[misc]
    return found


def blocks(given: Input, size: int, took: Callable[[int], None] = lambda _: None) -> Iterator[Block]:
    """An input in blocks of about ``size`` bytes; the same file and size give the same blocks."""
    if given.rows is None:
        assert given.path is not None
        yield from _json_blocks(given.index, given.path, size, took)
    else:
        name = given.path.name if given.path is not None else given.name
        yield from _item_blocks(given.index, name, given.rows(), size)


def _json_blocks(file: int, path: Path, size: int, took: Callable[[int], None]) -> Iterator[Block]:
    buffer, bad = bytearray(), []
    first = line = 1  # numbers of the buffer's first line and of the line a skipped one has
    number, skipping = 0, False
    for part in fast_chunks(path, took):
        if isinstance(part, Cut):
            # A line cut short is no row: it stands in the quarantine as the place of the cut.
            whole = buffer.rfind(b"\n") + 1
            at = first + buffer.count(b"\n")
            bad.append(Bad(path.name, at, part.reason, excerpt(bytes(buffer[whole:]))))
            del buffer[whole:]
            skipping = False
            break
        if skipping:
            stop = part.find(b"\n")
            if stop < 0:
                continue
            bad.append(Bad(path.name, line, "line longer than 16 MiB", excerpt(bytes(buffer))))
            buffer, first, skipping = bytearray(part[stop + 1 :]), line + 1, False
        else:
            buffer += part
        while len(buffer) >= size:
            stop = (buffer.rfind(b"\n", 0, size) + 1) or (buffer.find(b"\n", size) + 1)
            if not stop:
                break
            yield Block(file, path.name, number, first, _start(memoryview(buffer)[:stop], first, path), bad=tuple(bad))
            first += buffer.count(b"\n", 0, stop)
            number, bad = number + 1, []
            del buffer[:stop]
        if len(buffer) >= size and len(buffer) > MAX_LINE:  # no line end in it
            line, skipping = first, True
            del buffer[1024:]
    if skipping:
        bad.append(Bad(path.name, line, "line longer than 16 MiB", excerpt(bytes(buffer))))
        buffer.clear()
    if buffer or bad or number == 0:
        yield Block(file, path.name, number, first, _start(buffer, first, path), bad=tuple(bad))


def _start(lines: bytearray | memoryview, first: int, path: Path) -> bytes:
    return first_line(bytes(lines), path) if first == 1 else bytes(lines)


def _item_blocks(file: int, name: str, rows: Rows, size: int) -> Iterator[Block]:
    items: list[Row | Bad] = []
    number = held = 0
    for item in rows:
        items.append(item)
        held += 200 + (len(item.excerpt) if isinstance(item, Bad) else len(item.body) + len(item.title))
        if held >= size:
            yield Block(file, name, number, items=tuple(items))
            items, held, number = [], 0, number + 1
    if items or number == 0:
        yield Block(file, name, number, items=tuple(items))
