"""The LLM expert against a real local server with the chat completions API."""

from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from tiny_llama import random_llama, save
from transformers import AutoTokenizer

from lwc.importance import chat_client, llm_expert
from lwc.importance.llm_expert import ExpertError, ExpertImportance, evidence_table, rank_with_expert
from lwc.importance.types import Refusal
from lwc.recipe import LlmExpert

KEY = "sk-very-secret-0123456789"
EVIDENCE = {"ablation": [0.5, 0.1, 0.9], "fisher": [2.0, 1.0, 3.0]}
GOOD = {"ranking": [2, 0, 1], "reasons": {"0": "middling", "1": "both methods put it last", "2": "largest loss"}}


def completion(content: Any, finish: str = "stop") -> dict[str, Any]:
    text = content if isinstance(content, str) else json.dumps(content)
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 90, "completion_tokens": 30, "details": {"x": 1}},
    }


class Chat:
    """Answers the n-th request with the n-th reply (the last one from then on) and keeps what it was asked."""

    def __init__(self) -> None:
        self.replies: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        chat = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                chat.asked.append((self.path, dict(self.headers), body))
                chat.replies[min(len(chat.asked), len(chat.replies)) - 1](self)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def says(self, *contents: Any) -> None:
        self.replies = [send(200, completion(content)) for content in contents]


