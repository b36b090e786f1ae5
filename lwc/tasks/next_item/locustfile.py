"""What Locust loads to replay histories, in a process of its own: importing Locust patches sockets and threads.

Its settings come as a JSON file whose path stands in ``LWC_REPLAY``; what it leaves is the records file the parent
decides from.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, ClassVar

import gevent
from locust import FastHttpUser, User, constant, events
from locust.exception import StopUser

from lwc.serving.loadtest import wire
from lwc.tasks.next_item import asking

SETTINGS: dict[str, Any] = json.loads(Path(os.environ["LWC_REPLAY"]).read_text(encoding="utf-8"))
HISTORIES: list[list[str]] = SETTINGS["histories"]
MODEL: str = SETTINGS["model"]
K: int = SETTINGS["k"]
TIMEOUT_S: float = SETTINGS["timeout_s"]


class Replay:
    """Hands out the histories in order and keeps what became of each request: (sample, latency ms, answer, error)."""

    def __init__(self) -> None:
        self.phase, self.next, self.waiting = "warmup", 0, 0
        self.began = self.ended = 0.0
        self.rows: list[tuple[int, float, list[str] | None, int | None, str | None]] = []

    def ask(self, send: Any) -> tuple[float, str | None]:
        """Send the next history; returns the latency in ms and the error, if any."""
        if self.phase == "stop":
            raise StopUser
        phase, sample = self.phase, self.next % len(HISTORIES)
        self.next += 1
        self.waiting += 1
        started = time.perf_counter()
        answer, error = None, None
        try:
            answer = send(HISTORIES[sample])
        except wire.WireError as problem:
            error = str(problem)
        finally:
            self.waiting -= 1
        ended = time.perf_counter()
        latency = (ended - started) * 1000
        if phase == "measure":
            items, skipped = (None, None) if answer is None else (list(answer.items), answer.skipped)
            self.rows.append((sample, latency, items, skipped, error))
            self.ended = ended
        return latency, error

    def timeline(self, environment: Any) -> None:
        """Warm up, measure from the first history on, wait for what is under way, stop."""
        gevent.sleep(SETTINGS["warmup_seconds"])
        self.phase, self.next, self.began = "measure", 0, time.perf_counter()
        gevent.sleep(SETTINGS["seconds"])
        self.phase = "stop"
        deadline = time.perf_counter() + TIMEOUT_S
        while self.waiting and time.perf_counter() < deadline:
            gevent.sleep(0.02)
        environment.runner.quit()


REPLAY = Replay()


class HttpReader(FastHttpUser):  # type: ignore[misc]
    """Asks one history a request with hand-encoded binary tensors."""

    abstract = SETTINGS["protocol"] != "http"
    host = SETTINGS["url"]
    wait_time = constant(0)
    network_timeout = TIMEOUT_S
    connection_timeout = TIMEOUT_S

    def recommend(self) -> None:
        """Send the next history and note the answer."""

        def send(history: list[str]) -> asking.Recommended:
            body, length = asking.request_body([history], K)
            headers = {"Content-Type": "application/octet-stream", "Accept-Encoding": "identity"}
            headers[wire.HEADER_LENGTH] = str(length)
            path = f"/v2/models/{MODEL}/infer"
            with self.client.post(path, data=body, headers=headers, name="infer", catch_response=True) as response:
                cause = str(response.text or getattr(response, "error", ""))
                header = response.headers.get(wire.HEADER_LENGTH)
                try:
                    outputs = wire.read_http(response.status_code, response.content, cause, header)
                except wire.WireError as problem:
                    response.failure(str(problem))
                    raise
                response.success()
                return asking.read_answers(outputs)[0]

        REPLAY.ask(send)

    tasks: ClassVar = [recommend]


if SETTINGS["protocol"] == "grpc":
    import grpc
    import grpc.experimental.gevent
    from tritonclient.grpc import service_pb2_grpc

    # Without this one blocked call blocks every user: 10 users then make the requests of one.
    grpc.experimental.gevent.init_gevent()

    class GrpcReader(User):  # type: ignore[misc]
        """Asks one history a request as raw input contents, over a connection of its own."""

        host = SETTINGS["url"]
        wait_time = constant(0)

        def on_start(self) -> None:
            """Open the connection."""
            self.channel = grpc.insecure_channel(SETTINGS["url"], options=wire.CHANNEL_OPTIONS)
            self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

        def on_stop(self) -> None:
            """Close the connection."""
            self.channel.close()

        def recommend(self) -> None:
            """Send the next history and note the answer."""

            def send(history: list[str]) -> asking.Recommended:
                try:
                    response = self.stub.ModelInfer(asking.grpc_request(MODEL, [history], K), timeout=TIMEOUT_S)
                except grpc.RpcError as problem:
                    raise wire.WireError(f"gRPC {problem.code().name}: {problem.details()!s:.200}") from problem
                return asking.read_answers(asking.grpc_outputs(response))[0]

            latency, error = REPLAY.ask(send)
            self.environment.events.request.fire(
                request_type="gRPC",
                name="infer",
                response_time=latency,
                response_length=0,
                exception=None if error is None else wire.WireError(error),
                context={},
            )

        tasks: ClassVar = [recommend]


def on_init(environment: Any, runner: Any, web_ui: Any) -> None:
    """Assume failure until the records are written, and let a bug in a user end that user, not loop."""
    environment.process_exit_code = 1
    environment.catch_exceptions = False


ENVIRONMENT: list[Any] = []


def on_start(environment: Any) -> None:
    """Keep the environment for the timeline."""
    ENVIRONMENT[:] = [environment]


def on_spawned(user_count: int) -> None:
    """Start the clock when every user is there, so that ramp-up is not measured."""
    if not REPLAY.began:
        gevent.spawn(REPLAY.timeline, ENVIRONMENT[0])


def on_quitting(environment: Any) -> None:
    """Write the records; only then is the exit status 0."""
    records = {"measured": REPLAY.began > 0, "duration_s": max(0.0, REPLAY.ended - REPLAY.began), "rows": REPLAY.rows}
    Path(SETTINGS["records"]).write_text(json.dumps(records), encoding="utf-8")
    environment.process_exit_code = 0


events.init.add_listener(on_init)
events.test_start.add_listener(on_start)
events.spawning_complete.add_listener(on_spawned)
events.quitting.add_listener(on_quitting)
