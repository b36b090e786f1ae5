"""What Locust loads, in a process of its own: importing Locust patches sockets and threads.

Its settings come as a JSON file whose path stands in ``LWC_LOADTEST``; what it leaves is the records file the
parent decides from. The exit status only says whether that file was written.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any, ClassVar

import gevent
import gevent.event
import gevent.queue
import locust.runners
import locust.stats
from locust import FastHttpUser, User, constant, events
from locust.exception import StopUser
from locust.rpc import Message
from locust.runners import MasterRunner, WorkerRunner

import lwc
from lwc.serving.loadtest import wire
from lwc.serving.loadtest.arrivals import arrival_times
from lwc.serving.loadtest.recorder import Recorder, Ticket, merge_records, write_records
from lwc.serving.triton.counters import read_page

SETTINGS: dict[str, Any] = json.loads(Path(os.environ["LWC_LOADTEST"]).read_text(encoding="utf-8"))
TEXTS: list[str] = SETTINGS["texts"]
MODEL: str = SETTINGS["model"]
# As `TextModel` has it.
ASK: dict[str, Any] = SETTINGS["text_model"]
CLASSES: int | None = SETTINGS["classes"]
LABELS: set[str] | None = set(SETTINGS["labels"]) if SETTINGS["labels"] else None
TIMEOUT_S: float = SETTINGS["timeout_s"]
CSV_TICK_S = 0.5
locust.stats.CSV_STATS_INTERVAL_SEC = CSV_TICK_S
# Beats of 1 s that a worker may miss: on a busy machine it is late, not lost.
locust.runners.HEARTBEAT_LIVENESS = 15
RATE: float | None = SETTINGS["rate"]
# Processes that send, this one alone or several.
WORKERS: int = SETTINGS["workers"]
METRICS: str | None = SETTINGS["metrics"]
RECORDER = Recorder(samples=len(TEXTS))
# Open loop: requests that are due and wait for a free user. None ends every user that finds it.
DUE: gevent.queue.SimpleQueue[Ticket | None] = gevent.queue.SimpleQueue()
# A worker's users send when the master says so: one that came too late never does.
BEGUN = gevent.event.Event()


def read_label(outputs: dict[str, wire.RawTensor]) -> str | None:
    """The label's name in an answer, when it is one of the names that are known; None of a model without labels."""
    missing = set(ASK["outputs"]) - set(outputs)
    if missing:
        raise wire.WireError(f"the answer lacks the outputs {sorted(missing)}")
    if ASK["label"] is None:
        return None
    label = wire.read_answer(outputs, CLASSES, ASK["label"], ASK["scores"]).label
    if LABELS is not None and label not in LABELS:
        raise wire.WireError(f"the label {label!r} is none of {sorted(LABELS)}")
    return label


def next_ticket() -> Ticket:
    """The next request: at once in a closed loop, when one is due in an open loop."""
    BEGUN.wait()
    ticket = RECORDER.take() if RATE is None else DUE.get()
    if ticket is None:
        DUE.put(None)
        raise StopUser
    RECORDER.send(ticket)
    return ticket


class HttpClassifier(FastHttpUser):  # type: ignore[misc]
    """Sends one text a request with hand-encoded binary tensors."""

    abstract = SETTINGS["protocol"] != "http"
    host = SETTINGS["url"]
    wait_time = constant(0)
    network_timeout = TIMEOUT_S
    connection_timeout = TIMEOUT_S

    def classify(self) -> None:
        """Send the next text and note the answer."""
        ticket = next_ticket()
        body, header_length = wire.encode_request([TEXTS[ticket.sample]], ASK["outputs"], ASK["input"], ASK["shape"])
        headers = {
            "Content-Type": "application/octet-stream",
            "Accept-Encoding": "identity",
            wire.HEADER_LENGTH: str(header_length),
        }
        path = f"/v2/models/{MODEL}/infer"
        with self.client.post(path, data=body, headers=headers, name="infer", catch_response=True) as response:
            label, error = None, None
            try:
                label = self.read(response)
            except wire.WireError as problem:
                error = str(problem)
            RECORDER.finish(ticket, label, error)
            if error is None:
                response.success()
            else:
                response.failure(error)

    def read(self, response: Any) -> str | None:
        """The label in a response, or a WireError saying why it is no answer."""
        cause = str(response.text or getattr(response, "error", ""))
        length = response.headers.get(wire.HEADER_LENGTH)
        return read_label(wire.read_http(response.status_code, response.content, cause, length))

    tasks: ClassVar = [classify]


