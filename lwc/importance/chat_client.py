"""One call of an OpenAI-compatible ``/chat/completions``, bounded in time and size, and careful with the key."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

_MOST_BYTES = 4 * 2**20
_CHUNK = 2**16
_QUOTED = 200


class ChatError(Exception):
    """A call failed. ``again``: it may go well next time. ``schema_refused``: the server knows no response_format."""

    def __init__(self, message: str, again: bool, schema_refused: bool = False) -> None:
        super().__init__(message)
        self.again = again
        self.schema_refused = schema_refused


@dataclass(frozen=True)
class Reply:
    """The text of the first choice, and the tokens the server counted."""

    content: str
    usage: dict[str, int]


class _NoRedirect(HTTPRedirectHandler):
    """A redirect would carry the key to another place."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def _body(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """All of the response, unless it is too long or drips past the deadline."""
    parts: list[bytes] = []
    size = 0
    while chunk := response.read1(_CHUNK):
        size += len(chunk)
        if size > _MOST_BYTES:
            raise ChatError(f"the answer is longer than {_MOST_BYTES} bytes", again=False)
        if time.monotonic() > deadline:
            raise TimeoutError
        parts.append(chunk)
    return b"".join(parts)


def _said(error: HTTPError) -> str:
    """What the server says about a failure, as far as it can be read."""
    try:
        with error:
            return error.read(_CHUNK).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as broken:
        return f"(its explanation could not be read: {type(broken).__name__})"


def _reply(raw: bytes) -> Reply:
    try:
        parsed = json.loads(raw)
        choice = parsed["choices"][0]
        content, finish = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ChatError("the response is no chat completion", again=True) from error
    if finish == "length":
        raise ChatError("the answer was cut off at max_tokens", again=False)
    if not isinstance(content, str):
        raise ChatError("the response holds no text", again=True)
    usage = parsed.get("usage") or {}
    counts = {name: value for name, value in usage.items() if type(value) is int} if isinstance(usage, dict) else {}
    return Reply(content, counts)


def post_chat(base_url: str, key: str, body: dict[str, Any], timeout: float) -> Reply:
    """POST ``{base_url}/chat/completions``. Waits ``timeout`` seconds, twice that where a server drips.

    Raises:
        ChatError: no completion came; its message never holds the key.
    """
    host = urlsplit(base_url).hostname or base_url

    def failed(message: str, again: bool, schema_refused: bool = False) -> ChatError:
        return ChatError(f"{host}: {message}".replace(key, "***"), again, schema_refused)

    request = Request(
        base_url.rstrip("/") + "/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json", "Accept": "application/json"},
    )
    deadline = time.monotonic() + timeout
    try:
        with build_opener(_NoRedirect()).open(request, timeout=timeout) as response:
            return _reply(_body(response, deadline))
    except HTTPError as error:
        said = _said(error)
        again = error.code in {408, 409, 429} or error.code >= 500
        refused = error.code in {400, 422} and "response_format" in said
        raise failed(f"HTTP {error.code}: {' '.join(said.split())[:_QUOTED]}", again, refused) from None
    except TimeoutError:
        raise failed(f"no answer within {timeout:g} s", again=True) from None
    except URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise failed(f"no answer within {timeout:g} s", again=True) from None
        raise failed(f"cannot be reached: {error.reason}", again=True) from None
    except (OSError, http.client.HTTPException) as error:
        raise failed(f"the connection broke: {error!r}", again=True) from None
