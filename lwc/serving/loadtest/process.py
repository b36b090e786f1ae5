"""Locust in a process of its own: start it, wait with a deadline, read the records it left."""

from __future__ import annotations

import errno
import importlib.util
import json
import math
import os
import resource
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import lwc
from lwc.core.children import ProcessGroup
from lwc.core.errors import USAGE, MissingDependency, RecipeError, ServingError
from lwc.serving.loadtest.recorder import RECORDS_VERSION

START_ALLOWANCE_S = 60.0
TAIL_LINES = 15
# Of a sender, besides its connections: libraries, logs, pipes.
OTHER_FILES = 100
# What a sender, not the server, runs out of: files, local ports.
OWN_LIMITS = tuple(map(os.strerror, (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL)))
# Run by path: importing it here would import Locust.
LOCUSTFILE = Path(__file__).with_name("locustfile.py")
# Locust's words where too few workers came.
GAVE_UP = "Gave up waiting for workers to connect"


Protocol = Literal["http", "grpc"]


def check_installed() -> None:
    """Raise `MissingDependency` where Locust or Triton's clients are not installed."""
    wanted = ["locust", "tritonclient", "grpc"]
    # find_spec, not import: importing Locust would patch this process.
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependency(f"not installed: {', '.join(missing)}", "install it with: pip install 'lwc[serve]'")


@dataclass(frozen=True)
class Elsewhere:
    """Senders that others start, by ``lwc loadtest --worker``: how many, and where they find the master."""

    workers: int
    host: str = "127.0.0.1"
    port: int = 5557
    wait_s: float = START_ALLOWANCE_S
    # Another load test follows this one, for the same workers.
    series: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1 or not 0 < self.port < 65536 or not 0 < self.wait_s < math.inf:
            raise RecipeError(
                f"cannot wait {self.wait_s:g} s at port {self.port} for {self.workers} workers",
                "give a number of workers ≥ 1, a port from 1 to 65535, and a wait above 0 s",
            )


