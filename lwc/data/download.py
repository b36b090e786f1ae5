"""Resumable, verified downloads over HTTPS into the cache."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from lwc.core import http
from lwc.core.errors import DataError, MissingDependency
from lwc.core.store import file_digest, write_json
from lwc.data.rows import Progress

TIMEOUT_SECONDS = 60.0


def download(url: str, target: Path, sha256: str | None, manual: str, progress: Progress) -> Path:
    """Download ``url`` to ``target`` unless it exists; an interrupted download resumes (HTTP Range).

    Args:
        sha256: digest of the file, if it is known.
        manual: how to get the file in another way, for the error message.

    Raises:
        MissingDependency: the host cannot be reached, or the connection broke; the next call resumes.
        DataError: the file has another digest.
    """
    if target.is_file():
        return target
    incoming = target.with_name(target.name + ".incoming")
    try:
        _fetch(url, incoming, progress)
    except OSError as error:
        raise MissingDependency(f"{url}: cannot be downloaded: {error}", manual) from error
    if sha256 is not None and (found := file_digest(incoming)) != sha256:
        incoming.unlink()
        raise DataError(f"{url}: SHA-256 is {found}, expected {sha256}", "try again; if that does not help, " + manual)
    incoming.replace(target)
    return target


def _fetch(url: str, target: Path, progress: Progress) -> None:
    """Download ``url`` to ``target``, by way of ``<target>.part``, from which an interrupted download resumes.

    The download starts over if the file has changed since, by the server's validator (ETag or date), or if the server
    cannot resume.

    Raises:
        OSError: no network, an HTTP error, or a broken connection.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part, state = target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json")
    headers, validator = {}, _validator(state)
    start = part.stat().st_size if part.is_file() and validator else 0
    if start:
        headers = {"Range": f"bytes={start}-", "If-Range": str(validator)}
    with http.stream("GET", url, TIMEOUT_SECONDS, headers=headers, proxies=True, redirects=True) as response:
        if response.status_code == 416 and start:  # the part is as long as the file, or longer: it proves nothing
            part.unlink()
            return _fetch(url, target, progress)
        if response.status_code >= 300:
            raise http.NoAnswer(f"HTTP {response.status_code} {response.reason_phrase}")
        resumed = response.status_code == 206 and _starts_at(response.headers.get("Content-Range"), start)
        if not resumed:
            start = 0
        length = response.headers.get("Content-Length")
        whole = start + int(length) if length is not None else None
        _remember(state, response.headers)
        _receive(response.iter_raw(), part, start, whole, progress)
    part.replace(target)
    state.unlink(missing_ok=True)
    return None


def _receive(chunks: Iterator[bytes], part: Path, start: int, whole: int | None, progress: Progress) -> None:
    done, told = start, start
    with part.open("ab" if start else "wb") as file:
        for chunk in chunks:
            file.write(chunk)
            done += len(chunk)
            if done - told >= 32 << 20:
                told = done
                progress(f"downloaded {done >> 20:,} MiB" + (f" of {whole >> 20:,} MiB" if whole else ""))


def _starts_at(content_range: str | None, start: int) -> bool:
    return content_range is not None and content_range.startswith(f"bytes {start}-")


def _validator(state: Path) -> str | None:
    try:
        found = json.loads(state.read_text(encoding="utf-8"))["validator"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # without a valid note the part file cannot be resumed safely
    return found if isinstance(found, str) else None


def _remember(state: Path, headers: Mapping[str, str]) -> None:
    tag = headers.get("ETag")
    # A weak tag does not identify bytes, so If-Range must not use it.
    validator = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
    write_json(state, {"validator": validator})
