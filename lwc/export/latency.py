"""Latency of two ONNX files, interleaved so that other load on the machine falls on both."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lwc.export.onnx import read_io
from lwc.export.session import cpu_session, run
from lwc.recipe import Shape

_WARM_UP = 3


def compare_latency(
    base: Path, compressed: Path, shapes: Sequence[Shape], repeats: int, threads: int
) -> dict[str, Any]:
    """Medians in ms of both models at each batch × length, and base ÷ compressed.

    ``ratio`` over all shapes is the geometric mean; ``spread`` is the interquartile range ÷ median of each model.
    """
    sessions = {"base": cpu_session(base, threads), "compressed": cpu_session(compressed, threads)}
    names = [value.name for value in read_io(base).inputs]
    rows: list[dict[str, Any]] = []
    for shape in shapes:
        size = (shape.batch, shape.length)
        ones = np.ones(size, dtype=np.int64)
        inputs = {name: ones if name == "attention_mask" else ones * 0 for name in names}
        times: dict[str, list[float]] = {name: [] for name in sessions}
        for repeat in range(_WARM_UP + repeats):
            for name, session in sessions.items():
                started = time.perf_counter()
                run(session, inputs)
                if repeat >= _WARM_UP:
                    times[name].append((time.perf_counter() - started) * 1000)
        medians = {name: float(np.median(values)) for name, values in times.items()}
        spread = {
            name: float((np.percentile(v, 75) - np.percentile(v, 25)) / np.median(v)) for name, v in times.items()
        }
        rows.append(
            {
                "batch": shape.batch,
                "length": shape.length,
                "base_ms": medians["base"],
                "compressed_ms": medians["compressed"],
                "ratio": medians["base"] / medians["compressed"],
                "spread": spread,
            }
        )
    ratio = float(np.exp(np.mean([np.log(row["ratio"]) for row in rows])))
    return {"ratio": ratio, "shapes": rows, "repeats": repeats, "threads": threads, "runtime": "ONNX Runtime, CPU"}
