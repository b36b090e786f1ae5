"""Downloads: resumed when broken off, started over when the file changed, never half a file."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lwc.core.errors import DataError, MissingDependency
from lwc.data.download import download

CONTENT = bytes(range(256)) * 8000


class Host(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT with ranges; ``break_after`` closes the connection that many bytes in."""

    break_after: int | None = None
    tag = '"one"'
    ranges: list[str | None] = []  # noqa: RUF012

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        type(self).ranges.append(asked)
        start = 0
        if asked and self.headers.get("If-Range") == self.tag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(CONTENT):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        else:
            self.send_response(200)
        self.send_header("ETag", self.tag)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:][: self.break_after])

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Host.break_after, Host.tag, Host.ranges = None, '"one"', []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/f"
    server.shutdown()
    server.server_close()


def quiet(_: str) -> None:
    """No progress."""


def test_a_broken_download_is_not_taken_for_whole_and_goes_on(url: str, tmp_path: Path) -> None:
    target = tmp_path / "f"
    Host.break_after = 500_000
    with pytest.raises(MissingDependency):
        download(url, target, None, "by hand", quiet)
    assert not target.exists()
    Host.break_after = None
    download(url, target, None, "by hand", quiet)
    assert target.read_bytes() == CONTENT
    assert Host.ranges == [None, "bytes=500000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_file_that_changed_meanwhile_starts_over(url: str, tmp_path: Path) -> None:
    Host.break_after = 500_000
    with pytest.raises(MissingDependency):
        download(url, tmp_path / "f", None, "by hand", quiet)
    Host.break_after, Host.tag = None, '"two"'
    download(url, tmp_path / "f", None, "by hand", quiet)
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_other_bytes_than_the_pinned_ones_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="SHA-256"):
        download(url, tmp_path / "f", "0" * 64, "by hand", quiet)
    assert not (tmp_path / "f").exists()


def test_no_network_names_the_manual_step(tmp_path: Path) -> None:
    with pytest.raises(MissingDependency) as caught:
        download("http://127.0.0.1:9/f", tmp_path / "f", None, "by hand", quiet)
    assert caught.value.hint == "by hand"
