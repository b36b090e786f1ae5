"""What Locust loads, in a process of its own: importing Locust patches sockets and threads.

Its settings come as a JSON file whose path stands in ``LWC_LOADTEST``; what it leaves is the records file the
parent decides from. The exit status only says whether that file has all records.
"""

from __future__ import annotations

import json
import logging
import os
import pkgutil
import time
from pathlib import Path
from typing import Any, ClassVar

import gevent
import gevent.event
import gevent.pool
import gevent.queue
import grpc.experimental.gevent
import locust.runners
import locust.stats
from locust import User, constant, events
from locust.env import Environment
from locust.exception import StopUser
from locust.rpc import Message
from locust.runners import MasterRunner, Runner, WorkerRunner

import lwc
from lwc.core.store import write_whole
from lwc.serving.loadtest.arrivals import arrival_times
from lwc.serving.loadtest.process import OWN_LIMITS
from lwc.serving.loadtest.recorder import Recorder, Ticket, merge_records
from lwc.serving.triton.client import Connection, Refused
from lwc.serving.triton.counters import read_page
from lwc.tasks.endpoint import Question, Wire

SETTINGS: dict[str, Any] = json.loads(Path(os.environ["LWC_LOADTEST"]).read_text(encoding="utf-8"))
QUESTIONS: list[Question] = SETTINGS["questions"]
WIRE: Wire = pkgutil.resolve_name(SETTINGS["wire"])(**SETTINGS["asked_as"])
TIMEOUT_S: float = SETTINGS["timeout_s"]
CSV_TICK_S = 0.5
locust.stats.CSV_STATS_INTERVAL_SEC = CSV_TICK_S
# Beats of 1 s that a worker may miss: on a busy machine it is late, not lost.
locust.runners.HEARTBEAT_LIVENESS = 15
RATE: float | None = SETTINGS["rate"]
METRICS: str | None = SETTINGS["metrics"]
RECORDER = Recorder(samples=len(QUESTIONS))
# Open loop: requests that are due and wait for a free user. None ends every user that finds it.
DUE: gevent.queue.SimpleQueue[Ticket | None] = gevent.queue.SimpleQueue()
# A worker's users send when the master says so: one that came too late never does.
BEGUN = gevent.event.Event()
# Inputs by question: encoded once, however often they are sent.
ENCODED: dict[int, list[Any]] = {}
# Without this one blocked call over gRPC blocks every user: 10 users then make the requests of one.
grpc.experimental.gevent.init_gevent()


def next_ticket() -> Ticket:
    """The next request: at once in a closed loop, when one is due in an open loop."""
    BEGUN.wait()
    ticket = RECORDER.take() if RATE is None else DUE.get()
    if ticket is None:
        DUE.put(None)
        raise StopUser
    RECORDER.send(ticket)
    return ticket


class Asker(User):  # type: ignore[misc]
    """Asks one question a request, over a connection of its own."""

    wait_time = constant(0)

    def on_start(self) -> None:
        self.connection = Connection(SETTINGS["url"], SETTINGS["protocol"], TIMEOUT_S)

    def on_stop(self) -> None:
        self.connection.close()

    def ask(self) -> None:
        """Send the next question and note the answer."""
        ticket = next_ticket()
        answer, error = None, None
        try:
            if ticket.sample not in ENCODED:
                ENCODED[ticket.sample] = self.connection.inputs(WIRE.encode(QUESTIONS[ticket.sample]))
            answer = self.connection.read(SETTINGS["model"], WIRE, ENCODED[ticket.sample])
        except Refused as problem:
            if problem.broken and any(limit in str(problem) for limit in OWN_LIMITS):
                raise  # ends the test: no figure of the server's
            error = problem
        latency = RECORDER.finish(ticket, answer, None if error is None else str(error))
        self.environment.events.request.fire(
            request_type=SETTINGS["protocol"], name="infer", response_time=latency, response_length=0,
            exception=error, context={},
        )  # fmt: skip

    tasks: ClassVar = [ask]

    def start(self, group: gevent.pool.Group) -> gevent.Greenlet:
        """Begin to ask. Whatever ends this user but the end of the test ends the test, as a failure."""
        asking = super().start(group)
        asking.link_exception(lambda dead: gevent.spawn(give_up, f"{type(dead.exception).__name__}: {dead.exception}"))
        return asking


def give_up(cause: str) -> None:
    """End the test without figures: with a user less, they would be those of another load."""
    runner = ENVIRONMENT[0].runner
    if isinstance(runner, WorkerRunner):
        runner.send_message("died", cause)
    else:
        DIED.append(cause)
        runner.quit()


def on_init(environment: Environment, runner: Runner, web_ui: object) -> None:
    """Assume failure until the records are written, and let a bug in a user end the test, not loop."""
    environment.process_exit_code = 1
    environment.catch_exceptions = False
    ENVIRONMENT[:] = [environment]
    if isinstance(runner, WorkerRunner):
        runner.register_message("begin", on_begin, concurrent=True)
    elif isinstance(runner, MasterRunner):
        runner.register_message("records", lambda environment, msg, **_: RECORDS.append(msg.data))
        runner.register_message("settings", on_settings)
        runner.register_message("died", lambda environment, msg, **_: give_up(msg.data), concurrent=True)
    else:
        BEGUN.set()


