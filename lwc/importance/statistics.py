"""How sure a score is, how stable a ranking, how well it predicts. Pure functions of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import rankdata
from scipy.stats import t as student

from lwc.core.arrays import Array
from lwc.importance.fusion import tau
from lwc.metrics.classification import LEVEL, interval

# Fewer points than this have no rank correlation worth the name.
_LEAST = 3


def bootstrap_interval(scores: Sequence[float], resampled: Array) -> list[list[float]]:
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


def _correlation(one: Array, other: Array) -> Array:
    """Spearman's ρ of each pair of rows (B, S): Pearson of mean ranks. NaN where a row is constant."""
    x, y = rankdata(one, axis=-1), rankdata(other, axis=-1)
    x, y = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    scale = np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    return np.asarray(np.divide((x * y).sum(axis=-1), scale, out=np.full(scale.shape, np.nan), where=scale > 0))


def _with_interval(value: float, samples: Array) -> dict[str, float | None]:
    finite = samples[np.isfinite(samples)]
    if not np.isfinite(value) or not finite.size:
        return {"value": None, "low": None, "high": None}
    return {**interval(float(value), finite)}


def compare_predictions(
    predicted: Mapping[str, Array], fused: Array, sizes: Sequence[int], actual: Sequence[float], draws: int, seed: int
) -> dict[str, Any] | None:
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
    named = {**predicted, "": np.asarray(fused), " size": np.asarray(sizes, dtype=np.float64)}
    values = {name: float(_correlation(x[None], losses[None])[0]) for name, x in named.items()}
    samples = {name: _correlation(x[rows], losses[rows]) for name, x in named.items()}
    known = [name for name in predicted if np.isfinite(values[name])]
    best = max(known, key=lambda name: values[name]) if known else None
    comparable = best is not None and bool(np.isfinite(values[""]))
    return {
        "methods": {name: _with_interval(values[name], samples[name]) for name in predicted},
        "fused": _with_interval(values[""], samples[""]),
        "size_only": _with_interval(values[" size"], samples[" size"])["value"],
        "best_single": best,
        "difference": _with_interval(values[""] - values[best], samples[""] - samples[best]) if best else None,
        "fusion_beats_best_single": bool(values[""] > values[best] + 1e-12) if best and comparable else None,
    }
