"""Replay held-out histories against a real Triton server: served NDCG@10 must be the offline one, list for list."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from lwc.core.errors import GATE_FAILED, MissingDependency, ServingError
from lwc.core.store import read_json, write_json
from lwc.recipe import Recipe
from lwc.serving.loadtest.process import START_ALLOWANCE_S, child_environment, tail
from lwc.serving.loadtest.summary import latency_figures
from lwc.serving.triton.server import TritonServer
from lwc.tasks.next_item.ranking import K, per_question
from lwc.tasks.task import Say

Protocol = Literal["http", "grpc"]
# Run by path: importing it here would import Locust.
LOCUSTFILE = Path(__file__).with_name("locustfile.py")
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class HeldOut:
    """A test user's history and target (None where train never saw it), and the offline list of the best ten."""

    history: list[str]
    target: str | None
    offline: list[str]


def held_out(evaluation_dir: Path) -> list[HeldOut]:
    """The test questions with the compressed model's offline lists."""
    table = pq.read_table(evaluation_dir / "predictions.parquet").to_pydict()
    rows = zip(table["history"], table["target"], table["items"], strict=True)
    return [HeldOut(history, target, items[:K]) for history, target, items in rows]


def ndcg(lists: Sequence[Sequence[str]], targets: Sequence[str | None]) -> float:
    """Mean NDCG@10 of lists against one target each."""
    places = [
        float(given.index(target)) + 1 if target is not None and target in given else np.inf
        for given, target in zip((list(one)[:K] for one in lists), targets, strict=True)
    ]
    return float(per_question(np.array(places))["ndcg_at_10"].mean())


def summarise(records: dict[str, Any], samples: Sequence[HeldOut]) -> dict[str, Any]:
    """Figures of one protocol.

    NDCG@10 is over distinct users, each by the first answer, beside the offline one over exactly the same users;
    ``matches_offline`` is over *all* answers: the share whose ten items are the offline ones in the same order.
    """
    rows = records["rows"]
    answered = [(sample, items) for sample, _, items, _, error in rows if error is None]
    errors = Counter(str(row[4]) for row in rows if row[4] is not None)
    duration = float(records["duration_s"])
    result: dict[str, Any] = {
        "requests": len(rows),
        "errors": sum(errors.values()),
        "error_rate": sum(errors.values()) / len(rows) if rows else 1.0,
        "error_messages": [{"message": message, "count": count} for message, count in errors.most_common(5)],
        "duration_s": duration,
        "throughput_rps": len(answered) / duration if duration > 0 else 0.0,
        "load": "closed_loop",
    }
    if not answered:
        return result
    result["latency_ms"] = latency_figures(np.array([row[1] for row in rows if row[4] is None], dtype=np.float32))
    first: dict[int, list[str]] = {}
    changed = {sample for sample, items in answered if first.setdefault(sample, items) != items}
    targets = [samples[sample].target for sample in first]
    served, offline = ndcg(list(first.values()), targets), ndcg([samples[sample].offline for sample in first], targets)
    result["served"] = {
        "ndcg_at_10": served,
        "offline_ndcg_at_10": offline,
        "ndcg_difference": abs(served - offline),
        "matches_offline": sum(samples[sample].offline == items for sample, items in answered) / len(answered),
        "n": len(first),
        "texts": len(samples),
        "covered_all": len(first) == len(samples),
        "answers": len(answered),
        "inconsistent_texts": len(changed),
        "skipped_items": sum(int(row[3]) for row in rows if row[4] is None),
    }
    return result


