"""Triton's own counters: where the time of a request went, and how many were answered together.

Triton counts, per model, requests and the microseconds they spent in its queue and in each part of the execution. The
difference of two readings tells means over the time between them; there are no percentiles in it.
"""

from __future__ import annotations

from collections.abc import Mapping

from lwc.core import http
from lwc.core.errors import USAGE, MissingDependency, ServingError

SECONDS = 5.0
COUNTERS = {
    "requests": "nv_inference_request_success",
    "failures": "nv_inference_request_failure",
    "inferences": "nv_inference_count",
    "executions": "nv_inference_exec_count",
    "request_us": "nv_inference_request_duration_us",
    "queue_us": "nv_inference_queue_duration_us",
    "compute_input_us": "nv_inference_compute_input_duration_us",
    "compute_infer_us": "nv_inference_compute_infer_duration_us",
    "compute_output_us": "nv_inference_compute_output_duration_us",
}
Counts = Mapping[str, Mapping[str, float]]


def read_page(address: str) -> str:
    """The text of ``http://<address>/metrics``.

    Raises:
        ServingError: nothing answers there, or what answers is no metrics page.
    """
    try:
        answer = http.request("GET", f"http://{address}/metrics", SECONDS)
        if answer.status_code != 200:
            raise http.NoAnswer(f"HTTP {answer.status_code}")
        return answer.content.decode("utf-8")
    except (http.NoAnswer, UnicodeDecodeError) as error:
        raise ServingError(
            f"Triton's metrics cannot be read at {address}: {error}",
            "give the metrics port (8002 where nothing else was said), start the server without --allow-metrics=false,"
            " or leave --metrics-url out",
            USAGE,
        ) from error


def parse_counts(page: str, where: str) -> Counts:
    """Model → counter (keys of `COUNTERS`) → value, summed over versions and reasons.

    Raises:
        ServingError: the page is not Prometheus text, or holds no model of Triton.
        MissingDependency: the parser is not installed.
    """
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError as error:
        raise MissingDependency("not installed: prometheus_client", "pip install 'lwc[serve]'") from error
    # The parser names every counter in the OpenMetrics way, which Triton does not follow.
    names = {f"{family}_total": key for key, family in COUNTERS.items()}
    counts: dict[str, dict[str, float]] = {}
    try:
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                key = names.get(sample.name)
                if key is not None:
                    model = counts.setdefault(sample.labels["model"], dict.fromkeys(COUNTERS, 0.0))
                    model[key] += sample.value
    except (ValueError, KeyError) as error:
        raise ServingError(f"{where}/metrics is not a page of Triton's metrics: {error}", "", USAGE) from error
    if not counts:
        raise ServingError(
            f"{where}/metrics counts no model's requests", "is it the metrics port of a Triton server?", USAGE
        )
    return counts


def server_times(before: Counts, after: Counts) -> dict[str, dict[str, float | int]]:
    """What each model did between two readings; models that answered nothing are left out.

    Times are means per request of that model in ms: ``queue_ms``, ``compute_input_ms``, ``compute_infer_ms``,
    ``compute_output_ms``, and ``request_ms`` over all of it. ``mean_batch`` is the inferences (texts) per execution.

    Raises:
        ServingError: a counter went back: the server was started anew in between.
    """
    found: dict[str, dict[str, float | int]] = {}
    for model, now in after.items():
        then = before.get(model, dict.fromkeys(COUNTERS, 0.0))
        change = {key: now[key] - then[key] for key in COUNTERS}
        if min(change.values()) < 0:
            raise ServingError(f"the counters of {model} were reset during the measurement: the server was restarted")
        if change["requests"] == 0:
            continue
        found[model] = {
            "requests": int(change["requests"]),
            "failures": int(change["failures"]),
            "executions": int(change["executions"]),
            # An ensemble executes nothing itself.
            "mean_batch": change["inferences"] / change["executions"] if change["executions"] else 0.0,
            **{
                f"{part}_ms": change[f"{part}_us"] / change["requests"] / 1000.0
                for part in ("queue", "compute_input", "compute_infer", "compute_output", "request")
            },
        }
    return found


def breakdown(total_ms: float, wait_ms: float, called: Mapping[str, float]) -> dict[str, float]:
    """Split the mean latency of a load test by the server's counters of the model that was called, in ms.

    ``client_wait``: due, but not sent yet. ``queue`` and ``compute``: in the server, for that model (one that calls
    another computes while it waits for it). ``rest``: network, HTTP or gRPC, and the load generator's own work.
    """
    queue, compute = called["queue_ms"], sum(called[f"compute_{part}_ms"] for part in ("input", "infer", "output"))
    rest = total_ms - wait_ms - queue - compute
    return {"total": total_ms, "client_wait": wait_ms, "queue": queue, "compute": compute, "rest": rest}
