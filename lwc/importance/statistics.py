"""How sure a score is, how stable a ranking, how well it predicts. Pure functions of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from scipy.stats import spearmanr
from scipy.stats import t as student

from lwc.core.arrays import Array
from lwc.core.marks import LEVEL, Number
from lwc.importance.contents import Comparison
from lwc.importance.fusion import tau
from lwc.metrics.classification import ratio_interval

# Fewer points than this have no rank correlation worth the name.
_LEAST = 3


def bootstrap_interval(scores: Sequence[float], resampled: Array) -> list[list[Number]]:
    """[low, high] of each block: score ± t · (standard deviation of the rescorings (R, L)), t of R − 1 degrees.

    The bootstrap standard error with Student's t (Efron & Tibshirani 1993, §12.4). Rescoring is dear, so R is small:
    percentiles of five numbers are hardly more than their range and would cover far less than the 95% they promise.
    """
    count = len(resampled)
    if count < 2:
        raise ValueError(f"an interval needs at least 2 resamples, got {count}")
    half = student.ppf((1 + LEVEL) / 2, count - 1) * resampled.std(axis=0, ddof=1)
    return [[float(score - width), float(score + width)] for score, width in zip(scores, half, strict=True)]


def rank_stability(rankings: Array) -> float:
    """Mean Kendall τ over all pairs of the scorings (R, L): 1 = always the same order. NaN where one ranks nothing."""
    pairs = list(combinations(rankings, 2))
    return float(np.mean([tau(one, other) for one, other in pairs])) if pairs else 1.0


def _spearman(one: Array, other: Array) -> float:
    """Spearman's ρ of two vectors (S,), NaN where one is constant."""
    return float(spearmanr(one, other).statistic) if np.ptp(one) > 0 and np.ptp(other) > 0 else float("nan")


def compare_predictions(
    predicted: Mapping[str, Array], fused: Array, sizes: Sequence[int], actual: Sequence[float], draws: int, seed: int
) -> Comparison | None:
    """Spearman's ρ of predicted damage (S,) and actual loss (S,) of cut models, by method and for the fusion.

    Intervals are 95% percentiles over ``draws`` resamples of the cut models, the same ones for every method, so that
    ``difference`` (fusion − best single method) is paired. ``size_only`` is the floor: what merely counting the
    removed blocks would predict, None where all sets have one size. None with fewer than 3 cut models.

    The best single method is the best *on these cut models*: hindsight that favours it over the fusion a little.
    """
    losses = np.asarray(actual, dtype=np.float64)
    if len(losses) < _LEAST:
        return None
    rows = np.random.default_rng(seed).integers(0, len(losses), size=(draws, len(losses)))

    def correlated(values: Array) -> tuple[float, Array]:
        """ρ, and ρ on every resample."""
        return _spearman(values, losses), np.array([_spearman(values[drawn], losses[drawn]) for drawn in rows])

    own = {name: correlated(values) for name, values in predicted.items()}
    whole, sampled = correlated(np.asarray(fused))
    size = _spearman(np.asarray(sizes), losses)
    known = [name for name in own if np.isfinite(own[name][0])]
    best = max(known, key=lambda name: own[name][0]) if known else None
    difference = ratio_interval(whole - own[best][0], sampled - own[best][1]) if best else None
    return {
        "methods": {name: ratio_interval(*found) for name, found in own.items()},
        "fused": ratio_interval(whole, sampled),
        "size_only": size if np.isfinite(size) else None,
        "best_single": best,
        "difference": difference,
        "fusion_beats_best_single": bool(whole > own[best][0] + 1e-12) if best and np.isfinite(whole) else None,
    }
