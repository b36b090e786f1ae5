"""Latency on the CPU of ONNX files, of runtimes, and of PyTorch; in turns, so that other load falls on all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import iqr

from lwc.core.arrays import Array
from lwc.core.machine import ran_and_waited
from lwc.export.onnx_io import read_io
from lwc.export.session import cpu_session, run
from lwc.models.attention import fused_attention
from lwc.models.types import Model
from lwc.recipe import Shape
from lwc.tasks.task import Graph

# A turn: a pause, untimed calls, timed calls. The threads of ONNX Runtime and OpenMP spin for 20 to 50 ms after a call,
# waiting for more, and take the cores from whoever comes next (docs/decisions/0011).
_PAUSE, _UNTIMED, _TIMED = 0.1, 3, 3

Call = Callable[[dict[str, Array]], Array]
"""Inputs (B, T) by name → logits (B, C)."""


@dataclass(frozen=True)
class Times:
    """What calls took that ran in turns: ms (R,) of each, by name, for each shape.

    ``waited`` is the share of their time in which this process's threads were ready to run and had no core, None where
    the system does not count it.
    """

    shapes: Sequence[Shape]
    ms: Sequence[Mapping[str, Sequence[float]]]
    waited: float | None

    def rows(self, **names: str) -> list[dict[str, Any]]:
        """Batch, length, ``NAME_ms`` (median) and ``spread`` (interquartile range ÷ median) of each ``NAME=call``."""
        found: list[dict[str, Any]] = []
        for shape, ms in zip(self.shapes, self.ms, strict=True):
            medians = {name: float(np.median(ms[call])) for name, call in names.items()}
            spread = {name: float(iqr(ms[call])) / medians[name] for name, call in names.items()}
            times = {f"{name}_ms": median for name, median in medians.items()}
            found.append({"batch": shape.batch, "length": shape.length, **times, "spread": spread})
        return found

    def pair(self, slow: str, fast: str) -> dict[str, Any]:
        """Two of the calls as ``base`` and ``compressed``; ``ratio`` = slow ÷ fast, overall the geometric mean."""
        rows = self.rows(base=slow, compressed=fast)
        for row in rows:
            row["ratio"] = row["base_ms"] / row["compressed_ms"]
        return {"ratio": geometric_mean([row["ratio"] for row in rows]), "shapes": rows, "waited": self.waited}


def geometric_mean(ratios: Sequence[float]) -> float:
    """Of ratios over shapes: the same whichever of the two is called the base."""
    return float(np.exp(np.mean(np.log(ratios))))


def compare_latency(
    base: Path, compressed: Path, shapes: Sequence[Shape], repeats: int, threads: int
) -> dict[str, Any]:
    """Medians in ms of both models at each batch × length, and base ÷ compressed: `Times.pair`."""
    calls = {"base": in_onnxruntime(base, threads), "compressed": in_onnxruntime(compressed, threads)}
    times = in_turns(calls, [value.name for value in read_io(base).inputs], shapes, repeats)
    return in_full(times, "base", "compressed", threads)


def in_full(times: Times, slow: str, fast: str, threads: int) -> dict[str, Any]:
    """`Times.pair` of two ONNX files, and how they were timed."""
    run = {"repeats": len(times.ms[0][slow]), "threads": threads, "runtime": "ONNX Runtime, CPU"}
    return {**times.pair(slow, fast), **run}


def compare_runtimes(
    path: Path, rows: Sequence[dict[str, Array]], shapes: Sequence[Shape], repeats: int, threads: int
) -> dict[str, Any]:
    """The same file in ONNX Runtime and in OpenVINO: a row for each shape, ratio = ONNX Runtime ÷ OpenVINO.

    ``max_abs_diff`` is the largest |Δ logit| between the two on ``rows``, padded inputs (B, T) by name.
    """
    calls = {"onnxruntime": in_onnxruntime(path, threads), "openvino": in_openvino(path, threads)}
    names = [value.name for value in read_io(path).inputs]
    times = in_turns(calls, names, shapes, repeats).rows(onnxruntime="onnxruntime", openvino="openvino")
    for row in times:
        row["ratio"] = row["onnxruntime_ms"] / row["openvino_ms"]
    one, two = calls.values()
    apart = max(float(np.abs(one(given) - two(given)).max()) for given in rows)
    overall = {"ratio": geometric_mean([row["ratio"] for row in times]), "shapes": times}
    return {**overall, "repeats": repeats, "threads": threads, "max_abs_diff": apart}


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


@contextmanager
def in_pytorch(graph: Graph, model: Model, threads: int) -> Iterator[Call]:
    """What is exported of a model, in PyTorch eager fp32, with the attention that transformers chooses (SDPA)."""

    @torch.inference_mode()
    def call(inputs: dict[str, Array]) -> Array:
        found = graph.module(*(torch.from_numpy(inputs[name]) for name in graph.sample))
        return np.asarray((found[0] if isinstance(found, tuple) else found).numpy())

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with fused_attention(model):
            yield call
    finally:
        torch.set_num_threads(before)


def in_turns(calls: Mapping[str, Call], names: Sequence[str], shapes: Sequence[Shape], repeats: int) -> Times:
    """Time each call ``repeats`` times at each shape, a few at a time, one call after the other."""
    before, found = ran_and_waited(), []
    for shape in shapes:
        zeros = np.zeros((shape.batch, shape.length), dtype=np.int64)
        inputs = {name: zeros + (name == "attention_mask") for name in names}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for done in range(0, repeats, _TIMED):
            for name, call in calls.items():
                time.sleep(_PAUSE)
                for _ in range(_UNTIMED):
                    call(inputs)
                for _ in range(min(_TIMED, repeats - done)):
                    started = time.perf_counter()
                    call(inputs)
                    times[name].append((time.perf_counter() - started) * 1000)
        found.append(times)
    return Times(shapes, found, _waited(before, ran_and_waited()))


def _waited(before: tuple[float, float] | None, after: tuple[float, float] | None) -> float | None:
    if before is None or after is None:
        return None
    ran, waited = (max(0.0, late - early) for early, late in zip(before, after, strict=True))
    return waited / (ran + waited) if ran + waited > 0 else None
