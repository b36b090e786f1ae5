"""Run one load test: Locust in a child process, the verdict in this one.

The child's exit status alone decides nothing: Locust exits 0 after zero requests and 1 after a single failed
one. The records it wrote decide; no records, or a status that says they are not whole, is a failure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lwc.core.errors import GATE_FAILED, RecipeError, ServingError
from lwc.serving.loadtest.arrivals import Arrivals
from lwc.serving.loadtest.endpoint import Endpoint
from lwc.serving.loadtest.explain import explain
from lwc.serving.loadtest.process import Elsewhere, check_installed, run_locust
from lwc.serving.loadtest.summary import latencies_ms, summarise
from lwc.serving.triton.counters import breakdown, parse_counts, server_times
from lwc.tasks.endpoint import Sample

RATE_TOLERANCE = 0.05


@dataclass(frozen=True)
class Load:
    """How a model is loaded.

    Without ``rate`` each user sends its next request when the last one is answered (closed loop): a slow server is
    asked less, so its queue does not show. With ``rate`` (requests/s over all users, which then are the connections)
    requests arrive whether or not earlier ones were answered (open loop), and latency counts from when they were due.
    """

    users: int
    seconds: float
    warmup_seconds: float
    rate: float | None = None
    arrivals: Arrivals = "poisson"
    seed: int = 17
    timeout_s: float = 10.0
    # Processes that send, each a part of the users and of the rate: one has the use of one core.
    workers: int = 1
    # In place of those: processes that were started elsewhere.
    elsewhere: Elsewhere | None = None

    def __post_init__(self) -> None:
        rate_ok = self.rate is None or 0 < self.rate < math.inf
        times_ok = 0 < self.seconds < math.inf and 0 <= self.warmup_seconds < math.inf
        if self.users < 1 or not times_ok or not rate_ok:
            raise RecipeError(
                f"no load test: {self.describe()}", "give users ≥ 1, seconds > 0, warm-up ≥ 0 and, if any, a rate > 0"
            )
        if self.elsewhere is not None and self.workers != 1:
            raise RecipeError("workers are started here or elsewhere, not both", "start all of them with --worker")
        if not 1 <= self.senders <= self.users:
            raise RecipeError(f"{self.senders} workers cannot share {self.users} users", "give each one user or more")

    @property
    def senders(self) -> int:
        """Processes that send."""
        return self.workers if self.elsewhere is None else self.elsewhere.workers

    def describe(self) -> str:
        """The load in a few words."""
        how = f"{self.users} users, closed loop"
        if self.rate is not None:
            how = f"{self.rate:.4g} requests/s, {self.arrivals} arrivals over {self.users} connections"
        return f"{how}, {self.warmup_seconds:g} s warm-up, {self.seconds:g} s measured"


def run_loadtest(
    endpoint: Endpoint,
    load: Load,
    samples: Sequence[Sample],
    out: Path,
    min_requests: int,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Send the samples in order, one a request, and judge every answer.

    Leaves in ``out``: ``records_<protocol>.json``, ``latencies_<protocol>.npy`` (float32 ms, shape (N,)),
    ``locust_<protocol>.html``, ``.log`` and CSV files. The warm-up is left out of every figure.

    Raises:
        RecipeError: ``min_requests`` is not at least 1.
        MissingDependency: Locust or tritonclient is not installed.
        ServingError: the test broke, fewer than ``min_requests`` requests were made, or none was answered. Any
            other error rate is a figure of the result, for `check_thresholds` or the gates.
    """
    if min_requests < 1:
        raise RecipeError("min_requests must be at least 1", "a test of zero requests proves nothing")
    result = measure(endpoint, load, samples, out, progress)
    made, failed = result["requests"], result["errors"]
    causes, log = error_causes(result), f"log: {out / f'locust_{endpoint.protocol}.log'}"
    if made < min_requests:
        raise ServingError(
            f"{made} requests were made over {endpoint.protocol}, at least {min_requests} are required",
            f"test longer or lower min_requests{'; errors: ' + causes if causes else ''}; {log}",
            GATE_FAILED,
        )
    if failed == made:
        raise ServingError(f"none of {made} requests over {endpoint.protocol} was answered: {causes}", log, GATE_FAILED)
    return result


