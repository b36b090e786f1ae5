"""One call of an OpenAI-compatible ``/chat/completions``, bounded in time and size, and careful with the key."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lwc.core.http import NoAnswer, request

_MOST_BYTES = 4 * 2**20
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}
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


def _reply(raw: bytes) -> Reply:
    try:
        parsed = json.loads(raw)
        choice = parsed["choices"][0]
        content, finish = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ChatError("the response is not a chat completion", again=True) from error
    if finish == "length":
        raise ChatError("the answer was cut off at max_tokens", again=False)
    if not isinstance(content, str):
        raise ChatError("the response contains no text", again=True)
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

    url, headers = base_url.rstrip("/") + "/chat/completions", {"Authorization": f"Bearer {key}", **_JSON}
    try:
        # A redirect, which would carry the key to another place, is an answer like any other.
        answer = request("POST", url, timeout, json.dumps(body).encode(), headers, proxies=True, most=_MOST_BYTES)
    except NoAnswer as error:
        raise failed(str(error), again=error.again) from None
    if answer.status_code < 300:
        return _reply(answer.content)
    again = answer.status_code in {408, 409, 429} or answer.status_code >= 500
    refused = answer.status_code in {400, 422} and "response_format" in answer.text
    raise failed(f"HTTP {answer.status_code}: {' '.join(answer.text.split())[:_QUOTED]}", again, refused)