def send(
    status: int, body: Any, wait: threading.Event | None = None, **headers: str
) -> Callable[[BaseHTTPRequestHandler], None]:
    """An answer, sent when ``wait`` is set where there is one."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    def reply(handler: BaseHTTPRequestHandler) -> None:
        if wait is not None:
            wait.wait()
        try:
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(raw)))
            handler.end_headers()
            handler.wfile.write(raw)
        except (BrokenPipeError, ConnectionResetError):
            assert wait is not None, "only a client that waited too long hangs up"

    return reply


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Chat]:
    monkeypatch.setenv("LWC_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TEST_EXPERT_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(llm_expert, "_FIRST_PAUSE", 0.0)
    chat = Chat()
    thread = threading.Thread(target=chat.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield chat
    chat.server.shutdown()
    chat.server.server_close()
    thread.join()


def ask(chat: Chat, cache: Path, **changes: Any) -> ExpertImportance | Refusal:
    settings = {"base_url": chat.url, "model": "tiny", "api_key_env": "TEST_EXPERT_KEY", **changes}
    return rank_with_expert(EVIDENCE, 3, LlmExpert(method="llm_expert", **settings))


def refusal(chat: Chat, cache: Path, **changes: Any) -> str:
    result = ask(chat, cache, **changes)
    assert isinstance(result, Refusal)
    assert not list(cache.rglob("*.json")), "a failure is not cached"
    return result.reason


def test_good_answer(chat: Chat, tmp_path: Path) -> None:
    chat.says(GOOD)
    result = ask(chat, tmp_path)
    assert isinstance(result, ExpertImportance)
    assert result.scores == (2.0, 1.0, 3.0)
    assert result.reasons == ("middling", "both methods put it last", "largest loss")
    assert result.usage == {"prompt_tokens": 90, "completion_tokens": 30}
    ((path, headers, body),) = chat.asked
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("tiny", 2000, 0)
    assert body["response_format"]["json_schema"]["strict"] is True
    assert evidence_table(EVIDENCE, 3) in body["messages"][1]["content"]


def test_answers_are_cached_by_content(chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chat.says(GOOD)
    first = ask(chat, tmp_path)
    monkeypatch.delenv("TEST_EXPERT_KEY")  # a cached answer needs no key
    again = ask(chat, tmp_path)
    assert isinstance(first, ExpertImportance)
    assert isinstance(again, ExpertImportance)
    assert (again.scores, again.reasons, again.usage) == (first.scores, first.reasons, first.usage)
    assert len(chat.asked) == 1
    monkeypatch.setenv("TEST_EXPERT_KEY", KEY)
    ask(chat, tmp_path, model="other")
    config = LlmExpert(method="llm_expert", base_url=chat.url, model="tiny", api_key_env="TEST_EXPERT_KEY")
    rank_with_expert({**EVIDENCE, "taylor": [1.0, 2.0, 3.0]}, 3, config)
    assert len(chat.asked) == 3, "another model or other evidence is another question"


def test_damaged_cache_is_asked_anew(chat: Chat, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chat.says(GOOD)
    ask(chat, tmp_path)
    (file,) = tmp_path.rglob("*.json")
    for damage in ('{"content": "{}", "usage": {}}', "[1", "[]"):
        file.write_text(damage)
        assert isinstance(ask(chat, tmp_path), ExpertImportance)
        assert "asking again" in caplog.text
    assert len(chat.asked) == 4


MALFORMED = {
    "not JSON": ("the best block is 2", "Invalid JSON"),
    "code fence": (f"```json\n{json.dumps(GOOD)}\n```", "Invalid JSON"),
    "repeated": ({**GOOD, "ranking": [2, 2, 1]}, "no permutation"),
    "short": ({**GOOD, "ranking": [2, 0]}, "no permutation"),
    "long": ({**GOOD, "ranking": [2, 0, 1, 3]}, "no permutation"),
    "numbered from 1": ({**GOOD, "ranking": [3, 1, 2]}, "no permutation"),
    "strings": ({**GOOD, "ranking": ["2", "0", "1"]}, "valid integer"),
    "floats": ({**GOOD, "ranking": [2.0, 0.0, 1.0]}, "valid integer"),
    "booleans": ({**GOOD, "ranking": [2, False, True]}, "valid integer"),
    "no reasons": ({"ranking": [2, 0, 1]}, "reasons: Field required"),
    "a reason missing": ({**GOOD, "reasons": {"0": "a", "1": "b"}}, "do not name every block"),
    "an empty reason": ({**GOOD, "reasons": {"0": "a", "1": "b", "2": " "}}, "empty"),
    "another field": ({**GOOD, "confidence": 1}, "Extra inputs"),
    "list": ([2, 0, 1], "should be an object"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_answers_are_refused(name: str, chat: Chat, tmp_path: Path) -> None:
    content, why = MALFORMED[name]
    chat.says(content)
    reason = refusal(chat, tmp_path, retries=1)
    assert why in reason
    assert "attempts: 2" in reason
    assert len(chat.asked) == 2


def test_malformed_then_good(chat: Chat, tmp_path: Path) -> None:
    chat.says({**GOOD, "ranking": [2, 2, 1]}, GOOD)
    assert isinstance(ask(chat, tmp_path), ExpertImportance)
    assert "no permutation" in chat.asked[1][2]["messages"][-1]["content"], "it is told why"
    assert isinstance(ask(chat, tmp_path), ExpertImportance)
    assert len(chat.asked) == 2, "cached under the question first asked"


@pytest.mark.parametrize("status", [500, 503, 429])
def test_server_errors_are_retried(status: int, chat: Chat, tmp_path: Path) -> None:
    chat.replies = [send(status, {"error": "busy"}), send(200, completion(GOOD))]
    assert isinstance(ask(chat, tmp_path), ExpertImportance)
    assert len(chat.asked) == 2


def test_retries_are_bounded(chat: Chat, tmp_path: Path) -> None:
    chat.replies = [send(500, {"error": "broken"})]
    assert "HTTP 500" in refusal(chat, tmp_path, retries=3)
    assert len(chat.asked) == 4


@pytest.mark.parametrize("status", [400, 401, 404])
def test_errors_of_the_request_are_not_retried(status: int, chat: Chat, tmp_path: Path) -> None:
    chat.replies = [send(status, {"error": f"bad key {KEY}"})]
    reason = refusal(chat, tmp_path)
    assert f"HTTP {status}" in reason
    assert KEY not in reason
    assert "***" in reason
    assert len(chat.asked) == 1


def test_slow_server(chat: Chat, tmp_path: Path) -> None:
    """It answers only when the client has given up: one that did not would wait for ever."""
    given_up = threading.Event()
    chat.replies = [send(200, completion(GOOD), wait=given_up)]
    assert "no answer within 0.5 s" in refusal(chat, tmp_path, timeout_seconds=0.5, retries=1)
    given_up.set()
    assert len(chat.asked) == 2


def test_dripping_server(chat: Chat, tmp_path: Path) -> None:
    """It drips until the client hangs up: a limit on each read alone would never end."""

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b" ")
                time.sleep(0.05)
        except (BrokenPipeError, ConnectionResetError):
            return

    chat.replies = [drip]
    assert "no answer within 0.2 s" in refusal(chat, tmp_path, timeout_seconds=0.2, retries=0)


def test_endless_answer(chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_client, "_MOST_BYTES", 1000)
    chat.says("x" * 2000)
    assert "longer than 1000 bytes" in refusal(chat, tmp_path)
    assert len(chat.asked) == 1


def test_answer_cut_off(chat: Chat, tmp_path: Path) -> None:
    chat.replies = [send(200, completion('{"ranking": [', "length"))]
    assert "max_tokens" in refusal(chat, tmp_path)
    assert len(chat.asked) == 1


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"choices": []}', b"[]", b'{"choices": [1]}', b"\xff"])
def test_no_chat_completion(body: bytes, chat: Chat, tmp_path: Path) -> None:
    chat.replies = [send(200, body)]
    assert "not a chat completion" in refusal(chat, tmp_path, retries=0)


def test_redirects_are_not_followed(chat: Chat, tmp_path: Path) -> None:
    chat.replies = [send(307, {}, Location=chat.url + "/elsewhere"), send(200, completion(GOOD))]
    assert "HTTP 307" in refusal(chat, tmp_path)
    assert len(chat.asked) == 1


def test_server_without_response_format(chat: Chat, tmp_path: Path) -> None:
    detail = {"detail": "Unsupported fields in the request: {'response_format'}"}
    chat.replies = [send(422, detail), send(200, completion(GOOD))]
    assert isinstance(ask(chat, tmp_path, retries=0), ExpertImportance)
    assert "response_format" not in chat.asked[1][2]


def test_nobody_listens(chat: Chat, tmp_path: Path) -> None:
    assert "cannot be reached" in refusal(chat, tmp_path, base_url="http://127.0.0.1:9/v1", retries=0)


@pytest.mark.parametrize("key", [None, "", " \n"])
def test_missing_key_is_named(key: str | None, chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_EXPERT_KEY") if key is None else monkeypatch.setenv("TEST_EXPERT_KEY", key)
    assert "TEST_EXPERT_KEY is not set" in refusal(chat, tmp_path)
    assert not chat.asked


def test_key_that_no_header_can_hold(chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_EXPERT_KEY", "sk-secret\r\nX: y")
    reason = refusal(chat, tmp_path)
    assert "plain ASCII" in reason
    assert "sk-secret" not in reason


def test_required(chat: Chat, tmp_path: Path) -> None:
    chat.says("no")
    with pytest.raises(ExpertError, match="Invalid JSON") as caught:
        ask(chat, tmp_path, required=True, retries=0)
    assert caught.value.exit_code == 4
    assert "required" in caught.value.hint


def test_key_is_neither_logged_nor_stored(chat: Chat, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    chat.replies = [send(500, {"error": f"Bearer {KEY}"}), send(200, completion("no")), send(200, completion(GOOD))]
    assert isinstance(ask(chat, tmp_path), ExpertImportance)
    assert "attempt 2" in caplog.text
    assert KEY not in caplog.text
    assert all(KEY not in file.read_text() for file in tmp_path.rglob("*") if file.is_file())


def test_evidence() -> None:
    table = evidence_table({"a": [0.123456, -2.0], "flat": [1.0, 1.0], "nan": [float("nan"), 1.0]}, 2)
    assert table.splitlines() == [
        "| block | a |",
        "|---|---|",
        "| 0 | 0.1235 |",
        "| 1 | -2 |",
        "Left out: flat (all blocks score the same).",
        "Left out: nan (a score is not finite).",
    ]


@pytest.mark.parametrize("evidence", [{}, {"flat": [1.0, 1.0, 1.0]}, {"short": [1.0, 2.0]}])
def test_no_evidence_no_question(evidence: dict[str, list[float]], chat: Chat, tmp_path: Path) -> None:
    config = LlmExpert(method="llm_expert", base_url=chat.url, model="tiny", api_key_env="TEST_EXPERT_KEY")
    assert isinstance(rank_with_expert(evidence, 3, config), Refusal)
    assert not chat.asked


def test_one_block(chat: Chat, tmp_path: Path) -> None:
    chat.says({"ranking": [0], "reasons": {"0": "the only one"}})
    config = LlmExpert(method="llm_expert", base_url=chat.url, model="tiny", api_key_env="TEST_EXPERT_KEY")
    result = rank_with_expert({"ablation": [0.3]}, 1, config)
    assert isinstance(result, ExpertImportance)
    assert result.scores == (1.0,)


@pytest.mark.slow
def test_transformers_serve(chat: Chat, tmp_path: Path) -> None:
    """A real server; its tiny random model cannot rank, so that what it says is refused for that alone."""
    for name in ("fastapi", "uvicorn", "openai"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"transformers serve needs the package {name}")
    folder = save(random_llama(), tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    tokenizer.save_pretrained(folder)
    port = free_port()
    command = [Path(sys.executable).with_name("transformers"), "serve", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            deadline = time.monotonic() + 90
            while "startup complete" not in (tmp_path / "log").read_text():
                assert server.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, "the server does not start"
                time.sleep(0.2)
            url = f"http://127.0.0.1:{port}/v1"
            reason = refusal(chat, tmp_path / "cache", base_url=url, model=str(folder), max_tokens=8, retries=0)
        finally:
            server.terminate()
    said = (tmp_path / "log").read_text()
    assert '/v1/chat/completions HTTP/1.1" 200' in said
    assert "max_tokens" in reason or "malformed" in reason
