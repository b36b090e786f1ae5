"""Latency on the CPU of two ONNX files, or of two runtimes; in turns, so that other load falls on both alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import iqr

from lwc.core.arrays import Array
from lwc.export.onnx_io import read_io
from lwc.export.session import cpu_session, run
from lwc.recipe import Shape

_WARM_UP = 3

Call = Callable[[dict[str, Array]], Array]
"""Inputs (B, T) by name → logits (B, C)."""


def compare_latency(
    base: Path, compressed: Path, shapes: Sequence[Shape], repeats: int, threads: int
) -> dict[str, Any]:
    """Medians in ms of both models at each batch × length, and base ÷ compressed.

    ``ratio`` over all shapes is the geometric mean; ``spread`` is the interquartile range ÷ median of each model.
    """
    calls = {"base": in_onnxruntime(base, threads), "compressed": in_onnxruntime(compressed, threads)}
    rows = _in_turns(calls, [value.name for value in read_io(base).inputs], shapes, repeats)
    return {**_overall(rows), "repeats": repeats, "threads": threads, "runtime": "ONNX Runtime, CPU"}


def compare_runtimes(
    path: Path, rows: Sequence[dict[str, Array]], shapes: Sequence[Shape], repeats: int, threads: int
) -> dict[str, Any]:
    """The same file in ONNX Runtime and in OpenVINO: `compare_latency`'s rows, ratio = ONNX Runtime ÷ OpenVINO.

    ``max_abs_diff`` is the largest |Δ logit| between the two on ``rows``, padded inputs (B, T) by name.
    """
    calls = {"onnxruntime": in_onnxruntime(path, threads), "openvino": in_openvino(path, threads)}
    names = [value.name for value in read_io(path).inputs]
    times = _in_turns(calls, names, shapes, repeats)
    one, two = calls.values()
    apart = max(float(np.abs(one(given) - two(given)).max()) for given in rows)
    return {**_overall(times), "repeats": repeats, "threads": threads, "max_abs_diff": apart}


def in_onnxruntime(path: Path, threads: int) -> Call:
    """The file as lwc serves it."""
    session = cpu_session(path, threads)
    return lambda inputs: run(session, inputs)


def in_openvino(path: Path, threads: int) -> Call:
    """The file in OpenVINO, tuned for one call at a time; fp32 stays fp32 also where the processor has bf16."""
    settings = {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "ENABLE_HYPER_THREADING": True,
        "INFERENCE_PRECISION_HINT": "f32",
    }  # fmt: skip
    request = import_module("openvino").Core().compile_model(str(path), "CPU", settings).create_infer_request()
    declared = {name for port in request.model_inputs for name in port.get_names()}
    return lambda inputs: np.array(request.infer({k: v for k, v in inputs.items() if k in declared})[0])


def _in_turns(
    calls: Mapping[str, Call], names: Sequence[str], shapes: Sequence[Shape], repeats: int
) -> list[dict[str, Any]]:
    """A row for each shape: ``<name>_ms`` (median), ``ratio`` of the first call to the second, and ``spread``."""
    first, second = calls
    rows: list[dict[str, Any]] = []
    for shape in shapes:
        zeros = np.zeros((shape.batch, shape.length), dtype=np.int64)
        inputs = {name: zeros + (name == "attention_mask") for name in names}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for repeat in range(_WARM_UP + repeats):
            for name, call in calls.items():
                started = time.perf_counter()
                call(inputs)
                if repeat >= _WARM_UP:
                    times[name].append((time.perf_counter() - started) * 1000)
        medians = {name: float(np.median(values)) for name, values in times.items()}
        spread = {name: float(iqr(values)) / medians[name] for name, values in times.items()}
        rows.append(
            {
                "batch": shape.batch,
                "length": shape.length,
                **{f"{name}_ms": median for name, median in medians.items()},
                "ratio": medians[first] / medians[second],
                "spread": spread,
            }
        )
    return rows


def _overall(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"ratio": float(np.exp(np.mean([np.log(row["ratio"]) for row in rows]))), "shapes": rows}
