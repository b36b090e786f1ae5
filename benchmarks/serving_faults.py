"""A served model under faults: ten minutes of load, and a model process killed under load."""

from __future__ import annotations

import itertools
import os
import queue
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from serving_table import row

from lwc.core.children import ProcessGroup
from lwc.core.errors import ServingError
from lwc.serving.loadtest.endpoint import Protocol, connect
from lwc.serving.loadtest.run import Load, run_loadtest
from lwc.serving.triton.client import Connection, Refused
from lwc.serving.triton.server import TritonServer
from lwc.tasks.endpoint import Sample
from lwc.tasks.text_wire import TextWire

SOAK_WINDOW_S = 300.0
USERS = 4  # of each protocol
BACK_WITHIN_S = 10.0
SETTLE_S = 2.0
SPEAK_S = 120.0
ROOT = Path(__file__).resolve().parent.parent


def soak(
    server: TritonServer, model: str, samples: Sequence[Sample], minutes: float, out: Path
) -> list[dict[str, Any]]:
    """HTTP and gRPC at once; every answer must come, and be the offline one where that is known."""
    ends = time.monotonic() + 60.0 * minutes
    memory, totals, number = [_memory(server)], {"requests": 0, "lost": 0, "wrong": 0}, 0
    while number == 0 or time.monotonic() < ends:
        load = Load(USERS, min(SOAK_WINDOW_S, max(5.0, ends - time.monotonic())), warmup_seconds=2.0)

        def one(protocol: Protocol, load: Load = load, out: Path = out / str(number)) -> dict[str, Any]:
            url = server.http_url if protocol == "http" else server.grpc_url
            endpoint = connect(url, protocol, model, server.metrics_url)
            return run_loadtest(endpoint, load, samples, out / protocol, 1)

        with ThreadPoolExecutor(2) as pool:
            for result in pool.map(one, ("http", "grpc")):
                served, answered = result["served"], result["served"]["answers"]
                totals["requests"] += result["requests"]
                totals["lost"] += result["errors"]
                same = served.get("matches_offline")
                # Without offline answers, at least a text's answer must not change.
                wrong = served["inconsistent_texts"] if same is None else round((1.0 - same) * answered)
                totals["wrong"] += wrong
        memory.append(_memory(server))
        number += 1
    told = (
        f"{minutes:g} minutes, HTTP and gRPC with {USERS} users each, n = {totals['requests']}: {totals['lost']} lost,"
        f" {totals['wrong']} wrong; server memory {memory[0]:.0f} → {memory[-1]:.0f} MB"
    )
    return [row(f"{model}: answers lost or wrong", [totals["lost"] + totals["wrong"]], 0.0, "<=", told)]


def _memory(server: TritonServer) -> float:
    """Resident MB of the server and the processes of its models."""
    process = psutil.Process(server.pid)
    return float(sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 1e6)


