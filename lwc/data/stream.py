"""Lines of plain and gzip files, streamed; a damaged file gives every line before the damage."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lwc.core.errors import DataError
from lwc.data.rows import Bad, excerpt

CHUNK = 1 << 16
MAX_LINE = 1 << 24
GZIP = b"\x1f\x8b"
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
# Reasons for which the rest of a file is lost.
CUT_OFF = TRUNCATED, CORRUPT = "truncated gzip", "corrupt gzip"
_LFS = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class Cut:
    """The compressed stream broke off here; what follows in the file is lost."""

    reason: str


def chunks(path: Path) -> Iterator[bytes | Cut]:
    """Decompressed bytes of ``path``; a broken gzip stream ends in one `Cut`.

    Raises:
        DataError: the file is a Git LFS pointer, UTF-16, or named ``.gz`` without being gzip.
    """
    with path.open("rb") as file:
        head = file.read(64)
        file.seek(0)
        if head.startswith(_LFS):
            raise DataError(f"{path}: a Git LFS pointer, not the data", "run `git lfs pull` where it came from")
        if head.startswith(GZIP):
            yield from _inflate(file)
        elif path.suffix == ".gz" and head:
            raise DataError(f"{path}: named .gz but not a gzip file", "rename it, or download it again")
        elif path.suffix == ".gz":
            yield Cut(f"{TRUNCATED}: the file is empty")
        else:
            while chunk := file.read(CHUNK):
                yield chunk


def _inflate(file: BinaryIO) -> Iterator[bytes | Cut]:
    inflate = zlib.decompressobj(31)
    while chunk := file.read(CHUNK):
        while chunk:
            if inflate.eof:  # the next member of a file of several; zero bytes between them are padding
                chunk = chunk.lstrip(b"\0")
                if not chunk:
                    break
                inflate = zlib.decompressobj(31)
            before = inflate.copy()
            try:
                data = inflate.decompress(chunk)
            except zlib.error as error:
                yield _salvage(before, chunk)
                yield Cut(f"{CORRUPT}: {error}")
                return
            if data:
                yield data
            chunk = inflate.unused_data
    if not inflate.eof:
        yield Cut(f"{TRUNCATED}: the file ends early, an unknown number of rows is lost")


def _salvage(inflate: zlib._Decompress, chunk: bytes) -> bytes:
    """What ``chunk`` gives before its damage: zlib drops the output of a call that fails."""
    found = bytearray()
    for index in range(len(chunk)):
        try:
            found += inflate.decompress(chunk[index : index + 1])
        except zlib.error:
            break
    return bytes(found)


def line_end(path: Path) -> bytes:
    """``b"\\r"`` for a file whose first line ends in a bare carriage return, else ``b"\\n"``."""
    first = next(iter(chunks(path)), b"")
    if isinstance(first, Cut):
        return b"\n"
    feed, carriage = first.find(b"\n"), first.find(b"\r")
    return b"\r" if carriage >= 0 and (feed < 0 or carriage < feed - 1) and carriage < len(first) - 1 else b"\n"


def lines(path: Path, name: str, end: bytes = b"\n") -> Iterator[tuple[int, bytes] | Bad]:
    """(number from 1, line without its end) of ``path``; `Bad` for a cut stream or a line over 16 MiB.

    A UTF-8 byte-order mark is taken off. ``name`` is how the file is called in `Bad`.
    """
    number, skipping = 0, False
    buffer = bytearray()
    for part in chunks(path):
        if isinstance(part, Cut):
            yield Bad(name, number + 1, part.reason, excerpt(bytes(buffer)))
            return
        start = 0
        while (stop := part.find(end, start)) >= 0:
            number += 1
            if skipping:
                yield Bad(name, number, "line longer than 16 MiB", excerpt(bytes(buffer)))
            else:
                buffer += part[start:stop]
                yield number, first_line(bytes(buffer), path) if number == 1 else bytes(buffer)
            buffer.clear()
            skipping, start = False, stop + 1
        if not skipping:
            buffer += part[start:]
            if len(buffer) > MAX_LINE:
                skipping = True
                del buffer[1024:]
    if skipping:
        yield Bad(name, number + 1, "line longer than 16 MiB", excerpt(bytes(buffer)))
    elif buffer:
        yield number + 1, first_line(bytes(buffer), path) if number == 0 else bytes(buffer)


def first_line(line: bytes, path: Path) -> bytes:
    """A file's first line without its byte-order mark; `DataError` where the mark is UTF-16's."""
    if line.startswith(_UTF16_MARKS):
        raise DataError(f"{path}: UTF-16 text", "convert it to UTF-8, e.g. with `iconv -f UTF-16 -t UTF-8`")
    return line.removeprefix(_UTF8_MARK)
