"""The process that calls lwc: what training would change in it is put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState


@contextmanager
def own_state() -> Iterator[None]:
    """A training inside leaves the caller's random states and Accelerate's state alone.

    Accelerate has one state a process: after a Trainer in half precision, a training in another one would be refused.
    """
    shared = [kind._shared_state for kind in (AcceleratorState, GradientState, PartialState)]
    before = [dict(state) for state in shared]
    python, numpy = random.getstate(), np.random.get_state()
    for state in shared:
        state.clear()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for state, saved in zip(shared, before, strict=True):
            state.clear()
            state.update(saved)
        random.setstate(python)
        np.random.set_state(numpy)
