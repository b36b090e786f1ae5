"""Decompressed bytes of a file, by ISA-L's inflate; where a stream is damaged, zlib decides what can be had."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from isal import igzip_lib, isal_zlib

from lwc.data.stream import CORRUPT, GZIP, Cut, chunks

_CHUNK = 1 << 18
# Of one step: a highly compressed file must not fill the memory.
_MOST = 1 << 22


def fast_chunks(path: Path, took: Callable[[int], None] = lambda _: None) -> Iterator[bytes | Cut]:
    """What `lwc.data.stream.chunks` gives, in other pieces: the same bytes, then at most one `Cut`.

    Two to three times as fast on gzip. A stream that is broken or ends early is read again by zlib, which can go on to
    the very byte of the damage; the bytes already given are skipped. ``took`` is told how many bytes of the file were
    read, piece by piece.

    Raises:
        DataError: as `lwc.data.stream.chunks`.
    """
    with path.open("rb") as file:
        if not file.read(len(GZIP)).startswith(GZIP):
            for part in chunks(path):
                took(len(part) if isinstance(part, bytes) else 0)
                yield part
            return
        file.seek(0)
        given = 0
        inflate = isal_zlib.decompressobj(31)
        while chunk := file.read(_CHUNK):
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
                    yield from _rest(path, given)
                    return
                if data:
                    given += len(data)
                    yield data
                chunk = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
        if not inflate.eof:
            yield from _rest(path, given)


def _rest(path: Path, given: int) -> Iterator[bytes | Cut]:
    """What zlib reads of ``path`` after its first ``given`` bytes, and why it ends."""
    for part in chunks(path):
        if isinstance(part, Cut):
            yield part
            return
        if given >= len(part):
            given -= len(part)
        else:
            yield part[given:]
            given = 0
    yield Cut(f"{CORRUPT}: two decoders disagree about it")
