"""How long the batcher should wait for company: measured on the embedded server, not guessed.

A longer delay makes larger batches, and every request pays for it. What wins depends on the model, the machine and
how many clients ask at once, so that a delay is only as good as the concurrency it was measured under. The clients are
a closed loop on the same cores as the server: the figures rank delays, they are no load test.
"""

from __future__ import annotations

import http.client
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lwc.errors import ServingError
from lwc.serving.server import TritonServer
from lwc.serving.triton_config import as_text, parse

DELAYS = (0, 500, 1000, 2000, 4000)
# A delay may cost this share of the best 95th percentile, and throughputs closer than that are one.
P95_TOLERANCE = 0.10
SAME = 0.03
ROUNDS = 3


@dataclass(frozen=True)
class Figures:
    """Of one delay (µs): requests/s, and latency percentiles in ms; medians over the rounds."""

    delay: int
    throughput: float
    p50_ms: float
    p95_ms: float


def choose(figures: Sequence[Figures]) -> Figures:
    """The shortest delay among those that serve most, of those whose p95 is within the tolerance of the best p95."""
    limit = min(one.p95_ms for one in figures) * (1 + P95_TOLERANCE)
    allowed = [one for one in figures if one.p95_ms <= limit]
    most = max(one.throughput for one in allowed)
    return min((one for one in allowed if one.throughput >= most * (1 - SAME)), key=lambda one: one.delay)


def measure(
    repository: Path,
    model: str,
    texts: Sequence[str],
    users: int,
    seconds: float,
    startup_seconds: float,
    progress: Callable[[str], None],
    delays: Sequence[int] = DELAYS,
) -> dict[str, Any]:
    """Serve ``repository`` with each delay in turn, ``ROUNDS`` times, while ``users`` clients ask ``model``.

    Rounds go over all delays before any is repeated, so that other load on the machine falls on all of them.
    Returns chosen (µs), figures of each delay, users, seconds (of one measurement) and rounds.

    Raises:
        ServingError: the server does not start, or refuses a text.
    """
    bodies = [_body(text) for text in texts]
    found: dict[int, list[Figures]] = {delay: [] for delay in delays}
    for number, delay in itertools.product(range(ROUNDS), delays):
        progress(f"delay {delay} µs, round {number + 1} of {ROUNDS}")
        with tempfile.TemporaryDirectory(prefix="lwc-delay-") as folder:
            copy = Path(folder) / "repository"
            shutil.copytree(repository, copy)
            set_delay(copy, delay)
            with TritonServer(copy, startup_seconds=startup_seconds) as server:
                _ask(server.http_url, model, bodies, users, seconds / 4)  # warms up
                times = _ask(server.http_url, model, bodies, users, seconds)
        p50, p95 = (float(np.percentile(times, q)) * 1000 for q in (50, 95))
        found[delay].append(Figures(delay, len(times) / seconds, p50, p95))
    figures = [_median(rounds) for rounds in found.values()]
    return {
        "chosen": choose(figures).delay,
        "figures": [asdict(one) for one in figures],
        "users": users,
        "seconds": seconds,
        "rounds": ROUNDS,
    }


def set_delay(repository: Path, microseconds: int) -> None:
    """Write the delay into every model of a repository that batches."""
    for path in sorted(repository.glob("*/config.pbtxt")):
        config = parse(path.read_text(encoding="utf-8"))
        if config.HasField("dynamic_batching"):
            config.dynamic_batching.max_queue_delay_microseconds = microseconds
            path.write_text(as_text(config), encoding="utf-8")


def _median(rounds: Sequence[Figures]) -> Figures:
    columns = ("throughput", "p50_ms", "p95_ms")
    return Figures(rounds[0].delay, *(float(np.median([getattr(one, name) for one in rounds])) for name in columns))


def _body(text: str) -> bytes:
    entry = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": [text]}
    return json.dumps({"inputs": [entry]}).encode()


def _ask(url: str, model: str, bodies: Sequence[bytes], users: int, seconds: float) -> list[float]:
    """Seconds that each request took, of those that ended within the time; every user asks again when answered."""
    end = time.perf_counter() + seconds

    def user(number: int) -> list[float]:
        connection = http.client.HTTPConnection(url, timeout=60)
        times = []
        for body in itertools.islice(itertools.cycle(bodies), number * len(bodies) // users, None):
            started = time.perf_counter()
            connection.request("POST", f"/v2/models/{model}/infer", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                raise ServingError(f"{model} answers {answer.status}: {content[:200].decode(errors='replace')}")
            now = time.perf_counter()
            if now > end:
                break
            times.append(now - started)
        connection.close()
        return times

    with ThreadPoolExecutor(users) as pool:
        times = [one for mine in pool.map(user, range(users)) for one in mine]
    if not times:
        raise ServingError(f"{model} answered nothing in {seconds:g} s", "is the machine overloaded?")
    return times
