"""``amazon-sample``: 5,000 Amazon Fine Food reviews inside Debian's package ``r-cran-modeldata``.

Downloaded by the apt client if there is one, else over HTTPS from a Debian mirror. The payload is pinned by SHA-256, so
that every machine reads the same rows. No R is needed: ``Rdata.rdx`` is an index of offsets into ``Rdata.rdb``, whose
entries are a 4-byte big-endian length, one type byte ``Z`` and a raw LZMA2 stream.
"""

from __future__ import annotations

import io
import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile
import warnings
from pathlib import Path
from typing import Any

from lwc.core.errors import DataError, MissingDependency
from lwc.core.machine import cache_dir
from lwc.core.store import file_digest
from lwc.data.download import download
from lwc.data.rows import Progress, Row, Rows
from lwc.data.source import Source, quiet
from lwc.recipe import AmazonSample

PACKAGE = "r-cran-modeldata"
DEB = "r-cran-modeldata_1.1.0-1_all.deb"
DEB_SHA256 = "66c2e08bb4bf695d972b1e72ea44d5af9ada3c42841793d3871017f7b896bf95"
FILES = {
    "Rdata.rdx": "c23e1be60f2730fb526ce158a307e154c91a953169fcb8e73350c4e032e14538",
    "Rdata.rdb": "2ecef5e8da0f782ae4e3f65d928fe769702accffd8981cc358a3097f6736f58f",
}
MIRROR = "https://deb.debian.org/debian/pool/main/r/r-cran-modeldata/"
MANUAL = f"download {MIRROR}{DEB} on another machine and put it into $LWC_DATA_DIR or the folder {{folder}}"
# Train and test of the package are one pool here: its test set repeats train texts, and we split ourselves.
TABLES = ("training_data", "testing_data")


def _whole(folder: Path) -> bool:
    return all((folder / name).is_file() and file_digest(folder / name) == sha for name, sha in FILES.items())


def _with_apt(folder: Path, progress: Progress) -> Path | None:
    """The .deb from the apt client, or None if apt cannot deliver it."""
    if shutil.which("apt-get") is None:
        return None
    command = ["apt-get", "download", f"{PACKAGE}=1.1.0-1"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        progress(f"apt-get download: {error}")
        return None
    found = sorted(folder.glob("*.deb"))
    if done.returncode != 0 or not found or file_digest(found[0]) != DEB_SHA256:
        progress(f"apt-get has no {DEB} with the pinned SHA-256")
        return None
    return found[0]


def _unpack(deb: Path, folder: Path) -> None:
    """Extract the two payload files from a .deb, an ar archive that contains data.tar.xz."""
    raw = deb.read_bytes()
    if raw[:8] != b"!<arch>\n":
        raise DataError(f"{deb}: not a Debian package", "delete it and run the command again")
    position = 8
    while position + 60 <= len(raw):
        name, size = raw[position : position + 16].strip().rstrip(b"/"), int(raw[position + 48 : position + 58])
        member = raw[position + 60 : position + 60 + size]
        position += 60 + size + size % 2
        if name.startswith(b"data.tar"):
            with tarfile.open(fileobj=io.BytesIO(member)) as archive:
                for entry in archive:
                    # Only the base name is used: a path in the archive decides nothing.
                    base = Path(entry.name).name
                    if base in FILES and "/data/" in entry.name and entry.isfile():
                        content = archive.extractfile(entry)
                        if content is not None:
                            (folder / base).write_bytes(content.read())


def fetch(progress: Progress) -> Path:
    """The folder of the pinned payload, downloaded on first use.

    Raises:
        MissingDependency: neither the apt client nor a mirror has the package.
        DataError: the download is not the pinned content.
    """
    final = cache_dir() / "amazon-sample-1.1.0-1"
    if _whole(final):
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent) as temporary:
        folder = Path(temporary)
        given = Path(os.environ.get("LWC_DATA_DIR") or "/nonexistent") / DEB
        deb = given if given.is_file() else _with_apt(folder, progress)
        if deb is None:
            manual = MANUAL.format(folder=final.parent)
            deb = download(MIRROR + DEB, cache_dir() / DEB, DEB_SHA256, manual, progress)
        unpacked = folder / "payload"
        unpacked.mkdir()
        _unpack(deb, unpacked)
        if not _whole(unpacked):
            raise DataError(f"{deb.name}: its content is not the pinned one", "delete it and run the command again")
        if final.exists():
            shutil.rmtree(final)
        unpacked.rename(final)
    return final


def _table(folder: Path, name: str) -> Any:
    """One data frame of the R database.

    The LZMA stream is raw LZMA2 with the encoder's preset 6|EXTREME, after its uncompressed length.
    """
    try:
        import rdata
    except ImportError as error:
        raise MissingDependency("amazon-sample needs the package rdata", "pip install rdata") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rdata warns about R classes that are not read here
        index = rdata.read_rds(folder / "Rdata.rdx")["variables"]
        offset, length = (int(value) for value in index[name])
        entry = (folder / "Rdata.rdb").read_bytes()[offset : offset + length]
        size = int.from_bytes(entry[:4], "big")
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 6 | lzma.PRESET_EXTREME}]
        content = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters).decompress(entry[5:], size)
        return rdata.conversion.convert(rdata.parser.parse_data(content))


def read(source: AmazonSample, progress: Progress) -> Rows:
    """Every review with its ``score`` (great / other) as label; there are no stars, users or times."""
    folder = fetch(progress)
    for name in TABLES:
        frame = _table(folder, name)
        for line, (product, review, score) in enumerate(
            zip(frame["product"], frame["review"], frame["score"], strict=True), start=1
        ):
            yield Row(name, line, body=str(review), label=str(score), item=str(product))


def _files(settings: AmazonSample) -> dict[str, Path]:
    folder = fetch(quiet)
    return {name: folder / name for name in FILES}


SOURCE = Source[AmazonSample](read, _files, digests=lambda settings: {})  # the content is pinned
