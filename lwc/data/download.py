"""Fetch a file over HTTPS into the cache: resumable, checked, whole or not there."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from pathlib import Path

from lwc.artifacts import file_digest
from lwc.data.rows import Progress
from lwc.errors import DataError, MissingDependency

_CHUNK = 1 << 20


def download(url: str, target: Path, sha256: str | None, manual: str, progress: Progress) -> Path:
    """Bring ``url`` to ``target``; a part that an earlier try left is continued (HTTP Range).

    Raises:
        MissingDependency: the host cannot be reached; ``manual`` tells the user how to get the file otherwise.
        DataError: what came is not the pinned file.
    """
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            resumed = response.status == http.client.PARTIAL_CONTENT
            total = int(response.headers.get("Content-Length") or 0) + (have if resumed else 0)
            done = have if resumed else 0
            with part.open("ab" if resumed else "wb") as file:
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    progress(f"{target.name}: {done / 1e6:.1f} of {total / 1e6:.1f} MB")
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        if not (isinstance(error, urllib.error.HTTPError) and error.code == 416):
            raise MissingDependency(f"{url}: cannot be downloaded: {error}", manual) from error
    if sha256 is not None:
        found = file_digest(part)
        if found != sha256:
            part.unlink()
            raise DataError(f"{url}: SHA-256 is {found}, expected {sha256}", "try again; if it stays, " + manual)
    part.replace(target)
    return target
