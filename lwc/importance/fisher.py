"""Empirical Fisher information of a block's parameters."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from lwc.importance.per_example import example_gradients
from lwc.importance.types import LayerImportance
from lwc.models.batches import Batch
from lwc.models.families import Family


def fisher(model: Any, family: Family, batches: Sequence[Batch], config: Any = None) -> LayerImportance:
    """Trace of the empirical Fisher: Σ_θ E_n[(∂ log p(y_n | x_n) / ∂θ)²] over the block's parameters.

    Per-example gradients at the true labels (Kunstner et al. 2019, eq. 3; used for pruning by Theis et al. 2018). The
    square is taken *before* the mean: two examples with opposite gradients do not cancel. Unit: nats².

    A bypassed block, or one whose weights are all zero, scores 0. A block that is the identity only because its output
    projections are zero does not: those projections would learn, and Fisher is about what a parameter could change.
    """
    started = time.monotonic()
    parts = [gradients.squared for gradients in example_gradients(model, family, batches)]
    scores = torch.cat(parts).mean(dim=0)
    return LayerImportance("fisher", tuple(scores.tolist()), "nats²", time.monotonic() - started)
