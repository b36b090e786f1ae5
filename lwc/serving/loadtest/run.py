"""Run one load test: Locust in a child process, the verdict in this one.

The child's exit status alone decides nothing: Locust exits 0 after zero requests and 1 after a single failed
one. The records it wrote decide; no records, or a status that says they are not whole, is a failure.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import numpy as np

import lwc
from lwc.errors import GATE_FAILED, USAGE, MissingDependency, RecipeError, ServingError
from lwc.serving.loadtest.recorder import RECORDS_VERSION
from lwc.serving.loadtest.samples import read_samples
from lwc.serving.loadtest.summary import latencies_ms, summarise

Protocol = Literal["http", "grpc"]
START_ALLOWANCE_S = 60.0
TAIL_LINES = 15
# Run by path: importing it here would import Locust.
LOCUSTFILE = Path(__file__).with_name("locustfile.py")


def run_loadtest(
    url: str,
    protocol: Protocol,
    model: str,
    samples_path: Path,
    users: int,
    seconds: float,
    warmup_seconds: float,
    out: Path,
    min_requests: int,
    label_names: Sequence[str] | None = None,
    rate: float | None = None,
    request_timeout_s: float = 10.0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Send the samples in order to ``model`` at ``url`` and check every answer by label name.

    ``url`` is ``http://host:port`` or, for gRPC, ``host:port``. Requests carry one text each. The first
    ``warmup_seconds`` are left out of every figure; the next ``seconds`` are measured. Without ``rate`` each
    user sends its next request when the last one is answered (closed loop); with ``rate`` (requests/s over all
    users) requests are due at fixed times and latency counts from when they were due.

    Leaves in ``out``: ``records_<protocol>.json``, ``latencies_<protocol>.npy`` (float32 ms, shape (N,)),
    ``locust_<protocol>.html``, ``.log`` and CSV files.

    Raises:
        RecipeError: the settings or the URL are wrong.
        MissingDependency: Locust or tritonclient is not installed.
        ServingError: nothing listens, the test broke, fewer than ``min_requests`` requests were made, or none
            was answered. Any other error rate is a figure of the result, for `check_thresholds` or the gates.
    """
    if protocol not in get_args(Protocol):
        raise RecipeError(f"{protocol!r} is not a protocol: it is http or grpc")
    _check_settings(users, seconds, warmup_seconds, min_requests, model, rate)
    _check_installed(protocol)
    address = _address(url, protocol)
    _check_listens(address)
    samples = read_samples(samples_path)
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    records_path = out / f"records_{protocol}.json"
    records_path.unlink(missing_ok=True)
    settings = {
        "protocol": protocol,
        "url": f"http://{address}" if protocol == "http" else address,
        "model": model,
        "texts": [sample.text for sample in samples],
        "labels": list(label_names) if label_names is not None else None,
        "classes": len(label_names) if label_names is not None else None,
        "seconds": seconds,
        "warmup_seconds": warmup_seconds,
        "rate": rate,
        "timeout_s": request_timeout_s,
        "records": str(records_path),
    }
    if progress is not None:
        progress(f"load test over {protocol}: {users} users, {warmup_seconds:g} s warm-up, {seconds:g} s measured")
    status, log = _run_locust(settings, users, out)
    records = _read_records(records_path, status, log)
    result = {"protocol": protocol, "users": users, **summarise(records, samples, label_names)}
    np.save(out / f"latencies_{protocol}.npy", latencies_ms(records), allow_pickle=False)
    _check_result(result, min_requests, log)
    return result


def _check_settings(
    users: int, seconds: float, warmup_seconds: float, min_requests: int, model: str, rate: float | None
) -> None:
    if users < 1 or not seconds > 0 or warmup_seconds < 0 or (rate is not None and not rate > 0):
        raise RecipeError("a load test needs users ≥ 1, seconds > 0, warm-up ≥ 0 and, if given, rate > 0")
    if min_requests < 1:
        raise RecipeError("min_requests must be at least 1", "a test of zero requests proves nothing")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", model):
        raise RecipeError(f"{model!r} is not a model name", "use letters, digits, '.', '_' and '-'")


def _check_installed(protocol: Protocol) -> None:
    wanted = ["locust"] + (["grpc", "tritonclient"] if protocol == "grpc" else [])
    # find_spec, not import: importing Locust would patch this process.
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependency(f"not installed: {', '.join(missing)}", "install it with: pip install 'lwc[serve]'")


