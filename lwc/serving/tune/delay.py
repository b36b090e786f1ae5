"""How long the batcher should wait for company: measured on the embedded server, not guessed.

A longer delay makes larger batches, and every request pays for it. What wins depends on the model, the machine and
how many clients ask at once, so that a delay is only as good as the concurrency it was measured under. The clients are
a closed loop on the same cores as the server: the figures rank delays, they are no load test.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lwc.core.errors import ServingError
from lwc.serving.triton.client import Connection, Refused
from lwc.serving.triton.config import as_text, parse
from lwc.serving.triton.server import TritonServer
from lwc.tasks.text_wire import TextWire

DELAYS = (0, 500, 1000, 2000, 4000)
ROUNDS = 8
# Rounds that a delay must win against the first: by chance 7 of 8 happens 1 time in 28.
WINS = 7 / 8
P95_TOLERANCE = 0.10


class Window(NamedTuple):
    """One delay in one round: requests/s, and latency percentiles in ms."""

    throughput: float
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class Figures:
    """One delay (µs): medians over the rounds, and how it does against the first delay in the same rounds.

    ``gain`` is the median ratio of throughputs, ``p95_ratio`` that of 95th percentiles, ``wins`` the share of rounds
    in which it served more.
    """

    delay: int
    throughput: float
    p50_ms: float
    p95_ms: float
    gain: float
    p95_ratio: float
    wins: float


def compare(rounds: Mapping[int, Sequence[Window]]) -> list[Figures]:
    """Figures of each delay from its windows, one a round; the first delay is what the others are compared with."""
    reference = np.array(next(iter(rounds.values())))
    figures = []
    for delay, windows in rounds.items():
        mine = np.array(windows)
        gain, _, p95_ratio = np.median(mine / reference, axis=0)
        wins = np.mean(mine[:, 0] > reference[:, 0])
        values = (*np.median(mine, axis=0), gain, p95_ratio, wins)
        figures.append(Figures(delay, *(float(value) for value in values)))
    return figures


def choose(figures: Sequence[Figures]) -> Figures:
    """The delay that gains most, of those that win nearly every round and keep p95 within the tolerance.

    Where there is none, the first: other load on the machine easily hides, or feigns, a tenth.
    """
    better = [one for one in figures[1:] if one.wins >= WINS and one.p95_ratio <= 1 + P95_TOLERANCE]
    return max(better, key=lambda one: one.gain, default=figures[0])


@dataclass(frozen=True)
class DelaySearch:
    """The delays (µs) to try: ``first``, which is kept if none of ``others`` is better beyond chance, and those.

    Each is asked by ``users`` clients for ``seconds`` in each of the `ROUNDS`.
    """

    first: int
    users: int
    startup_seconds: float
    seconds: float = 1.0
    others: Sequence[int] = DELAYS


def measure(
    repository: Path, model: str, texts: Sequence[str], search: DelaySearch, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Ask ``model`` at each delay in turn, round by round.

    One server for each delay stands ready (that many copies of the model in memory), so that turns are short and
    whatever else the machine does falls on all delays. Returns chosen (µs), figures of each delay, users, seconds and
    rounds.

    Raises:
        ServingError: a server does not start, or refuses a text.
    """
    users, seconds = search.users, search.seconds
    delays = (search.first, *(delay for delay in search.others if delay != search.first))
    rounds: dict[int, list[Window]] = {delay: [] for delay in delays}
    with ExitStack() as stack:
        urls = {}
        for delay in delays:
            progress(f"starting a server with a delay of {delay} µs")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lwc-delay-"))) / "repository"
            shutil.copytree(repository, folder)
            set_delay(folder, delay)
            server = stack.enter_context(TritonServer(folder, startup_seconds=search.startup_seconds))
            urls[delay] = server.http_url
            _ask(server.http_url, model, texts, users, seconds)  # warms up
        for number in range(ROUNDS):
            progress(f"round {number + 1} of {ROUNDS}, {users} clients")
            for delay, url in urls.items():
                times = _ask(url, model, texts, users, seconds)
                p50, p95 = (float(np.percentile(times, q)) * 1000 for q in (50, 95))
                rounds[delay].append(Window(len(times) / seconds, p50, p95))
    figures = compare(rounds)
    told = [asdict(one) for one in figures]
    return {"chosen": choose(figures).delay, "figures": told, "users": users, "seconds": seconds, "rounds": ROUNDS}


def set_delay(repository: Path, microseconds: int) -> None:
    """Write the delay into every model of a repository that clients call and that batches."""
    for path in sorted(repository.glob("*/config.pbtxt")):
        config = parse(path.read_text(encoding="utf-8"))
        if config.HasField("dynamic_batching") and config.backend == "python":
            config.dynamic_batching.max_queue_delay_microseconds = microseconds
            path.write_text(as_text(config), encoding="utf-8")


def _ask(url: str, model: str, texts: Sequence[str], users: int, seconds: float) -> list[float]:
    """Seconds that each request took, of those that ended within the time; every user asks again when answered."""
    wire = TextWire()
    end = time.perf_counter() + seconds

    def user(number: int) -> list[float]:
        times = []
        with Connection(url, "http") as connection:
            for text in itertools.islice(itertools.cycle(texts), number * len(texts) // users, None):
                started = time.perf_counter()
                try:
                    connection.ask(model, wire, text)
                except Refused as error:
                    raise ServingError(f"{model} answers {error}") from error
                now = time.perf_counter()
                if now > end:
                    break
                times.append(now - started)
        return times

    with ThreadPoolExecutor(users) as pool:
        times = [one for mine in pool.map(user, range(users)) for one in mine]
    if not times:
        raise ServingError(f"{model} answered nothing in {seconds:g} s", "is the machine overloaded?")
    return times
