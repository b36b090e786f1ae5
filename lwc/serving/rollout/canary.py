"""Ask the new model and the live one the same texts, one by one, before the new one takes over."""

from __future__ import annotations

import http.client
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lwc.core.errors import ServingError
from lwc.serving.loadtest.samples import Sample
from lwc.serving.loadtest.wire import HEADER_LENGTH, WireError, decode_response, encode_request, read_answer

SECONDS = 60.0
_WARM_UP = 3


@dataclass(frozen=True)
class Limits:
    """What the new model must reach; None is not asked. ``max_latency_ratio`` is new ÷ live, of medians."""

    min_agreement: float | None = None
    min_accuracy: float | None = None
    max_latency_ratio: float | None = None

    @property
    def any(self) -> bool:
        return (self.min_agreement, self.min_accuracy, self.max_latency_ratio) != (None, None, None)


@dataclass(frozen=True)
class _Reply:
    """A label; or None and the refusal, which is the request's fault where ``status`` is 4xx."""

    label: str | None
    status: int
    words: str
    seconds: float


def measure(url: str, new: str, live: str | None, samples: Sequence[Sample]) -> dict[str, Any]:
    """Accuracy of ``new`` on the samples; with a ``live`` model also their agreement and the ratio of their latencies.

    Both answer each text in turn, over one connection each, so that a busy machine slows both alike. A text that a
    model refuses has no label: two refusals agree, and none is right. Latencies are medians in milliseconds.

    Raises:
        ServingError: the connection broke.
    """
    models = [new] if live is None else [new, live]
    connections = {model: http.client.HTTPConnection(url, timeout=SECONDS) for model in models}
    try:
        for sample in samples[:_WARM_UP]:
            for model in models:
                _ask(connections[model], model, sample.text)
        replies: dict[str, list[_Reply]] = {model: [] for model in models}
        for number, sample in enumerate(samples):
            for model in models if number % 2 else models[::-1]:
                replies[model].append(_ask(connections[model], model, sample.text))
    finally:
        for connection in connections.values():
            connection.close()
    mine = replies[new]
    failed = [reply for reply in mine if reply.status >= 500]
    measured: dict[str, Any] = {
        "n": len(samples),
        "accuracy": _share([reply.label == sample.label for reply, sample in zip(mine, samples, strict=True)]),
        "refused": sum(400 <= reply.status < 500 for reply in mine),
        "failed": len(failed),
        "latency_ms": 1e3 * statistics.median(reply.seconds for reply in mine),
    }
    if failed:
        measured["failure"] = failed[0].words
    if live is not None:
        theirs = replies[live]
        measured["live_accuracy"] = _share([r.label == s.label for r, s in zip(theirs, samples, strict=True)])
        measured["agreement"] = _share([a.label == b.label for a, b in zip(mine, theirs, strict=True)])
        measured["live_latency_ms"] = 1e3 * statistics.median(reply.seconds for reply in theirs)
        measured["latency_ratio"] = measured["latency_ms"] / measured["live_latency_ms"]
    return measured


def faults(measured: dict[str, Any], limits: Limits) -> list[str]:
    """What keeps the new model from taking over, one sentence each."""
    found = []
    if measured["failed"]:
        found.append(f"{measured['failed']} of {measured['n']} texts failed: {measured['failure']}")
    if limits.min_accuracy is not None and measured["accuracy"] < limits.min_accuracy:
        found.append(f"accuracy {measured['accuracy']:.4f} is below {limits.min_accuracy:g} (n = {measured['n']})")
    if "agreement" not in measured:
        return found
    if limits.min_agreement is not None and measured["agreement"] < limits.min_agreement:
        found.append(
            f"{measured['agreement']:.4f} of the answers are those of the live model, below {limits.min_agreement:g}"
            f" (n = {measured['n']})"
        )
    if limits.max_latency_ratio is not None and measured["latency_ratio"] > limits.max_latency_ratio:
        found.append(
            f"median latency {measured['latency_ms']:.1f} ms is {measured['latency_ratio']:.2f}× that of the live"
            f" model, {measured['live_latency_ms']:.1f} ms; at most {limits.max_latency_ratio:g}×"
        )
    return found


def _ask(connection: http.client.HTTPConnection, model: str, text: str) -> _Reply:
    body, header = encode_request([text])
    started = time.perf_counter()
    try:
        connection.request("POST", f"/v2/models/{model}/infer", body, {HEADER_LENGTH: str(header)})
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise ServingError(f"{model} gave no answer: {error}", "look at the server's log") from error
    seconds = time.perf_counter() - started
    if answer.status != 200:
        return _Reply(None, answer.status, content.decode("utf-8", errors="replace"), seconds)
    length = answer.getheader(HEADER_LENGTH)
    try:
        label = read_answer(decode_response(content, int(length) if length else None)).label
    except WireError as error:
        return _Reply(None, 500, str(error), seconds)
    return _Reply(label, 200, "", seconds)


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits)
