"""Ask the new model and the live one the same texts, one by one, before the new one takes over."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from lwc.core.errors import ServingError
from lwc.serving.triton.client import Connection, Refused
from lwc.tasks.endpoint import Answer, Sample, Wire

SECONDS = 60.0
_WARM_UP = 3


@dataclass(frozen=True)
class Limits:
    """What the new model must reach; None is not asked. ``max_latency_ratio`` is new ÷ live, of medians."""

    min_agreement: float | None = None
    min_accuracy: float | None = None
    max_latency_ratio: float | None = None


@dataclass(frozen=True)
class _Reply:
    """An answer; or None and the refusal, which is the request's fault where ``status`` is 4xx."""

    answer: Answer
    status: int
    words: str
    seconds: float


def measure(url: str, models: Mapping[str, Wire], samples: Sequence[Sample]) -> dict[str, Any]:
    """Accuracy of a new model on the samples; with the live one also their agreement and the ratio of their latencies.

    ``models``: the new one and how it is asked, and, if there is one, the live one after it.

    Both answer each text in turn, over one connection each, so that a busy machine slows both alike. A text that a
    model refuses has no label: two refusals agree, and none is right. Latencies are medians in milliseconds.

    Raises:
        ServingError: the connection broke.
    """
    new, live = (*models, None)[:2]
    replies: dict[str, list[_Reply]] = {model: [] for model in models}
    with ExitStack() as stack:
        connections = {model: stack.enter_context(Connection(url, "http", SECONDS)) for model in models}
        for sample in samples[:_WARM_UP]:
            for model in models:
                _ask(connections[model], model, models[model], sample)
        for number, sample in enumerate(samples):
            for model in models if number % 2 else reversed(list(models)):
                replies[model].append(_ask(connections[model], model, models[model], sample))
    mine = replies[str(new)]
    failed = [reply for reply in mine if reply.status >= 500]
    measured: dict[str, Any] = {
        "n": len(samples),
        "accuracy": _accuracy(mine, samples),
        "refused": sum(400 <= reply.status < 500 for reply in mine),
        "failed": len(failed),
        "latency_ms": 1e3 * statistics.median(reply.seconds for reply in mine),
    }
    if failed:
        measured["failure"] = failed[0].words
    if live is not None:
        theirs = replies[live]
        measured["live_accuracy"] = _accuracy(theirs, samples)
        measured["agreement"] = statistics.fmean(a.answer == b.answer for a, b in zip(mine, theirs, strict=True))
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


def _ask(connection: Connection, model: str, wire: Wire, sample: Sample) -> _Reply:
    started = time.perf_counter()
    try:
        answer = connection.ask(model, wire, sample.question)
    except Refused as error:
        if error.broken:
            raise ServingError(f"{model} gave no answer: {error}", "look at the server's log") from error
        return _Reply(None, error.status or 500, str(error), time.perf_counter() - started)
    return _Reply(answer, 200, "", time.perf_counter() - started)


def _accuracy(replies: Sequence[_Reply], samples: Sequence[Sample]) -> float:
    return statistics.fmean(reply.answer == sample.label for reply, sample in zip(replies, samples, strict=True))
