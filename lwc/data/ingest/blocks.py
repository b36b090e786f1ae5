"""A source in blocks of bounded size: whole lines of JSON, or rows that another reader made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lwc.data.containers import Cut
from lwc.data.rows import Bad, Reason, Row, Rows, excerpt
from lwc.data.source import Input
from lwc.data.stream import MAX_LINE, text


@dataclass(frozen=True)
class Block:
    """A piece of one file: raw JSON in ``lines``, whose first line has the number ``first``, or rows in ``items``.

    ``bad`` are the lines that were found unusable while the file was cut into blocks.
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
        """The name of the part that this block becomes; names sort in reading order."""
        return f"{prefix(self.file)}{self.number:06d}"


def prefix(file: int) -> str:
    """How the names of all parts of a file begin."""
    return f"{file:04d}-"


def blocks(file: int, given: Input, size: int, took: Callable[[int], None] = lambda _: None) -> Iterator[Block]:
    """An input, which is file number ``file``, in blocks of about ``size`` bytes; always the same ones.

    ``took`` is called with the number of bytes that each step read.
    """
    if given.rows is None:
        assert given.path is not None
        yield from _json_blocks(file, given.path, size, took)
    else:
        name = given.path.name if given.path is not None else given.name
        yield from _item_blocks(file, name, given.rows(), size)


def _json_blocks(file: int, path: Path, size: int, took: Callable[[int], None]) -> Iterator[Block]:
    buffer, bad = bytearray(), []
    first = line = 1  # numbers of the buffer's first line and of the line that is skipped
    number, skipping = 0, False
    for part in text(path, took=took):
        if isinstance(part, Cut):
            # A truncated line is no row: the quarantine records it as the place of the cut.
            whole = buffer.rfind(b"\n") + 1
            at = first + buffer.count(b"\n")
            bad.append(Bad(path.name, at, part.reason, excerpt(bytes(buffer[whole:])), part.detail, part.rows))
            del buffer[whole:]
            skipping = False
            break
        if skipping:
            stop = part.find(b"\n")
            if stop < 0:
                continue
            bad.append(Bad(path.name, line, Reason.LONG_LINE, excerpt(bytes(buffer))))
            buffer, first, skipping = bytearray(part[stop + 1 :]), line + 1, False
        else:
            buffer += part
        while len(buffer) >= size:
            stop = (buffer.rfind(b"\n", 0, size) + 1) or (buffer.find(b"\n", size) + 1)
            if not stop:
                break
            yield Block(file, path.name, number, first, bytes(memoryview(buffer)[:stop]), bad=tuple(bad))
            first += buffer.count(b"\n", 0, stop)
            number, bad = number + 1, []
            del buffer[:stop]
        if len(buffer) >= size and len(buffer) > MAX_LINE:  # no line end in it
            line, skipping = first, True
            del buffer[1024:]
    if skipping:
        bad.append(Bad(path.name, line, Reason.LONG_LINE, excerpt(bytes(buffer))))
        buffer.clear()
    if buffer or bad or number == 0:
        yield Block(file, path.name, number, first, bytes(buffer), bad=tuple(bad))


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
