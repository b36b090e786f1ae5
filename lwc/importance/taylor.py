"""First-order Taylor importance of a block."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from lwc.importance.per_example import example_gradients
from lwc.importance.types import LayerImportance
from lwc.importance.undisturbed import scorer
from lwc.models.batches import Batch
from lwc.models.families import Family


@scorer
def taylor(model: Any, family: Family, batches: Sequence[Batch], config: Any = None) -> LayerImportance:
    """E_n |Σ_θ g_nθ · θ| over the block's parameters: the first-order change of a loss with the block zeroed.

    Molchanov et al. 2019, eq. 8 (a group's joint contribution). Deviations: absolute value, not square, so that
    the unit is nats; the mean is taken over examples, not mini-batches, so that batching cannot change it; and
    normalisation layers are left out, since in a post-norm block zeroing them would kill the residual stream, which a
    bypass keeps (see ``per_example.is_norm``). ``details`` holds the root mean square gradient norm, of all parameters.
    """
    started = time.monotonic()
    dots, squares = [], []
    for gradients in example_gradients(model, family, batches):
        dots.append(gradients.dot.abs())
        squares.append(gradients.squared)
    scores = torch.cat(dots).mean(dim=0)
    norm = torch.cat(squares).mean(dim=0).sqrt()
    return LayerImportance(
        "taylor", tuple(scores.tolist()), "nats", time.monotonic() - started, {"gradient_norm": norm.tolist()}
    )
