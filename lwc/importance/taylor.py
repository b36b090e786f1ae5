"""First-order Taylor importance of a block."""

from __future__ import annotations

from lwc.importance.per_example import ExampleGradients, GradientScorer
from lwc.importance.types import LayerImportance
from lwc.recipe import Taylor


@GradientScorer
def taylor(gradients: ExampleGradients, settings: Taylor) -> LayerImportance:
    """E_n |Σ_θ g_nθ · θ| over the block's parameters: the first-order change of a loss with the block zeroed.

    Molchanov et al. 2019, eq. 8 (a group's joint contribution). Deviations: absolute value, not square, so that
    the unit is nats; the mean is taken over examples, not mini-batches, so that batching cannot change it; and
    normalisation layers are left out, since in a post-norm block zeroing them would kill the residual stream, which a
    bypass keeps (see ``per_example.is_norm``). ``details`` holds the root mean square gradient norm, of all parameters.
    """
    scores, norm = gradients.dot.abs().mean(dim=0), gradients.squared.mean(dim=0).sqrt()
    return LayerImportance("taylor", tuple(scores.tolist()), "nats", details={"gradient_norm": norm.tolist()})