def on_spawned(user_count: int) -> None:
    """Start the clock when every user is there, so that ramp-up is not measured; a worker waits for its master."""
    runner = ENVIRONMENT[0].runner
    if not STARTED and not isinstance(runner, WorkerRunner):
        STARTED.append(gevent.spawn(conduct if isinstance(runner, MasterRunner) else alone))


def alone() -> None:
    """One process does it all."""
    try:
        timeline()
        RECORDS.append({**RECORDER.as_json(), **MEASURED})
        # Locust's CSV files hold what the last tick wrote, so the figures of the drain need one more tick.
        gevent.sleep(1.5 * CSV_TICK_S)
    finally:
        ENVIRONMENT[0].runner.quit()


def conduct() -> None:
    """The master's part: start the workers' clocks, read the server's counters with them, wait for all records."""
    runner = ENVIRONMENT[0].runner

    def wait(seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while len(RECORDS) < len(EXPECTED) and (left := deadline - time.monotonic()) > 0:
            if runner.worker_count < len(EXPECTED):
                raise RuntimeError(f"only {runner.worker_count} of {len(EXPECTED)} workers are left")
            gevent.sleep(min(left, 0.05))

    try:
        EXPECTED[:] = sorted(runner.clients)
        for number, worker in enumerate(EXPECTED):
            runner.send_message("begin", {"run": SETTINGS["run"], "worker": number, "workers": len(EXPECTED)}, worker)
        wait(SETTINGS["warmup_seconds"])
        before = read_page(METRICS) if METRICS else None
        wait(SETTINGS["seconds"])
        MEASURED["metrics"] = [before, read_page(METRICS)] if METRICS else None
        wait(2 * TIMEOUT_S)
    finally:
        runner.quit()


def on_begin(environment: Environment, msg: Message, **_: object) -> None:
    """A worker's part: every n-th sample and its share of the rate, then its records to the master."""
    if msg.data["run"] != SETTINGS["run"]:
        logging.error("the master that gave the settings is gone, and another is in its place")
        environment.runner.quit()
        return
    RECORDER.first, RECORDER.step = msg.data["worker"], msg.data["workers"]
    BEGUN.set()
    timeline(msg.data["worker"], msg.data["workers"])
    environment.runner.send_message("records", {**RECORDER.as_json(), **MEASURED})


def on_settings(environment: Environment, msg: Message, **_: object) -> None:
    """A worker from elsewhere asks what to do, in its own words (`lwc.serving.loadtest.worker`), before it joins."""
    wanted = not STARTED and len(environment.runner.clients) < SETTINGS["workers"]
    answer = {"version": lwc.__version__, "settings": SETTINGS if wanted else None}
    environment.runner.server.send_to_client(Message("settings", answer, msg.node_id))


def timeline(worker: int = 0, workers: int = 1) -> None:
    """Warm up, measure, let what was due be answered."""
    metrics = None if isinstance(ENVIRONMENT[0].runner, WorkerRunner) else METRICS
    try:
        load(SETTINGS["warmup_seconds"], SETTINGS["seed"] + 1, worker, workers)
        before = read_page(metrics) if metrics else None
        ENVIRONMENT[0].stats.reset_all()
        RECORDER.measure()
        cpu = time.process_time()
        load(SETTINGS["seconds"], SETTINGS["seed"], worker, workers)
        RECORDER.stop()
        after = read_page(metrics) if metrics else None
        MEASURED.update(cpu_s=time.process_time() - cpu, metrics=[before, after] if metrics else None)
        deadline = RECORDER.clock() + TIMEOUT_S
        while RECORDER.pending and RECORDER.clock() < deadline:
            gevent.sleep(0.02)
    finally:
        DUE.put(None)


def load(seconds: float, seed: int, worker: int, workers: int) -> None:
    """Let the users send for ``seconds``; in an open loop, make each request due at its time, answered or not."""
    begin = RECORDER.clock()
    if RATE is not None:
        # Poisson arrivals add up to Poisson arrivals; constant ones of several workers fall between each other.
        start = begin + (worker / RATE if SETTINGS["arrivals"] == "constant" else 0.0)
        for at in arrival_times(RATE / workers, seconds, SETTINGS["arrivals"], seed + 1000 * worker):
            # Also where it is late: sleeping 0 s lets the users run.
            gevent.sleep(max(0.0, start + at - RECORDER.clock()))
            DUE.put(RECORDER.take(due=start + at))
    gevent.sleep(max(0.0, begin + seconds - RECORDER.clock()))


ENVIRONMENT: list[Environment] = []
# The workers whose records are waited for; alone: this process.
EXPECTED: list[str] = ["alone"]
STARTED: list[Any] = []
MEASURED: dict[str, Any] = {}
RECORDS: list[dict[str, Any]] = []
# Why users ended before the test did.
DIED: list[str] = []


def on_quitting(environment: Environment) -> None:
    """Write the records when they are whole; only then is the exit status 0."""
    RECORDER.stop()
    if isinstance(environment.runner, WorkerRunner):
        environment.process_exit_code = 0 if "cpu_s" in MEASURED else 1
    elif DIED:
        write_whole(Path(SETTINGS["records"]), json.dumps({"died": DIED[0]}).encode())
    elif len(RECORDS) == len(EXPECTED):
        records = json.dumps({**merge_records(RECORDS), **MEASURED}, allow_nan=False)
        write_whole(Path(SETTINGS["records"]), records.encode())
        environment.process_exit_code = 0


events.init.add_listener(on_init)
events.spawning_complete.add_listener(on_spawned)
events.quitting.add_listener(on_quitting)
