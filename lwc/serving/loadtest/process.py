"""Locust in a process of its own: start it, wait with a deadline, read the records it left."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lwc
from lwc.errors import MissingDependency, ServingError
from lwc.serving.loadtest.recorder import RECORDS_VERSION

START_ALLOWANCE_S = 60.0
TAIL_LINES = 15
# Run by path: importing it here would import Locust.
LOCUSTFILE = Path(__file__).with_name("locustfile.py")


def check_installed(protocol: str) -> None:
    """Raise `MissingDependency` where Locust, or what gRPC needs, is not installed."""
    wanted = ["locust"] + (["grpc", "tritonclient"] if protocol == "grpc" else [])
    # find_spec, not import: importing Locust would patch this process.
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependency(f"not installed: {', '.join(missing)}", "install it with: pip install 'lwc[serve]'")


def run_locust(settings: Mapping[str, Any], users: int, out: Path) -> dict[str, Any]:
    """Run one load test with the settings of ``locustfile.py``; returns the records it left.

    Leaves ``records_<protocol>.json``, ``locust_<protocol>.html``, ``.log`` and CSV files in ``out``.

    Raises:
        ServingError: Locust broke, ran past its deadline, or left no whole records; its log is quoted.
    """
    protocol = settings["protocol"]
    settings_path, log = out / f"settings_{protocol}.json", out / f"locust_{protocol}.log"
    records = out / f"records_{protocol}.json"
    records.unlink(missing_ok=True)
    settings_path.write_text(json.dumps({**settings, "records": str(records)}), encoding="utf-8")
    # In-flight requests may finish: without --stop-timeout they are killed and would be missing from the figures.
    drain = settings["timeout_s"] + 1.0
    limit = settings["warmup_seconds"] + settings["seconds"] + drain + START_ALLOWANCE_S
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
    command += ["--users", str(users), "--spawn-rate", str(users), "--stop-timeout", f"{drain:g}"]
    # The test ends itself after the measured seconds; this limit counts the ramp-up and is only a backstop.
    command += ["--run-time", f"{int(limit)}s", "--loglevel", "INFO"]
    command += ["--html", f"locust_{protocol}.html", "--csv", f"locust_{protocol}", "--csv-full-history"]
    workers = settings["workers"]
    started: list[subprocess.Popen[bytes]] = []
    with log.open("wb") as stream, socket.socket() as probe:
        if workers > 1:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
            probe.close()
            command += ["--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port]
            command += ["--expect-workers", str(workers), "--expect-workers-max-wait", f"{START_ALLOWANCE_S:g}"]
            worker = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--worker"]
            worker += ["--master-host", "127.0.0.1", "--master-port", port, "--stop-timeout", f"{drain:g}"]
        try:
            for line in [command] + ([worker] * workers if workers > 1 else []):
                started.append(
                    subprocess.Popen(
                        line,
                        cwd=out,
                        env=child_environment("LWC_LOADTEST", settings_path),
                        stdin=subprocess.DEVNULL,
                        stdout=stream,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
            status = started[0].wait(timeout=limit + drain + START_ALLOWANCE_S)
        except subprocess.TimeoutExpired as error:
            raise ServingError(f"the load test did not end in time\n{tail(log)}", f"the whole log: {log}") from error
        finally:
            for child in started:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
            settings_path.unlink()
    return _read_records(records, status, log)


def child_environment(variable: str, settings_path: Path) -> dict[str, str]:
    """What a Locust process gets: ``variable`` names its settings, lwc is importable, no LOCUST_ variable is left."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LOCUST_")}
    environment[variable] = str(settings_path)
    root = str(Path(lwc.__file__).resolve().parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    return environment


def _read_records(path: Path, status: int, log: Path) -> dict[str, Any]:
    if status != 0 or not path.is_file():
        what = "left no records" if not path.is_file() else "broke after its records were written"
        raise ServingError(f"the load test {what} (exit status {status})\n{tail(log)}", f"the whole log: {log}")
    records: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if records.get("version") != RECORDS_VERSION or not records.get("measured") or "cpu_s" not in records:
        raise ServingError(f"the load test ended before it had measured\n{tail(log)}", f"the whole log: {log}")
    return records


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log file, or the last traceback in it: Locust prints its tables after one."""
    if not log.is_file():
        return "(no log)"
    text = log.read_text(encoding="utf-8", errors="replace").splitlines()
    traces = [number for number, line in enumerate(text) if line.startswith("Traceback")]
    return "\n".join(text[traces[-1] :][: 2 * lines] if traces else text[-lines:])