if SETTINGS["protocol"] == "grpc":
    import grpc
    import grpc.experimental.gevent
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    # Without this one blocked call blocks every user: 10 users then make the requests of one.
    grpc.experimental.gevent.init_gevent()

    class GrpcClassifier(User):  # type: ignore[misc]
        """Sends one text a request as raw input contents, over a connection of its own."""

        wait_time = constant(0)

        def on_start(self) -> None:
            """Open the connection."""
            self.channel = grpc.insecure_channel(SETTINGS["url"], options=wire.CHANNEL_OPTIONS)
            self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

        def on_stop(self) -> None:
            """Close the connection."""
            self.channel.close()

        def classify(self) -> None:
            """Send the next text and note the answer."""
            ticket = next_ticket()
            request = service_pb2.ModelInferRequest(model_name=MODEL)
            request.inputs.add(name=ASK["input"], datatype="BYTES", shape=ASK["shape"])
            request.raw_input_contents.append(wire.encode_strings([TEXTS[ticket.sample]]))
            for name in ASK["outputs"]:
                request.outputs.add(name=name)
            label, error, size = None, None, 0
            try:
                response = self.stub.ModelInfer(request, timeout=TIMEOUT_S)
                size = response.ByteSize()
                label = read_label(wire.read_grpc(response))
            except grpc.RpcError as problem:
                error = f"gRPC {problem.code().name}: {problem.details()!s:.200}"
            except wire.WireError as problem:
                error = str(problem)
            latency = RECORDER.finish(ticket, label, error)
            self.environment.events.request.fire(
                request_type="gRPC",
                name="infer",
                response_time=latency,
                response_length=size,
                exception=None if error is None else wire.WireError(error),
                context={},
            )

        tasks: ClassVar = [classify]


def on_init(environment: Any, runner: Any, web_ui: Any) -> None:
    """Assume failure until the records are written, and let a bug in a user end that user, not loop."""
    environment.process_exit_code = 1
    environment.catch_exceptions = False
    ENVIRONMENT[:] = [environment]
    if isinstance(runner, WorkerRunner):
        runner.register_message("begin", on_begin, concurrent=True)
    elif isinstance(runner, MasterRunner):
        runner.register_message("records", on_records)
        runner.register_message("settings", on_settings)
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


def on_begin(environment: Any, msg: Any, **_: Any) -> None:
    """A worker's part: every n-th sample and its share of the rate, then its records to the master."""
    if msg.data["run"] != SETTINGS["run"]:
        logging.error("the master that gave the settings is gone, and another is in its place")
        environment.runner.quit()
        return
    RECORDER.first, RECORDER.step = msg.data["worker"], msg.data["workers"]
    BEGUN.set()
    timeline(msg.data["worker"], msg.data["workers"])
    environment.runner.send_message("records", {**RECORDER.as_json(), **MEASURED})


def on_settings(environment: Any, msg: Any, **_: Any) -> None:
    """A worker from elsewhere asks what to do, in its own words (`lwc.serving.loadtest.worker`), before it joins."""
    wanted = not STARTED and len(environment.runner.clients) < WORKERS
    answer = {"version": lwc.__version__, "settings": SETTINGS if wanted else None}
    environment.runner.server.send_to_client(Message("settings", answer, msg.node_id))


def on_records(environment: Any, msg: Any, **_: Any) -> None:
    """The records of one worker."""
    RECORDS.append(msg.data)


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


ENVIRONMENT: list[Any] = []
# The workers whose records are waited for; alone: this process.
EXPECTED: list[str] = ["alone"]
STARTED: list[Any] = []
MEASURED: dict[str, Any] = {}
RECORDS: list[dict[str, Any]] = []


def on_quitting(environment: Any) -> None:
    """Write the records when they are whole; only then is the exit status 0."""
    RECORDER.stop()
    if isinstance(environment.runner, WorkerRunner):
        environment.process_exit_code = 0 if "cpu_s" in MEASURED else 1
    elif len(RECORDS) == len(EXPECTED):
        write_records({**merge_records(RECORDS), **MEASURED}, Path(SETTINGS["records"]))
        environment.process_exit_code = 0


events.init.add_listener(on_init)
events.spawning_complete.add_listener(on_spawned)
events.quitting.add_listener(on_quitting)
