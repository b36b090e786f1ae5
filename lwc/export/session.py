"""ONNX Runtime sessions on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from lwc.core.arrays import Array


def cpu_session(path: Path, threads: int) -> Any:
    """A session on ``threads`` cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_all(session: Any, inputs: Mapping[str, Array]) -> list[Array]:
    """All outputs; inputs that the graph does not declare are left out."""
    declared = {value.name for value in session.get_inputs()}
    feed = {name: value for name, value in inputs.items() if name in declared}
    return [np.asarray(output) for output in session.run(None, feed)]


def run(session: Any, inputs: Mapping[str, Array]) -> Array:
    """The first output, for a text model logits (B, C)."""
    return run_all(session, inputs)[0]
