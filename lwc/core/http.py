"""HTTP requests with a deadline, and one error where no answer comes."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx2


class NoAnswer(OSError):
    """No answer, or not all of it; the words are fit for a message. ``again``: it may come next time."""

    def __init__(self, words: str, again: bool = True) -> None:
        super().__init__(words)
        self.again = again


@contextmanager
def stream(
    method: str,
    url: str,
    seconds: float,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    proxies: bool = False,
    redirects: bool = False,
) -> Iterator[httpx2.Response]:
    """An answer whose body is still to be read (``iter_raw``); no wait for a part of it is longer than ``seconds``.

    The environment's ``proxies`` are for hosts on the internet: a local server is never asked through them. A redirect
    that is not followed is an answer like any other.

    Raises:
        NoAnswer: here or while the body is read: the host cannot be reached, or the connection broke.
    """
    # Reading the trusted certificates takes 50 ms; this context trusts none.
    trusted = True if redirects or url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    sent = {"User-Agent": "lwc", "Accept-Encoding": "identity", **(headers or {})}
    try:
        with (
            httpx2.Client(trust_env=proxies, follow_redirects=redirects, timeout=seconds, verify=trusted) as client,
            client.stream(method, url, content=content, headers=sent) as response,
        ):
            yield response
    except httpx2.TimeoutException as error:
        raise NoAnswer(f"no answer within {seconds:g} s") from error
    except httpx2.ConnectError as error:
        raise NoAnswer(f"cannot be reached: {error}") from error
    # The last one says which package a SOCKS proxy of the environment needs.
    except (httpx2.HTTPError, httpx2.InvalidURL, ImportError) as error:
        raise NoAnswer(f"the connection broke: {error}") from error


def request(
    method: str,
    url: str,
    seconds: float,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    proxies: bool = False,
    most: int | None = None,
) -> httpx2.Response:
    """A whole answer, whatever its status, of at most ``most`` bytes. A server that drips gets twice the time.

    Raises:
        NoAnswer: none came within ``seconds``, or it is too long.
    """
    deadline = time.monotonic() + seconds
    with stream(method, url, seconds, content, headers, proxies) as response:
        body = bytearray()
        for chunk in response.iter_raw():
            body += chunk
            if most is not None and len(body) > most:
                raise NoAnswer(f"the answer is longer than {most} bytes", again=False)
            if time.monotonic() > deadline:
                raise NoAnswer(f"no answer within {seconds:g} s")
        return httpx2.Response(response.status_code, headers=response.headers, content=bytes(body))
