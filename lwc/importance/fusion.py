"""Many rankings into one, and how far they agree. Pure functions of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau, rankdata

from lwc.arrays import Array

# Scores closer than this, relative to the largest, differ by rounding only.
_SAME = 1e-9


@dataclass(frozen=True)
class Fusion:
    """``scores`` are weighted mean ranks scaled to 0 (least) … 1 (most important); ``ranking`` best block first."""

    scores: tuple[float, ...]
    ranking: tuple[int, ...]
    excluded: dict[str, str]


def usable(scores: Mapping[str, Sequence[float]]) -> tuple[dict[str, Array], dict[str, str]]:
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


def fuse(scores: Mapping[str, Sequence[float]], weights: Mapping[str, float]) -> Fusion:
    """Weighted mean rank (Borda count); ties share their mean rank, and equal means go to the earlier block.

    Raises:
        ValueError: no method is left, the methods score different numbers of blocks, or all weights are 0.
    """
    if len({len(values) for values in scores.values()}) > 1:
        raise ValueError("methods score different numbers of blocks")
    good, excluded = usable(scores)
    for name in [name for name in good if weights.get(name, 1.0) <= 0]:
        excluded[name] = "weight 0"
        del good[name]
    if not good:
        raise ValueError(f"no method ranks the blocks: {excluded}")
    count = len(next(iter(good.values())))
    total = sum(weights.get(name, 1.0) for name in good)
    ranks = sum((weights.get(name, 1.0) * rankdata(values) for name, values in good.items()), np.zeros(count)) / total
    # Rounded: means that differ in the last digit only, by the order of the methods, are equal.
    scaled = np.round((ranks - 1) / (count - 1), 12) + 0.0 if count > 1 else np.ones(1)
    ranking = tuple(int(block) for block in np.lexsort((np.arange(count), -scaled)))
    return Fusion(tuple(float(value) for value in scaled), ranking, excluded)


def kendall_tau(scores: Mapping[str, Sequence[float]]) -> tuple[list[str], list[list[float]]]:
    """(names, τ-b matrix) of the usable methods: 1 same order, 0 none, −1 reversed. One block: τ is 1."""
    good, _ = usable(scores)
    names = list(good)

    def tau(one: Array, other: Array) -> float:
        return float(kendalltau(one, other).statistic) if one.size > 1 else 1.0

    return names, [[tau(good[one], good[other]) for other in names] for one in names]
