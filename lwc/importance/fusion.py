"""Many rankings into one, and how far they agree. Pure functions of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import beta, kendalltau, rankdata

from lwc.core.arrays import Array
from lwc.importance.contents import LearnedFit
from lwc.importance.learned import Measured, cross_validated, fit, removed_sums

# Scores closer than this, relative to the largest, differ by rounding only.
_SAME = 1e-9

Scores = Mapping[str, Sequence[float]]
"""Method → one score a block."""


@dataclass(frozen=True)
class Fusion:
    """``scores`` in ``unit``, higher = keep; ``ranking`` best block first; ``weights`` that were used, by method.

    ``learned`` describes the fit (see `learned.fit`), None for the other ways of fusing.
    """

    scores: tuple[float, ...]
    ranking: tuple[int, ...]
    excluded: dict[str, str]
    method: str = "mean_rank"
    unit: str = ""
    weights: dict[str, float] = field(default_factory=dict)
    learned: LearnedFit | None = None


def usable(scores: Scores) -> tuple[dict[str, Array], dict[str, str]]:
    """(methods that say something, reason by name for those that do not).

    A method whose scores are constant or not all finite ranks nothing: averaging it in would only dilute the rest.
    """
    good: dict[str, Array] = {}
    excluded: dict[str, str] = {}
    for name, values in scores.items():
        array = np.asarray(values, dtype=np.float64)
        if not np.isfinite(array).all():
            excluded[name] = "a score is not finite"
        elif array.size > 1 and np.ptp(array) <= _SAME * np.abs(array).max():
            excluded[name] = "all blocks score the same"
        else:
            good[name] = array
    return good, excluded


def mean_rank(scores: Array, weights: Array) -> Array:
    """Borda count of scores (M, L): weighted mean rank, scaled to 0 (least) … 1. Ties share their mean rank."""
    count = scores.shape[1]
    if count == 1:
        return np.ones(1)
    ranks = sum((w * rankdata(values) for w, values in zip(weights, scores, strict=True)), np.zeros(count))
    scaled: Array = (ranks / weights.sum() - 1) / (count - 1)
    return scaled


def z_score(scores: Array, weights: Array) -> Array:
    """Weighted mean of (s − mean) / standard deviation of scores (M, L), above that of the lowest block.

    Unlike a rank it keeps how far apart blocks are, and lets one block that scores enormously squeeze the others.
    """
    if scores.shape[1] == 1:
        return np.ones(1)
    z = (scores - scores.mean(axis=1, keepdims=True)) / scores.std(axis=1, keepdims=True)
    fused: Array = weights @ z / weights.sum()
    return np.asarray(fused - fused.min())


def robust_rank(scores: Array, weights: Array) -> Array:
    """Robust rank aggregation (Kolde, Laur, Adler & Vilo 2012) of scores (M, L): −log10 ρ.

    r_(1) ≤ … ≤ r_(M) are a block's ranks (1 = most important) ÷ L. Were the methods unrelated, the k-th smallest of M
    uniform numbers would be at most r_(k) with probability β_k = Σ_{l=k}^{M} C(M, l) r_(k)^l (1 − r_(k))^(M−l), the
    distribution function of Beta(k, M − k + 1); ρ = min_k β_k. A block that *some* methods agree to put on top scores
    high, whatever the rest say. Deviations: ties share their mean rank; the Bonferroni factor (p = min(1, M ρ)) is left
    out, since it changes no order except by making blocks equal. The paper has no weights: they only leave out at 0.
    """
    methods, count = scores.shape
    ranks = np.sort(np.stack([rankdata(-values) for values in scores]) / count, axis=0)
    k = np.arange(1, methods + 1)[:, None]
    # A tie of all blocks' worth of rounding aside, ρ > 0: ranks are at least 1 / L.
    rho = beta.cdf(ranks, k, methods - k + 1).min(axis=0)
    return np.asarray(-np.log10(rho))


_FUSIONS: dict[str, tuple[Callable[[Array, Array], Array], str]] = {
    "mean_rank": (mean_rank, "mean rank, 0 to 1"),
    "z_score": (z_score, "standard deviations above the lowest block"),
    "robust_rank": (robust_rank, "−log10 ρ"),
}


def _included(scores: Scores, weights: Mapping[str, float]) -> tuple[dict[str, Array], dict[str, str]]:
    if len({len(values) for values in scores.values()}) > 1:
        raise ValueError("methods score different numbers of blocks")
    good, excluded = usable(scores)
    for name in [name for name in good if weights.get(name, 1.0) <= 0]:
        excluded[name] = "weight 0"
        del good[name]
    if not good:
        raise ValueError(f"no method ranks the blocks: {excluded}")
    return good, excluded


def fuse(
    scores: Scores, weights: Mapping[str, float], method: str = "mean_rank", measured: Measured | None = None
) -> Fusion:
    """One score a block from many methods; equal scores go to the earlier block.

    Args:
        scores: higher = keep, each method in its own unit.
        weights: by method (1 where missing); 0 leaves a method out, the only use that ``learned``, which fits its own,
            and ``robust_rank``, which has none, make of them.
        measured: losses of cut models; needed by ``learned``.

    Raises:
        ValueError: no method is left, the methods score different numbers of blocks, or ``learned`` has nothing to
            learn from.
    """
    good, excluded = _included(scores, weights)
    matrix = np.stack(list(good.values()))
    if method == "learned":
        if measured is None:
            raise ValueError("learned fusion needs losses of cut models")
        found = fit(matrix, measured)
        fused, unit = found.scores(matrix), "nats, fitted"
        used, learned = dict(zip(good, map(float, found.weights), strict=True)), found.described()
    else:
        function, unit = _FUSIONS[method]
        used = {name: weights.get(name, 1.0) if method != "robust_rank" else 1.0 for name in good}
        fused, learned = function(matrix, np.array(list(used.values()))), None
    # Rounded: scores that differ in the last digit only, by the order of the methods, are equal.
    fused = np.round(fused, 12) + 0.0
    ranking = tuple(int(block) for block in np.lexsort((np.arange(len(fused)), -fused)))
    return Fusion(tuple(map(float, fused)), ranking, excluded, method, unit, used, learned)


def predicted_damage(scores: Scores, weights: Mapping[str, float], method: str, measured: Measured) -> Array:
    """What the fusion predicts for each measured cut model (S,): the sum of the fused scores of its removed blocks.

    A learned fusion has seen the losses that it is to be compared with. It predicts each from weights fitted on the
    *other* folds, so that its agreement with them is not its own memory.
    """
    if method == "learned":
        good, _ = _included(scores, weights)
        return cross_validated(np.stack(list(good.values())), measured)
    fused = np.array([fuse(scores, weights, method, measured).scores])
    return removed_sums(fused, [removed for removed, _ in measured])[:, 0]


def kendall_tau(scores: Scores) -> tuple[list[str], list[list[float]]]:
    """(names, τ-b matrix) of the usable methods: 1 same order, 0 none, −1 reversed. One block: τ is 1."""
    good, _ = usable(scores)
    names = list(good)
    return names, [[tau(good[one], good[other]) for other in names] for one in names]


def tau(one: Array, other: Array) -> float:
    """Kendall's τ-b of two score vectors (L,); 1 for a single block, NaN where one of them is constant."""
    return float(kendalltau(one, other).statistic) if len(one) > 1 else 1.0
