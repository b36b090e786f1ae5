"""One of several senders of a load test whose master runs elsewhere: it brings nothing but this package.

Questions and settings come from the master over the connection that Locust itself uses (ZeroMQ, MessagePack: data,
never code), answers go back the same way and are judged there. Nothing is encrypted, and nobody is asked who he is.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from lwc import __version__
from lwc.core.errors import USAGE, RecipeError, ServingError
from lwc.serving.loadtest.endpoint import parse_address, wires
from lwc.serving.loadtest.process import (
    Protocol,
    allow_files,
    check_installed,
    longest_s,
    run_processes,
    tail,
    worker_command,
)

PATIENCE_S = 120.0
ASK_AGAIN_MS = 2000


def work(master: str, say: Callable[[str], None], patience_s: float = PATIENCE_S) -> int:
    """Send for the load test whose master is at ``host:port``, or for all of a series; returns how many it were.

    Raises:
        RecipeError: that is no address, or the master runs another version.
        MissingDependency: Locust, or what gRPC needs, is not installed.
        ServingError: no master took this worker within ``patience_s``, or the test broke.
    """
    check_installed()
    address = parse_address(master, "10.0.0.5:5557")
    host, _, port = address.rpartition(":")
    done = 0
    while True:
        try:
            settings = fetch_settings(address, patience_s)
        except ServingError:
            if done:  # the series is over
                return done
            raise
        # The protocol becomes part of a file's name, the wire is imported.
        if settings["protocol"] not in get_args(Protocol) or settings["wire"] not in wires():
            raise ServingError(f"the master at {address} sent settings that are none of lwc's")
        allow_files(settings)
        say(f"sending to {settings['model']} at {settings['url']} for {address}")
        with tempfile.TemporaryDirectory(prefix="lwc-worker-") as name:
            folder, log = Path(name), Path(name) / "locust.log"
            command, patience = worker_command(settings, host, int(port)), settings["elsewhere"]["wait_s"]
            status = run_processes([command], settings, folder, log, patience + longest_s(settings) + PATIENCE_S)
            if status != 0:
                raise ServingError(f"the master at {address} ended its test before it was measured\n{tail(log)}")
        done += 1
        if not settings["elsewhere"]["series"]:
            return done


def fetch_settings(address: str, patience_s: float) -> dict[str, Any]:
    """The settings of the load test at ``host:port``, asked for until its master is there and wants a worker.

    Raises:
        RecipeError: the master runs another version.
        ServingError: none did within ``patience_s``.
    """
    # Of Locust's dependencies; importing Locust itself would patch this process.
    import msgpack  # type: ignore[import-untyped]  # it has no stubs
    import zmq

    refusal = "nothing answers"
    deadline = time.monotonic() + patience_s
    with zmq.Context() as context:
        while time.monotonic() < deadline:
            name = f"settings_{uuid.uuid4().hex}"
            with context.socket(zmq.DEALER) as line:
                line.linger = 0
                line.setsockopt(zmq.IDENTITY, name.encode())
                line.connect(f"tcp://{address}")
                # As Locust writes its messages: kind, data, sender.
                line.send(msgpack.packb(("settings", None, name)))
                if not line.poll(ASK_AGAIN_MS):
                    continue
                _, answer, _ = msgpack.unpackb(line.recv())
            if answer["version"] != __version__:
                raise RecipeError(
                    f"the master at {address} runs lwc {answer['version']}, this worker {__version__}",
                    "install the same version on both",
                )
            if answer["settings"] is not None:
                return dict(answer["settings"])
            refusal = "it has all the workers it wants"
            time.sleep(0.5)
    raise ServingError(
        f"no load test at {address} took this worker in {patience_s:g} s: {refusal}",
        "start the master: lwc loadtest SAMPLES ... --expect-workers N --master-bind-host ITS_ADDRESS",
        USAGE,
    )
