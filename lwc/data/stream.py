"""Lines of plain and gzip files as a stream; a damaged file yields every line before the damage."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from isal import igzip_lib, isal_zlib

from lwc.core.errors import DataError
from lwc.data.rows import Bad, Reason, excerpt

CHUNK = 1 << 18
MAX_LINE = 1 << 24
# Output of one step: a highly compressed file must not fill the memory.
_MOST = 1 << 22
_GZIP = b"\x1f\x8b"
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_LFS = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class Cut:
    """The compressed stream ends here; the rest of the file is lost."""

    reason: Reason
    detail: str


def chunks(path: Path, took: Callable[[int], None] = lambda _: None) -> Iterator[bytes | Cut]:
    """The decompressed bytes of ``path``; a broken gzip stream ends in one `Cut`.

    ``took`` is called with the number of bytes that each step read of the file.

    Raises:
        DataError: the file is a Git LFS pointer, UTF-16, or named ``.gz`` without being gzip.
    """
    with path.open("rb") as file:
        head = file.read(64)
        file.seek(0)
        if head.startswith(_LFS):
            raise DataError(f"{path}: a Git LFS pointer, not the data", "run `git lfs pull` in its repository")
        if head.startswith(_GZIP):
            yield from _inflate(file, took)
        elif path.suffix == ".gz" and head:
            raise DataError(f"{path}: named .gz but not a gzip file", "rename it, or download it again")
        elif path.suffix == ".gz":
            yield Cut(Reason.TRUNCATED_GZIP, "the file is empty")
        else:
            while chunk := file.read(CHUNK):
                took(len(chunk))
                yield chunk


def _inflate(file: BinaryIO, took: Callable[[int], None]) -> Iterator[bytes | Cut]:
    """By ISA-L, two to three times as fast as zlib, which reads a damaged or truncated stream again, to the damage."""
    given = 0
    inflate = isal_zlib.decompressobj(31)
    while chunk := file.read(CHUNK):
        took(len(chunk))
        data = b""
        while chunk or len(data) == _MOST:  # a full step may have left some output behind
            if inflate.eof:  # the next member of a file of several; zero bytes between them are padding
                chunk = chunk.lstrip(b"\0")
                if not chunk:
                    break
                inflate = isal_zlib.decompressobj(31)
            try:
                data = inflate.decompress(chunk, _MOST)
            except igzip_lib.IsalError:  # type: ignore[misc]
                yield from _rest(file, given)
                return
            if data:
                given += len(data)
                yield data
            chunk = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
    if not inflate.eof:
        yield from _rest(file, given)


def _rest(file: BinaryIO, given: int) -> Iterator[bytes | Cut]:
    """The bytes that zlib reads after the first ``given``, and why they end."""
    for part in inflate_carefully(file):
        if isinstance(part, Cut):
            yield part
            return
        if given < len(part):
            yield part[given:]
        given = max(0, given - len(part))
    yield Cut(Reason.CORRUPT_GZIP, "two decoders disagree about it")


def inflate_carefully(file: BinaryIO) -> Iterator[bytes | Cut]:
    """The bytes of a gzip file by zlib, up to the damaged one."""
    file.seek(0)
    inflate = zlib.decompressobj(31)
    while chunk := file.read(1 << 16):
        while chunk:
            if inflate.eof:
                chunk = chunk.lstrip(b"\0")
                if not chunk:
                    break
                inflate = zlib.decompressobj(31)
            before = inflate.copy()
            try:
                data = inflate.decompress(chunk)
            except zlib.error as error:
                yield _salvage(before, chunk)
                yield Cut(Reason.CORRUPT_GZIP, str(error))
                return
            if data:
                yield data
            chunk = inflate.unused_data
    if not inflate.eof:
        yield Cut(Reason.TRUNCATED_GZIP, "the file ends early, an unknown number of rows is lost")


def _salvage(inflate: zlib._Decompress, chunk: bytes) -> bytes:
    """The output of ``chunk`` up to its damage; zlib drops all output of a call that fails."""
    found = bytearray()
    for index in range(len(chunk)):
        try:
            found += inflate.decompress(chunk[index : index + 1])
        except zlib.error:
            break
    return bytes(found)


def line_end(path: Path) -> bytes:
    """``b"\\r"`` if the first line ends in a bare carriage return, else ``b"\\n"``."""
    first = next(iter(chunks(path)), b"")
    if isinstance(first, Cut):
        return b"\n"
    feed, carriage = first.find(b"\n"), first.find(b"\r")
    return b"\r" if carriage >= 0 and (feed < 0 or carriage < feed - 1) and carriage < len(first) - 1 else b"\n"


def lines(path: Path, name: str, end: bytes = b"\n") -> Iterator[tuple[int, bytes] | Bad]:
    """The lines of ``path`` with their numbers, from 1; `Bad` for a cut stream or a line over 16 MiB.

    Lines come without their ends and without a UTF-8 byte-order mark. ``name`` is the file's name in `Bad`.
    """
    number, skipping = 0, False
    buffer = bytearray()
    for part in chunks(path):
        if isinstance(part, Cut):
            yield Bad(name, number + 1, part.reason, excerpt(bytes(buffer)), part.detail)
            return
        start = 0
        while (stop := part.find(end, start)) >= 0:
            number += 1
            if skipping:
                yield Bad(name, number, Reason.LONG_LINE, excerpt(bytes(buffer)))
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
        yield Bad(name, number + 1, Reason.LONG_LINE, excerpt(bytes(buffer)))
    elif buffer:
        yield number + 1, first_line(bytes(buffer), path) if number == 0 else bytes(buffer)


def first_line(line: bytes, path: Path) -> bytes:
    """A file's first line without its byte-order mark.

    Raises:
        DataError: the mark is that of UTF-16.
    """
    if line.startswith(_UTF16_MARKS):
        raise DataError(f"{path}: UTF-16 text", "convert it to UTF-8, e.g. with `iconv -f UTF-16 -t UTF-8`")
    return line.removeprefix(_UTF8_MARK)
