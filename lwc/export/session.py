"""ONNX Runtime sessions on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime

from lwc.core.arrays import Array
from lwc.core.machine import cpu_limit


class Declared(Protocol):
    """An input or output that a graph declares."""

    name: str


class Session(Protocol):
    """An `onnxruntime.InferenceSession`, which has no types of its own."""

    def get_inputs(self) -> Sequence[Declared]: ...

    def run(self, outputs: Sequence[str] | None, feed: Mapping[str, Array], /) -> Sequence[Array]: ...


def cpu_session(path: Path, threads: int) -> Session:
    """A session on ``threads`` cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session: Session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session


def run_all(session: Session, inputs: Mapping[str, Array]) -> list[Array]:
    """All outputs; inputs that the graph does not declare are left out."""
    declared = {value.name for value in session.get_inputs()}
    feed = {name: value for name, value in inputs.items() if name in declared}
    return [np.asarray(output) for output in session.run(None, feed)]


def logits(path: Path, batches: Sequence[Mapping[str, Array]]) -> Array:
    """The first output (N, C) of a file on all rows of padded inputs."""
    session = cpu_session(path, cpu_limit())
    return np.concatenate([run(session, batch) for batch in batches])


def run(session: Session, inputs: Mapping[str, Array]) -> Array:
    """The first output, for a text model logits (B, C)."""
    return run_all(session, inputs)[0]
