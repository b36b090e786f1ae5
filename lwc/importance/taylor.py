"""First-order Taylor importance of a block."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from lwc.importance.per_example import ExampleGradients, collect
from lwc.importance.types import LayerImportance, scorer
from lwc.models.batches import Batch
from lwc.models.families import Family
from lwc.models.types import Model


@scorer
def taylor(model: Model, family: Family, batches: Sequence[Batch], config: Any = None) -> LayerImportance:
    """E_n |Σ_θ g_nθ · θ| over the block's parameters: the first-order change of a loss with the block zeroed.

    Molchanov et al. 2019, eq. 8 (a group's joint contribution). Deviations: absolute value, not square, so that
    the unit is nats; the mean is taken over examples, not mini-batches, so that batching cannot change it; and
    normalisation layers are left out, since in a post-norm block zeroing them would kill the residual stream, which a
    bypass keeps (see ``per_example.is_norm``). ``details`` holds the root mean square gradient norm, of all parameters.
    """
    started = time.monotonic()
    return taylor_from(collect(model, family, batches), started)


def taylor_from(gradients: ExampleGradients, started: float) -> LayerImportance:
    """The score from gradients (N, L) that another method may share; ``started`` is when their pass began."""
    scores, norm = gradients.dot.abs().mean(dim=0), gradients.squared.mean(dim=0).sqrt()
    return LayerImportance(
        "taylor", tuple(scores.tolist()), "nats", time.monotonic() - started, {"gradient_norm": norm.tolist()}
    )