class Serve:
    """``lwc serve`` as a user starts it, on ports of its own choice; ``urls`` are its ``host:port`` by protocol."""

    def __init__(self, repository: Path, *options: str, environment: Mapping[str, str] | None = None) -> None:
        ports = ("--http-port=0", "--grpc-port=0", "--metrics-port=0")
        command = [sys.executable, "-m", "lwc.cli.main", "serve", str(repository), *ports, *options]
        self.group = ProcessGroup()
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **(environment or {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            process_group=self.group.id,
        )
        self.lines: queue.Queue[str] = queue.Queue()
        self.said: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        try:
            words = self.hear("ready").split()
        except BaseException:
            self.group.kill()
            raise
        self.urls: dict[Protocol, str] = {"http": words[2], "grpc": words[4]}

    def __enter__(self) -> Serve:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.put(line)

    def hear(self, words: str) -> str:
        """The next line with these words.

        Raises:
            ServingError: the server ended, or did not say them in time.
        """
        deadline = time.monotonic() + SPEAK_S
        while time.monotonic() < deadline:
            try:
                line = self.lines.get(timeout=1)
            except queue.Empty:
                if self.process.poll() is not None:
                    break
                continue
            self.said.append(line)
            if words in line:
                return line
        raise ServingError(f"lwc serve does not say {words!r}:\n{''.join(self.said)}")

    @property
    def triton(self) -> psutil.Process:
        """The server process."""
        (process,) = (p for p in psutil.Process(self.process.pid).children() if p.name() == "tritonserver")
        return process

    def instance(self, name: str) -> psutil.Process:
        """The living process of a model instance, like ``reviews_0_0``."""
        (process,) = (
            p for p in self.triton.children() if p.status() != psutil.STATUS_ZOMBIE and name in p.cmdline()
        )  # fmt: skip
        return process

    def stop(self) -> int:
        """End it as Ctrl-C does; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(60)
        finally:
            self.group.kill()


@dataclass(frozen=True)
class Heard:
    """What became of one request, with times of ``time.monotonic`` in s: a label, or else the words of its refusal."""

    sent: float
    ended: float
    label: str | None
    refusal: str | None
    right: bool

    @property
    def seconds(self) -> float:
        """How long the request took."""
        return self.ended - self.sent


class Asking:
    """A closed loop over HTTP and gRPC at once: ``USERS`` threads of each ask on and on, one sample after the other.

    ``heard`` holds every request that ended: each waits at most ``limit_s``.
    """

    def __init__(self, urls: Mapping[Protocol, str], model: str, samples: Sequence[Sample], limit_s: float) -> None:
        self.heard: list[Heard] = []
        self._model, self._samples, self._limit_s = model, itertools.cycle(samples), limit_s
        self._lock, self._end = threading.Lock(), threading.Event()
        self._urls, self._pool = urls, ThreadPoolExecutor(len(urls) * USERS)
        self._users: list[Future[None]] = []

    def _ask_on(self, protocol: Protocol, url: str) -> None:
        while not self._end.is_set():
            with self._lock:
                sample = next(self._samples)
            sent, label, refusal = time.monotonic(), None, None
            try:
                with Connection(url, protocol, self._limit_s) as connection:
                    label = str(connection.ask(self._model, TextWire(), sample.question))
            except Refused as problem:
                refusal = f"{protocol}: {problem}".partition(";")[0]  # gRPC appends the address
            right = label is None or sample.offline is None or label == sample.offline
            self.heard.append(Heard(sent, time.monotonic(), label, refusal, right))
            if refusal is not None:
                self._end.wait(0.01)  # refused at once: do not spin

    def __enter__(self) -> Asking:
        self._users = [
            self._pool.submit(self._ask_on, protocol, url) for protocol, url in self._urls.items() for _ in range(USERS)
        ]
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._pool.shutdown()
        for user in self._users:
            user.result()  # raises what ended a user, which must not pass for one that asks no more

    def wait_for_answer(self, after: float) -> None:
        """Wait until a request that was sent after that moment is answered.

        Raises:
            ServingError: none is for as long as two requests may take.
        """
        deadline = time.monotonic() + 2.0 * self._limit_s
        while not any(one.label is not None and one.sent > after for one in self.heard[-100:]):
            if time.monotonic() > deadline:
                causes = Counter(one.refusal for one in self.heard if one.sent > after)
                raise ServingError(f"no request is answered any more: {causes.most_common(3)}")
            time.sleep(0.02)


def back_after(moment: float, heard: Sequence[Heard]) -> float:
    """Seconds from the ``moment`` of the kill until requests were answered again, and none was refused any more.

    Raises:
        ServingError: no request was refused, or none answered after the last that was.
    """
    refused = [one.ended for one in heard if one.refusal is not None and one.ended > moment]
    if not refused:
        raise ServingError("the kill hit no request, so it proves nothing", "load the server more")
    answered = [one.ended for one in heard if one.label is not None and one.ended > max(refused)]
    if not answered:
        raise ServingError(f"no answer came after the last refusal, {max(refused) - moment:.1f} s after the kill")
    return min(answered) - moment


def killed(
    serve: Serve, victim: psutil.Process, model: str, samples: Sequence[Sample], limit_s: float
) -> tuple[float, list[Heard]]:
    """kill -9 of a process under load: `back_after`, and every request from before to after it.

    Raises:
        ServingError: the service does not come back, or as `back_after`.
    """
    with Asking(serve.urls, model, samples, limit_s) as asking:
        asking.wait_for_answer(time.monotonic())
        time.sleep(SETTLE_S)
        moment = time.monotonic()
        victim.kill()
        serve.hear("starting again")
        serve.hear("ready")
        asking.wait_for_answer(time.monotonic())
        time.sleep(SETTLE_S)
    return back_after(moment, asking.heard), asking.heard


def kill(
    repository: Path, model: str, samples: Sequence[Sample], kills: int, limit_s: float = 30.0
) -> list[dict[str, Any]]:
    """kill -9 of the text model's process under load, ``kills`` times, each in a server of its own.

    Every request must be answered, rightly, or refused with an error before ``limit_s``.
    """
    back: list[float] = []
    heard: list[Heard] = []
    for _ in range(kills):
        with Serve(repository) as serve:
            seconds, requests = killed(serve, serve.instance(f"{model}_0_0"), model, samples, limit_s)
        back.append(seconds)
        heard += requests
    refused = Counter(one.refusal for one in heard if one.refusal is not None)
    hung = sum(one.seconds >= limit_s for one in heard)
    wrong = sum(not one.right for one in heard)
    each = f"{kills} kills, HTTP and gRPC with {USERS} users each"
    told = (
        f"{each}, n = {len(heard)}: {sum(refused.values())} refused, {hung} hung, {wrong} wrong; longest request"
        f" {max(one.seconds for one in heard):.1f} s of the client's {limit_s:g} s; refusals: "
        + "; ".join(f"{count}× {words:.80}" for words, count in refused.most_common(3))
    )
    return [
        row(f"{model}: seconds from kill -9 to answers again, worst", back, BACK_WITHIN_S, "<=",
            f"{each}; median {statistics.median(back):.1f} s", max),
        row(f"{model}: requests that hung or were answered wrongly", [hung + wrong], 0.0, "<=", told),
    ]  # fmt: skip