def allow_files(settings: Mapping[str, Any]) -> None:
    """Raise this process's limit of open files, which its children inherit, to what the users of one sender need.

    Raises:
        RecipeError: the hard limit is below that.
    """
    needed = -(-settings["users"] // settings["workers"]) + OTHER_FILES  # each user has a connection
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise RecipeError(
            f"a sender of {needed - OTHER_FILES} users needs {needed} open files, the limit here is {hard}",
            f"raise it (ulimit -n {needed}), or take fewer users or more --workers",
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def run_locust(settings: Mapping[str, Any], out: Path, elsewhere: Elsewhere | None) -> dict[str, Any]:
    """Run one load test with the settings of ``locustfile.py``; returns the records it left.

    ``settings["workers"]`` processes send: this one alone, several started here, or those of ``elsewhere``. Leaves
    ``records_<protocol>.json``, ``locust_<protocol>.html``, ``.log`` and CSV files in ``out``.

    Raises:
        RecipeError: more users than this process may open connections.
        ServingError: Locust broke, ran past its deadline, left no whole records, or workers did not come; its log is
            quoted.
    """
    if elsewhere is None:
        allow_files(settings)
    protocol, workers, users = settings["protocol"], settings["workers"], str(settings["users"])
    log, records = out / f"locust_{protocol}.log", out / f"records_{protocol}.json"
    records.unlink(missing_ok=True)
    command = [*_locust(settings), "--headless", "--only-summary", "--users", users, "--spawn-rate", users]
    # The test ends itself after the measured seconds; this limit counts the ramp-up and is only a backstop.
    command += ["--run-time", f"{int(longest_s(settings))}s", "--loglevel", "INFO"]
    command += ["--html", f"locust_{protocol}.html", "--csv", f"locust_{protocol}", "--csv-full-history"]
    commands = [command]
    if workers > 1 or elsewhere is not None:
        master = elsewhere or Elsewhere(workers, port=_free_port())
        command += ["--master", "--master-bind-host", master.host, "--master-bind-port", str(master.port)]
        command += ["--expect-workers", str(workers), "--expect-workers-max-wait", f"{master.wait_s:g}"]
        commands += [] if elsewhere else [worker_command(settings, master.host, master.port)] * workers
    patience = longest_s(settings) + settings["timeout_s"] + START_ALLOWANCE_S + (elsewhere.wait_s if elsewhere else 0)
    told = {"records": str(records), "run": uuid.uuid4().hex, "elsewhere": asdict(elsewhere) if elsewhere else None}
    status = run_processes(commands, {**settings, **told}, out, log, patience)
    if elsewhere is not None and not records.is_file() and GAVE_UP in log.read_text(encoding="utf-8", errors="replace"):
        raise ServingError(
            f"fewer than {workers} workers came to {elsewhere.host}:{elsewhere.port} in {elsewhere.wait_s:g} s"
            f"\n{tail(log)}",
            f"start each with: lwc loadtest --worker {elsewhere.host}:{elsewhere.port}; one alone sends for one core",
            USAGE,
        )
    return _read_records(records, status, log)


def longest_s(settings: Mapping[str, Any]) -> float:
    """What a load test may take in s from the moment that every user is there."""
    return float(settings["warmup_seconds"] + settings["seconds"] + settings["timeout_s"] + 1.0 + START_ALLOWANCE_S)


def worker_command(settings: Mapping[str, Any], host: str, port: int) -> list[str]:
    """Locust as one of several senders, for the master at an address."""
    return [*_locust(settings), "--worker", "--master-host", host, "--master-port", str(port)]


def _locust(settings: Mapping[str, Any]) -> list[str]:
    # In-flight requests may finish: without --stop-timeout they are killed and would be missing from the figures.
    stop = f"{settings['timeout_s'] + 1.0:g}"
    return [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--stop-timeout", stop]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_processes(
    commands: Sequence[list[str]], settings: Mapping[str, Any], folder: Path, log: Path, patience_s: float
) -> int:
    """Start Locust processes in ``folder`` with the same settings; the exit status of the first. None is left behind.

    Raises:
        ServingError: the first did not end within ``patience_s``.
    """
    path = folder / f"settings_{settings['protocol']}.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    started: list[subprocess.Popen[bytes]] = []
    with log.open("wb") as stream, ProcessGroup([path]) as group:
        try:
            for command in commands:
                started.append(
                    subprocess.Popen(
                        command,
                        cwd=folder,
                        env=_environment(path),
                        stdin=subprocess.DEVNULL,
                        stdout=stream,
                        stderr=subprocess.STDOUT,
                        process_group=group.id,
                    )
                )
            return started[0].wait(timeout=patience_s)
        except subprocess.TimeoutExpired as error:
            raise ServingError(f"the load test did not end in time\n{tail(log)}", f"the whole log: {log}") from error
        finally:
            group.kill()
            for child in started:
                child.wait()
            path.unlink()


def _environment(settings: Path) -> dict[str, str]:
    """This process's, with lwc importable, and without Locust's own variables."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LOCUST_")}
    root = str(Path(lwc.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (root, kept.get("PYTHONPATH"))))
    return {**kept, "LWC_LOADTEST": str(settings), "PYTHONPATH": path}


def _read_records(path: Path, status: int, log: Path) -> dict[str, Any]:
    records: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "died" in records and any(limit in records["died"] for limit in OWN_LIMITS):
        raise ServingError(
            f"the sender, not the server, failed: {records['died']}",
            "raise the limit of open files (ulimit -n), or take fewer users or more --workers",
            USAGE,
        )
    if "died" in records:
        raise ServingError(f"a user of the load test died of {records['died']}\n{tail(log)}", f"the whole log: {log}")
    if status != 0 or not records:
        what = "left no records" if not records else "broke after its records were written"
        raise ServingError(f"the load test {what} (exit status {status})\n{tail(log)}", f"the whole log: {log}")
    if records.get("version") != RECORDS_VERSION or not records.get("measured") or "cpu_s" not in records:
        raise ServingError(f"the load test ended before it measured anything\n{tail(log)}", f"the whole log: {log}")
    return records


def tail(log: Path) -> str:
    """The last lines of a log file, or the first traceback in it: after one Locust prints tables, and shuts down."""
    if not log.is_file():
        return "(no log)"
    text = log.read_text(encoding="utf-8", errors="replace").splitlines()
    traces = [number for number, line in enumerate(text) if line.startswith("Traceback")]
    return "\n".join(text[traces[0] :][: 2 * TAIL_LINES] if traces else text[-TAIL_LINES:])
