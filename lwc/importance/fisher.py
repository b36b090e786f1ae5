"""Empirical Fisher information of a block's parameters."""

from __future__ import annotations

from lwc.importance.per_example import ExampleGradients, GradientScorer
from lwc.importance.types import LayerImportance
from lwc.recipe import EmpiricalFisher


@GradientScorer
def fisher(gradients: ExampleGradients, settings: EmpiricalFisher) -> LayerImportance:
    """Empirical Fisher information about the scale of a block's units: Σₖ E_n[(Σᵢ gₙₖᵢ θₖᵢ)²].

    gₙ is the gradient of log p(yₙ | xₙ), the *true* label, of one example (Kunstner et al. 2019, eq. 3); k runs over
    the rows of each weight (O, I) and the entries of each bias. Since ∂/∂cₖ of log p with row k multiplied by cₖ is
    gₙₖ·θₖ at cₖ = 1, this is the trace of the Fisher matrix of the scales c: Fisher pruning (Theis et al. 2018, eq. 7,
    its ½ left out). The square comes *before* the mean: opposite gradients of two examples do not cancel. Unit: nats².

    Deviation: the plain trace Σ_θ E_n[g²] is in ``details["trace"]`` (all parameters, normalisation included), and is
    not the score, since it cannot name a useless block. A block that is the identity because its output projections
    are zero has a large trace: those zeros *would* learn. With θ = 0 they hold nothing, and here they score 0.
    Normalisation layers are left out of the score (see ``per_example.is_norm``).
    """
    scores, trace = gradients.units.mean(dim=0), gradients.squared.mean(dim=0)
    return LayerImportance("fisher", tuple(scores.tolist()), "nats²", details={"trace": trace.tolist()})
