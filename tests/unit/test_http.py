"""Requests over HTTP: whole answers in time or one error, and no proxy before a local server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lwc.core.http import NoAnswer, request, stream


class Host(BaseHTTPRequestHandler):
    """Echoes; ``/drip`` never ends, ``/cut`` ends early, ``/moved`` is elsewhere, ``/missing`` is not there."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        status = {"/moved": 302, "/missing": 404}.get(self.path, 200)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + (self.path in ("/cut", "/drip")) * 1000))
        self.send_header("Location", "/echo")
        self.send_header("Agent", self.headers["User-Agent"])
        self.end_headers()
        self.wfile.write(body)
        for _ in range(30 if self.path == "/drip" else 0):
            self.wfile.write(b"x")
            time.sleep(0.05)

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    # Nobody listens there: what is asked through it fails.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_an_answer_is_whole_whatever_its_status(url: str) -> None:
    answer = request("POST", f"{url}/echo", 5, "ü".encode(), {"X": "y"})
    assert (answer.status_code, answer.text, answer.headers["agent"]) == (200, "ü", "lwc")
    assert request("POST", f"{url}/missing", 5, b"why").text == "why"
    assert request("GET", f"{url}/moved", 5).status_code == 302, "followed only where that is asked for"
    with stream("GET", f"{url}/moved", 5, redirects=True) as response:
        assert response.status_code == 200


def test_a_proxy_of_the_environment_is_asked_for_hosts_on_the_internet_only(url: str) -> None:
    assert request("GET", f"{url}/echo", 5).status_code == 200
    with pytest.raises(NoAnswer, match="cannot be reached"):
        request("GET", f"{url}/echo", 5, proxies=True)


def test_what_is_no_whole_answer_in_time_is_one_error(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoAnswer, match=r"no answer within 0\.3 s"):
        request("POST", f"{url}/drip", 0.3, b"")
    with pytest.raises(NoAnswer, match="the connection broke"):
        request("POST", f"{url}/cut", 5, b"half")
    with pytest.raises(NoAnswer, match="longer than 3 bytes") as caught:
        request("POST", f"{url}/echo", 5, b"four", most=3)
    assert not caught.value.again
    with pytest.raises(NoAnswer, match="cannot be reached") as caught:
        request("GET", "http://127.0.0.1:9/", 5)
    assert caught.value.again
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    with pytest.raises(NoAnswer):
        request("GET", f"{url}/echo", 5, proxies=True)
