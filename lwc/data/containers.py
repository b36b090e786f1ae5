"""The bytes of a user's file: plain, or out of gzip, bzip2, xz, Zstandard or a zip, recognised by their content."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from isal import igzip_lib, isal_zlib

from lwc.core.errors import DataError
from lwc.data.rows import Reason

CHUNK = 1 << 18
# Output of one step: a highly compressed file must not fill the memory.
_MOST = 1 << 22
_STEP = 1 << 16
_GZIP = b"\x1f\x8b"
_ZIP = b"PK\x03\x04"
_ZSTD = b"\x28\xb5\x2f\xfd"
_LFS = b"version https://git-lfs.github.com/spec/"
_TAR_AT = 257
_HEAD = 512
# More bytes after the end of gzip data may be a damaged part of it.
_APPENDED = 512
# Beginnings of files that are no text, and what they are.
_OTHER = (
    (b"PAR1", "a Parquet file", "name it .parquet, uncompressed, and read it as a table (kind: table)"),
    (b"ARROW1", "an Arrow file", "name it .arrow, uncompressed, and read it as a table (kind: table)"),
    (b"%PDF-", "a PDF", "export the rows as CSV"),
    (b"\x89PNG", "an image", "name the file with the rows"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel or Word file", "save it as CSV UTF-8"),
    (b"SQLite format 3\0", "an SQLite database", "export the table as CSV"),
    (b"\x89HDF\r\n", "an HDF5 file", "write the rows as Parquet or CSV"),
    (b"Obj\x01", "an Avro file", "write the rows as Parquet or JSON lines"),
    (b"ORC\x0a", "an ORC file", "write the rows as Parquet"),
    (b"\x93NUMPY", "a NumPy file", "write the rows as Parquet or CSV"),
    (b"\x80\x02", "a Python pickle, which is never loaded", "write the rows as Parquet or CSV"),
    (b"\x80\x03", "a Python pickle, which is never loaded", "write the rows as Parquet or CSV"),
    (b"\x80\x04", "a Python pickle, which is never loaded", "write the rows as Parquet or CSV"),
    (b"\x80\x05", "a Python pickle, which is never loaded", "write the rows as Parquet or CSV"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it with `7z x` and name the files"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it and name the files"),
    (b"\x04\x22\x4d\x18", "an LZ4 file", "unpack it with `lz4 -d`"),
)


class _Packed(Protocol):
    """What unpacks: ``read1`` gives what one step yields, so that damage loses no more than that."""

    def read1(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Cut:
    """The stream ends here; the rest of the file is lost. ``rows`` is 0 if it is no part of the stream."""

    reason: Reason
    detail: str
    rows: int = 1


def head_of(path: Path, size: int = _HEAD) -> bytes:
    """The first bytes of a file as it is on disk.

    Raises:
        DataError: the file cannot be read.
    """
    with _opened(path) as file:
        return file.read(size)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", "check the path and its permissions") from error


def chunks(path: Path, took: Callable[[int], None] = lambda _: None) -> Iterator[bytes | Cut]:
    """The decompressed bytes of ``path``; a damaged or truncated stream ends in one `Cut`.

    ``took`` is called with the number of bytes that each step read of the file.

    Raises:
        DataError: the file is something else than text, such as a Git LFS pointer, a tar archive or a web page.
    """
    with _opened(path) as file:
        head = file.read(_HEAD)
        file.seek(0)
        _refuse(head, path)
        if path.suffix == ".gz" and not head:
            yield Cut(Reason.TRUNCATED_GZIP, "the file is empty")
        elif head.startswith(_GZIP):
            yield from _gzip(file, path, took)
        elif (unpacked := _unpacked(file, head, path)) is not None:
            yield from _stream(unpacked, path, file, took)
        elif path.suffix == ".gz":
            raise DataError(f"{path}: named .gz but not a gzip file", "rename it, or download it again")
        else:
            while chunk := file.read(CHUNK):
                took(len(chunk))
                yield chunk


def _refuse(head: bytes, path: Path) -> None:
    """Raise `DataError` for content that holds no rows as text."""
    if head.startswith(_LFS):
        raise DataError(f"{path}: a Git LFS pointer, not the data", "run `git lfs pull` in its repository")
    for mark, name, hint in _OTHER:
        if head.startswith(mark):
            raise DataError(f"{path}: {name}, not text", hint)
    if head[_TAR_AT : _TAR_AT + 5] == b"ustar":
        raise DataError(f"{path}: a tar archive", f"unpack it with `tar -xf {path}` and name the files in it")
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise DataError(f"{path}: a web page, not the data", "download it again: it may need a login")


def _unpacked(file: BinaryIO, head: bytes, path: Path) -> _Packed | None:
    """The content of a compressed file as a stream; None if it is not one of these formats."""
    if head[:3] == b"BZh" and head[4:10] == b"1AY&SY":
        return bz2.BZ2File(file)
    if head.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(file)
    if head.startswith(_ZSTD):
        import pyarrow as pa

        return cast(_Packed, pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))
    if head.startswith(_ZIP):
        return _member(file, path)
    return None


def member_name(path: Path) -> str:
    """The name of the one file in a zip.

    Raises:
        DataError: the zip is damaged, or does not contain exactly one file.
    """
    with _opened(path) as file:
        return _only(_archive(file, path), path).filename


def _archive(file: BinaryIO, path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: a damaged or truncated zip: {error}", "download or copy it again") from error


def _only(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    names = archive.namelist()
    if "[Content_Types].xml" in names:
        raise DataError(f"{path}: an Excel or Word file, not text", "save it as CSV UTF-8")
    files = [
        one
        for one in archive.infolist()
        if not one.is_dir() and not one.filename.startswith("__MACOSX/") and Path(one.filename).name[:1] != "."
    ]
    if len(files) != 1:
        some = ", ".join(one.filename for one in files[:4])
        hint = f"unpack it with `unzip {path}` and name the files"
        raise DataError(f"{path}: a zip with {len(files)} files ({some}{', …' if len(files) > 4 else ''})", hint)
    return files[0]


def _member(file: BinaryIO, path: Path) -> _Packed:
    archive = _archive(file, path)
    only = _only(archive, path)
    if only.flag_bits & 1:
        raise DataError(f"{path}: an encrypted zip", f"unpack it with `unzip {path}` and name the file")
    try:
        return cast(_Packed, archive.open(only))
    except (NotImplementedError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: a zip that cannot be read: {error}", "unpack it and name the file") from error


def _stream(
    unpacked: _Packed, path: Path, file: BinaryIO | None = None, took: Callable[[int], None] = lambda _: None
) -> Iterator[bytes | Cut]:
    """The bytes of a compressed stream, whose content may be compressed or packed once more."""
    before, first = 0, True
    while True:
        try:
            chunk = unpacked.read1(_STEP)
        except EOFError as error:
            yield Cut(Reason.TRUNCATED, str(error) or "the file ends early")
            return
        except (OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
            yield Cut(Reason.CORRUPT, str(error))
            return
        if file is not None and not file.closed:
            took(file.tell() - before)
            before = file.tell()
        if not chunk:
            return
        if first:
            first = False
            _refuse(chunk[:_HEAD], path)
            if _is_packed(chunk):
                hint = "unpack it until its content is text, and name that file"
                raise DataError(f"{path}: a compressed file inside another one", hint)
        yield chunk


def _is_packed(head: bytes) -> bool:
    return head.startswith((_GZIP, _ZIP, _ZSTD, b"\xfd7zXZ\0")) or (head[:3] == b"BZh" and head[4:10] == b"1AY&SY")


def _gzip(file: BinaryIO, path: Path, took: Callable[[int], None]) -> Iterator[bytes | Cut]:
    """The content of a gzip file; if it is a gzip file itself, the content of that."""
    parts = _inflate(file, took)
    first = next(parts, b"")
    if isinstance(first, bytes):
        _refuse(first[:_HEAD], path)
        if first.startswith(_GZIP):
            file.seek(0)
            inner = gzip.GzipFile(fileobj=file, mode="rb")
            yield from _stream(gzip.GzipFile(fileobj=inner, mode="rb"), path)
            return
        if _is_packed(first):
            raise DataError(f"{path}: a compressed file inside a gzip file", "unpack it with `gunzip` first")
    yield first
    yield from parts


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
                if not _GZIP.startswith(chunk[:2]) and len(chunk) + len(file.read(_APPENDED)) <= _APPENDED:
                    yield b"\n"  # the last line is whole
                    yield Cut(Reason.AFTER_GZIP, "they are no gzip data and are ignored", rows=0)
                    return
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