def replay(
    url: str,
    protocol: Protocol,
    model: str,
    samples: Sequence[HeldOut],
    users: int,
    seconds: float,
    warmup_seconds: float,
    out: Path,
    min_requests: int,
) -> dict[str, Any]:
    """Send the histories in order to ``model`` with Locust, closed loop, and compare every answer with offline.

    ``url`` is ``host:port``. Leaves ``replay_<protocol>.json`` and ``locust_<protocol>.log`` in ``out``.

    Raises:
        MissingDependency: Locust or tritonclient is not installed.
        ServingError: the replay broke, made fewer than ``min_requests`` requests, or none was answered.
    """
    # find_spec, not import: importing Locust would patch this process.
    missing = [name for name in ("locust", "tritonclient", "grpc") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependency(f"not installed: {', '.join(missing)}", "install it with: pip install 'lwc[serve]'")
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    records, log = out / f"replay_{protocol}.json", out / f"locust_{protocol}.log"
    records.unlink(missing_ok=True)
    settings = {
        "protocol": protocol,
        "url": f"http://{url}" if protocol == "http" else url,
        "model": model,
        "histories": [sample.history for sample in samples],
        "k": min(K, max(len(sample.offline) for sample in samples)),
        "seconds": seconds,
        "warmup_seconds": warmup_seconds,
        "timeout_s": _TIMEOUT_S,
        "records": str(records),
    }
    status = _run_locust(settings, users, out, log)
    if status != 0 or not records.is_file():
        raise ServingError(f"the replay broke (exit status {status})\n{tail(log)}", f"the whole log: {log}")
    result = {"protocol": protocol, "users": users, **summarise(read_json(records), samples)}
    if result["requests"] < min_requests or "served" not in result:
        raise ServingError(
            f"{result['requests']} requests over {protocol}, {result['errors']} failed; at least {min_requests} are "
            f"wanted: {result['error_messages']}",
            f"raise verify.seconds or lower verify.min_requests; log: {log}",
            GATE_FAILED,
        )
    return result


def _run_locust(settings: dict[str, Any], users: int, out: Path, log: Path) -> int:
    """Start Locust, wait with a deadline; returns its exit status."""
    path = out / f"replay_settings_{settings['protocol']}.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    limit = settings["warmup_seconds"] + settings["seconds"] + START_ALLOWANCE_S
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
    command += ["--users", str(users), "--spawn-rate", str(users), "--stop-timeout", f"{_TIMEOUT_S + 1:g}"]
    # The replay ends itself after the measured seconds; this limit is only a backstop.
    command += ["--run-time", f"{int(limit)}s"]
    environment = child_environment("LWC_REPLAY", path)
    with log.open("wb") as stream:
        child = subprocess.Popen(
            command, cwd=out, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            return child.wait(timeout=limit + START_ALLOWANCE_S)
        except subprocess.TimeoutExpired as error:
            raise ServingError(f"the replay did not end in time\n{tail(log)}", f"the whole log: {log}") from error
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            path.unlink()


def verify(recipe: Recipe, repository: Path, evaluation_dir: Path, out: Path, progress: Say) -> dict[str, Any]:
    """Serve ``repository`` and replay the test histories over each protocol of ``recipe.verify``.

    Leaves ``serving.json`` (returned; one entry a protocol) and ``server.log`` in ``out``.

    Raises:
        ServingError: the server did not start, or a replay proved nothing.
        MissingDependency: the serving extra is not installed.
    """
    settings = recipe.verify
    samples = held_out(evaluation_dir)
    out.mkdir(parents=True, exist_ok=True)
    serving: dict[str, Any] = {}
    with TritonServer(repository, startup_seconds=settings.startup_seconds) as server:
        try:
            for protocol in settings.protocols:
                result = replay(
                    server.http_url if protocol == "http" else server.grpc_url,
                    protocol,
                    recipe.name,
                    samples,
                    settings.users,
                    settings.seconds,
                    settings.warmup_seconds,
                    out,
                    settings.min_requests,
                )
                serving[protocol] = result
                served = result["served"]
                if not served["covered_all"]:
                    served["note"] = (
                        f"time ended after {served['n']} of {served['texts']} test users; NDCG@10 is over those"
                    )
                progress(
                    f"{protocol}: p95 {result['latency_ms']['p95']:.1f} ms, {result['throughput_rps']:.0f}/s, "
                    f"served NDCG@10 {served['ndcg_at_10']:.4f}, offline {served['offline_ndcg_at_10']:.4f} "
                    f"on {served['n']} users"
                )
        finally:
            # The server takes its log with it when it ends; a failure is read from this copy.
            shutil.copyfile(server.log_path, out / "server.log")
    write_json(out / "serving.json", serving)
    return serving