def measure(
    endpoint: Endpoint,
    load: Load,
    samples: Sequence[Sample],
    out: Path,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """One load test as `run_loadtest` makes it, whatever came of it: the result may hold no answer at all."""
    check_installed()
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if progress is not None:
        progress(f"load test over {endpoint.protocol}: {load.describe()}")
    settings = {
        **asdict(load),
        "workers": load.senders,
        "protocol": endpoint.protocol,
        "url": endpoint.address,
        "model": endpoint.model,
        "metrics": endpoint.metrics,
        "wire": f"{type(endpoint.wire).__module__}:{type(endpoint.wire).__qualname__}",
        "asked_as": asdict(endpoint.wire),
        "questions": [sample.question for sample in samples],
    }
    records = run_locust(settings, out, load.elsewhere)
    np.save(out / f"latencies_{endpoint.protocol}.npy", latencies_ms(records), allow_pickle=False)
    figures = summarise(records, samples, endpoint.wire, load.rate, load.seconds)
    server = None if endpoint.metrics is None else _server(endpoint, figures, records["metrics"])
    result = {"protocol": endpoint.protocol, "model": endpoint.model, "users": load.users, **figures, "server": server}
    return {**result, "why": explain(result)}


def _server(endpoint: Endpoint, figures: Mapping[str, Any], pages: Sequence[str]) -> dict[str, Any]:
    """What Triton counted in the measured window, and the mean latency split by it."""
    before, after = (parse_counts(page, str(endpoint.metrics)) for page in pages)
    models = server_times(before, after)
    if endpoint.model not in models or "latency_ms" not in figures:
        return {"models": models, "mean_ms": None}
    latency, wait = figures["latency_ms"]["mean"], figures["wait_ms"]["mean"]
    return {"models": models, "mean_ms": breakdown(latency, wait, models[endpoint.model])}


def error_causes(result: Mapping[str, Any]) -> str:
    """The errors of a result with their counts, most frequent first; empty where there were none."""
    return "; ".join(f"{e['count']}× {e['message']}" for e in result["error_messages"])


@dataclass(frozen=True)
class Thresholds:
    """What a load test must keep to; None is not asked.

    ``rate_tolerance`` is the share of an open loop's requests that may be missing from the answered rate,
    ``min_agreement`` the least share of answers that are the offline ones.
    """

    max_error_rate: float | None = None
    max_p95_ms: float | None = None
    rate_tolerance: float | None = None
    min_accuracy: float | None = None
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not 0 <= value < math.inf:  # nothing is above or below NaN
                raise RecipeError(f"{name} is {value:g}, not a limit", f"set {name} to a number, 0 or more")


def check_thresholds(result: Mapping[str, Any], limits: Thresholds) -> list[str]:
    """What of a load test is past its threshold, one sentence each; empty when all is well."""
    failures = []
    if limits.max_error_rate is not None and result["error_rate"] > limits.max_error_rate:
        rate = f"{result['errors']} of {result['requests']} requests failed ({result['error_rate']:.3%})"
        failures.append(f"{rate}, above the budget of {limits.max_error_rate:.3%}")
    if limits.max_p95_ms is not None and "latency_ms" not in result:
        failures.append("no request was answered, so that there is no p95")
    elif limits.max_p95_ms is not None and result["latency_ms"]["p95"] > limits.max_p95_ms:
        failures.append(f"p95 is {result['latency_ms']['p95']:.1f} ms, above {limits.max_p95_ms:g} ms")
    tolerance = limits.rate_tolerance
    if tolerance is not None and result.get("achieved_ratio", 1.0) < 1.0 - tolerance:
        failures.append(
            f"{result['throughput_rps']:.4g} requests/s were answered of {result['offered_rps']:.4g} that were due"
            f" ({result['achieved_ratio']:.1%}), a shortfall of more than {tolerance:.1%}"
        )
    served = result.get("served", {})
    for name, key, least in (
        ("served accuracy", "accuracy", limits.min_accuracy),
        ("agreement with the offline answers", "matches_offline", limits.min_agreement),
    ):
        if least is not None and key not in served:
            failures.append(f"no request was answered, so that there is no {name}")
        elif least is not None and served[key] < least:
            failures.append(f"{name} is {served[key]:.4f}, below {least:g}")
    return failures
