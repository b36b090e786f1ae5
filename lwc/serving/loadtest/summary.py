"""From raw records to the figures of a load test. Pure: no files, no processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lwc.tasks.endpoint import Sample, Wire

TOP_ERRORS = 5
Latencies = npt.NDArray[np.float32]


def latencies_ms(records: Mapping[str, Any], column: str = "latency_ms") -> Latencies:
    """Latency in ms of each answered request, shape (N,), in order of completion."""
    return np.asarray([row[column] for row in _rows(records) if row["error"] is None], dtype=np.float32)


def _rows(records: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(records["columns"], row, strict=True)) for row in records["rows"]]


def summarise(
    records: Mapping[str, Any],
    samples: Sequence[Sample],
    wire: Wire,
    rate: float | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Figures of one protocol: counts, error rate, latency, throughput and what was served.

    Latency is over answered requests only: errors that return at once must not make it look better. Throughput is
    the answers that came within the measured window over its length. In an open loop (``rate`` in requests/s over
    ``seconds``) ``achieved_ratio`` sets it against the rate at which requests were due, and ``wait_ms`` is the part
    of the latency that passed before a connection was free to send the request. ``served`` is what ``wire`` judges of
    the answers; it is missing where that is nothing.
    """
    rows = _rows(records)
    answered = [row for row in rows if row["error"] is None]
    errors = Counter(str(row["error"]) for row in rows if row["error"] is not None)
    failed, window = len(rows) - len(answered), float(records["window_s"])
    result: dict[str, Any] = {
        "requests": len(rows),
        "errors": failed,
        "error_rate": failed / len(rows) if rows else 1.0,
        "error_messages": [{"message": m, "count": n} for m, n in errors.most_common(TOP_ERRORS)],
        "window_s": window,
        "throughput_rps": records["answered_in_window"] / window if window > 0 else 0.0,
        "warmup": dict(records["warmup"]),
        "load": "closed_loop" if rate is None else "open_loop",
        # Of one core. Near 1 the figures are the load generator's limit, not the server's.
        "generator_cpu": records["cpu_s"] / window if window > 0 else 0.0,
    }
    if rate is not None and seconds is not None:
        offered = len(rows) / seconds
        result["target_rps"], result["offered_rps"] = float(rate), offered
        result["achieved_ratio"] = result["throughput_rps"] / offered if rows else 0.0
    if answered:
        result["latency_ms"] = latency_figures(latencies_ms(records))
        result["wait_ms"] = latency_figures(latencies_ms(records, "wait_ms"))
        served = wire.judge([(int(row["sample"]), row["answer"]) for row in answered], samples)
        if served is not None:
            result["served"] = served
    return result


def latency_figures(values: Latencies) -> dict[str, float]:
    """p50, p95, p99, mean and max in ms of raw samples, shape (N,), N ≥ 1, linear interpolation."""
    exact = values.astype(np.float64)
    p50, p95, p99 = (float(v) for v in np.percentile(exact, [50, 95, 99]))
    return {"p50": p50, "p95": p95, "p99": p99, "mean": float(exact.mean()), "max": float(exact.max())}
