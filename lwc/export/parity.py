"""Parity: the same inputs through PyTorch and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lwc.core.arrays import Array
from lwc.core.machine import cpu_limit
from lwc.export.session import cpu_session, run_all
from lwc.tasks.task import Graph


def check_parity(graph: Graph, path: Path, tolerance: float) -> dict[str, Any]:
    """max |Δ| of the first output over the graph's cases, and the share of its rows with equal answers.

    Also runs one case twice: dropout left active would answer differently. Of a graph without rows ``texts`` is 0, and
    the answers to its cases are compared instead.
    """
    session = cpu_session(path, cpu_limit())
    cases = []
    for described, inputs in graph.cases:
        difference = float(np.abs(_torch(graph, inputs)[0] - run_all(session, inputs)[0]).max())
        if not np.isfinite(difference):
            difference = float(np.finfo(np.float32).max)  # JSON has no infinity; this fails every gate
        cases.append({**described, "max_abs_diff": difference})
    once, again = (run_all(session, inputs)[0] for _ in range(2))
    repeatable = bool(np.array_equal(once, again))
    same, count = 0, 0
    for inputs in graph.rows or [case for _, case in graph.cases]:
        ours, theirs = graph.answers(_torch(graph, inputs)), graph.answers(run_all(session, inputs))
        same += int((ours == theirs).reshape(len(ours), -1).all(axis=1).sum())
        count += len(ours)
    worst = max(float(case["max_abs_diff"]) for case in cases)
    agreement = same / count
    return {
        "max_abs_diff": worst,
        "label_agreement": agreement,
        "texts": count if graph.rows else 0,
        "repeatable": repeatable,
        "tolerance": tolerance,
        "passed": worst <= tolerance and agreement == 1.0 and repeatable,
        "cases": cases,
    }


@torch.inference_mode()
def _torch(graph: Graph, inputs: Mapping[str, Array]) -> list[Array]:
    found = graph.module(*(torch.from_numpy(inputs[name]) for name in graph.sample))
    outputs = found if isinstance(found, tuple) else (found,)
    return [np.asarray(one.float() if one.is_floating_point() else one) for one in outputs]
