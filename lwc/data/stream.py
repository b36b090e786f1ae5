"""A user's file as UTF-8 text and as lines, whatever it is packed and encoded in; `lwc.data.containers` unpacks it."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from pathlib import Path

from lwc.core.errors import DataError
from lwc.data.containers import Cut, chunks
from lwc.data.rows import Bad, Reason, excerpt

MAX_LINE = 1 << 24
HEAD = 1 << 20
"""Bytes of text that the shape of a file is decided from."""
_UTF8 = b"\xef\xbb\xbf"
# The mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_LOOKED_AT = 4096
_TELLING = 32


def text(
    path: Path, encoding: str | None = None, took: Callable[[int], None] = lambda _: None
) -> Iterator[bytes | Cut]:
    """The content of ``path`` in UTF-8, without a byte-order mark; a damaged stream ends in one `Cut`.

    Text in UTF-8 comes as it is: lines that are not UTF-8 are for the caller to refuse. A byte-order mark outranks
    ``encoding``.

    Raises:
        DataError: the file is not text, or not in the encoding.
    """
    parts = chunks(path, took)
    head = b""
    cut: Cut | None = None
    for part in parts:
        if isinstance(part, Cut):
            cut = part
            break
        head += part
        if len(head) >= _TELLING:
            break
    codec = encoding
    if head.startswith(_UTF8):
        head, codec = head[len(_UTF8) :], None
    for mark, name in _MARKS:
        if head.startswith(mark):
            head, codec = head[len(mark) :], name
            break
    else:
        if codec is None:
            _refuse_unmarked(head[:_LOOKED_AT], path)

    def rest() -> Iterator[bytes | Cut]:
        if head:
            yield head
        if cut is not None:
            yield cut
        yield from parts

    if codec is None or codecs.lookup(codec).name == "utf-8":
        return rest()
    return _recoded(rest(), codec, path)


def _refuse_unmarked(head: bytes, path: Path) -> None:
    """Raise `DataError` for UTF-16 without a mark: every other byte of its English text is zero."""
    if len(head) < _TELLING:
        return
    zeros = [head[at::2].count(0) / len(head[at::2]) for at in (0, 1)]
    for codec, many, few in (("utf-16-be", zeros[0], zeros[1]), ("utf-16-le", zeros[1], zeros[0])):
        if many > 0.5 and few < 0.1:
            raise DataError(
                f"{path}: {codec.upper()} text without a byte-order mark",
                f"convert it with `iconv -f {codec.upper().replace('16-', '16')} -t UTF-8 {path} > NEW`, or, in a table"
                f" source, set data.source.format.encoding: {codec}",
            )


def _recoded(parts: Iterator[bytes | Cut], codec: str, path: Path) -> Iterator[bytes | Cut]:
    decoder = codecs.getincrementaldecoder(codec)()
    line = 1
    for part in parts:
        if isinstance(part, Cut):
            yield part
            return
        try:
            found = decoder.decode(part)
        except UnicodeDecodeError as error:
            before = error.object[: error.start].decode(codec, "replace").count("\n")
            wrong = error.object[error.start : error.end].hex(" ")
            hint = "give the encoding of the file as data.source.format.encoding, or repair the line"
            raise DataError(f"{path}, line {line + before}: not {codec.upper()} text (bytes {wrong})", hint) from error
        line += found.count("\n")
        yield found.encode("utf-8", "surrogatepass")
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        yield Cut(Reason.TRUNCATED, f"the file ends inside a {codec.upper()} character")


def head_of_text(path: Path, encoding: str | None = None) -> tuple[bytes, bool]:
    """About the first MiB of text, and whether this is the whole file."""
    found = bytearray()
    for part in text(path, encoding):
        if isinstance(part, Cut):
            return bytes(found), False
        found += part
        if len(found) >= HEAD:
            return bytes(found), False
    return bytes(found), True


def not_utf8(raw: bytes) -> str:
    """The first byte of a line that is not UTF-8, and the encoding that it may be in."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{raw[error.start]:02x} at position {error.start + 1}"
        for codec in ("cp1252", "latin-1"):
            try:
                return f"{byte} ({raw[error.start : error.start + 1].decode(codec)!r} in {codec})"
            except UnicodeDecodeError:
                continue
    return ""


def line_end(head: bytes) -> bytes:
    """``b"\\r"`` if the first line ends in a bare carriage return, else ``b"\\n"``."""
    feed, carriage = head.find(b"\n"), head.find(b"\r")
    return b"\r" if carriage >= 0 and (feed < 0 or carriage < feed - 1) and carriage < len(head) - 1 else b"\n"


def lines(path: Path, name: str, end: bytes = b"\n", encoding: str | None = None) -> Iterator[tuple[int, bytes] | Bad]:
    """The lines of ``path`` with their numbers, from 1; `Bad` for a cut stream or a line over 16 MiB.

    Lines come without their ends. ``name`` is the file's name in `Bad`.
    """
    number, skipping = 0, False
    buffer = bytearray()
    for part in text(path, encoding):
        if isinstance(part, Cut):
            yield Bad(name, number + 1, part.reason, excerpt(bytes(buffer)), part.detail, part.rows)
            return
        start = 0
        while (stop := part.find(end, start)) >= 0:
            number += 1
            if skipping:
                yield Bad(name, number, Reason.LONG_LINE, excerpt(bytes(buffer)))
            else:
                buffer += part[start:stop]
                yield number, bytes(buffer)
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
        yield number + 1, bytes(buffer)