def _address(url: str, protocol: Protocol) -> str:
    """``host:port`` of a URL; a bare ``host:port`` is taken as it is."""
    parts = urlsplit(url if "://" in url else f"//{url}")
    if parts.scheme not in ("", "http", "grpc"):
        raise RecipeError(f"{url}: {parts.scheme}:// is not supported", "use http://host:port or host:port")
    try:
        port = parts.port
    except ValueError as error:
        raise RecipeError(f"{url}: {error}") from error
    if not parts.hostname or port is None or parts.path not in ("", "/") or parts.query or parts.username:
        example = "http://127.0.0.1:8000" if protocol == "http" else "127.0.0.1:8001"
        raise RecipeError(f"{url!r} is not the address of a server", f"give host and port, like {example}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}"


def _check_listens(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
    except OSError as error:
        raise ServingError(
            f"nothing answers at {address}: {error}", "start the server (lwc serve) or check the address", USAGE
        ) from error


def _run_locust(settings: Mapping[str, Any], users: int, out: Path) -> tuple[int, Path]:
    """Start Locust, wait with a deadline; returns its exit status and its log."""
    protocol = settings["protocol"]
    settings_path, log = out / f"settings_{protocol}.json", out / f"locust_{protocol}.log"
    settings_path.write_text(json.dumps(settings), encoding="utf-8")
    # In-flight requests may finish: without --stop-timeout they are killed and would be missing from the figures.
    drain = settings["timeout_s"] + 1.0
    limit = settings["warmup_seconds"] + settings["seconds"] + START_ALLOWANCE_S
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
    command += ["--users", str(users), "--spawn-rate", str(users), "--stop-timeout", f"{drain:g}"]
    # The test ends itself after the measured seconds; this limit counts the ramp-up and is only a backstop.
    command += ["--run-time", f"{int(limit)}s", "--loglevel", "INFO"]
    command += ["--html", f"locust_{protocol}.html", "--csv", f"locust_{protocol}", "--csv-full-history"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LOCUST_")}
    environment["LWC_LOADTEST"] = str(settings_path)
    root = str(Path(lwc.__file__).resolve().parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    with log.open("wb") as stream:
        child = subprocess.Popen(
            command,
            cwd=out,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = child.wait(timeout=limit + drain + START_ALLOWANCE_S)
        except subprocess.TimeoutExpired as error:
            raise ServingError(f"the load test did not end in time\n{tail(log)}", f"the whole log: {log}") from error
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            settings_path.unlink()
    return status, log


def _read_records(path: Path, status: int, log: Path) -> dict[str, Any]:
    if status != 0 or not path.is_file():
        what = "left no records" if not path.is_file() else "broke after its records were written"
        raise ServingError(f"the load test {what} (exit status {status})\n{tail(log)}", f"the whole log: {log}")
    records: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if records.get("version") != RECORDS_VERSION or not records.get("measured"):
        raise ServingError(f"the load test ended before it measured\n{tail(log)}", f"the whole log: {log}")
    return records


def _check_result(result: Mapping[str, Any], min_requests: int, log: Path) -> None:
    made, failed = result["requests"], result["errors"]
    causes = "; ".join(f"{e['count']}× {e['message']}" for e in result["error_messages"])
    if made < min_requests:
        raise ServingError(
            f"{made} requests were made over {result['protocol']}, at least {min_requests} are wanted",
            f"test longer or lower min_requests{'; errors: ' + causes if causes else ''}; log: {log}",
            GATE_FAILED,
        )
    if failed == made:
        raise ServingError(
            f"none of {made} requests over {result['protocol']} was answered: {causes}", f"log: {log}", GATE_FAILED
        )


def check_thresholds(
    result: Mapping[str, Any], max_error_rate: float | None = None, max_p95_ms: float | None = None
) -> list[str]:
    """What of a load test is above its threshold, one sentence each; empty when all is well."""
    failures = []
    if max_error_rate is not None and result["error_rate"] > max_error_rate:
        rate = f"{result['errors']} of {result['requests']} requests failed ({result['error_rate']:.3%})"
        failures.append(f"{rate}, above the budget of {max_error_rate:.3%}")
    if max_p95_ms is not None and result["latency_ms"]["p95"] > max_p95_ms:
        failures.append(f"p95 is {result['latency_ms']['p95']:.1f} ms, above {max_p95_ms:g} ms")
    return failures


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log file, or the last traceback in it: Locust prints its tables after one."""
    if not log.is_file():
        return "(no log)"
    text = log.read_text(encoding="utf-8", errors="replace").splitlines()
    traces = [number for number, line in enumerate(text) if line.startswith("Traceback")]
    return "\n".join(text[traces[-1] :][: 2 * lines] if traces else text[-lines:])
