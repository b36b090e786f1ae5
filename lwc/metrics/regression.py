"""Metrics of predicted numbers and their bootstrap intervals, in plain numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import rankdata

from lwc.core.arrays import Array
from lwc.metrics.classification import interval, quotient, ratio_interval


def mean_absolute_error(labels: Array, predicted: Array) -> float:
    """Mean |prediction − label| over (N,), in units of the label; lower is better."""
    return float(np.abs(predicted - labels).mean())


def spearman(labels: Array, predicted: Array) -> float:
    """Spearman's ρ of (N,): Pearson's correlation of the ranks, ties in the middle. 0 where one side is constant."""
    ranks = np.stack([rankdata(labels), rankdata(predicted)])
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    size = float(np.sqrt((centred**2).sum(axis=1)).prod())
    return float((centred[0] * centred[1]).sum() / size) if size > 0 else 0.0


METRICS: dict[str, Callable[[Array, Array], float]] = {
    "mean_absolute_error": mean_absolute_error,
    "spearman": spearman,
}


def _draws(n: int, n_boot: int, seed: int) -> list[Array]:
    random = np.random.default_rng(seed)
    return [random.integers(0, n, n) for _ in range(n_boot)]


def number_quality(labels: Array, predicted: Array, n_boot: int, seed: int) -> dict[str, Any]:
    """``{"n", "mean_absolute_error", "spearman"}`` of predictions (N,), each with its 95% bootstrap interval."""
    rows = _draws(len(labels), n_boot, seed)
    quality: dict[str, Any] = {"n": len(labels)}
    for name, metric in METRICS.items():
        samples = np.array([metric(labels[drawn], predicted[drawn]) for drawn in rows])
        quality[name] = interval(metric(labels, predicted), samples)
    return quality


def number_retention(labels: Array, base: Array, compressed: Array, n_boot: int, seed: int) -> dict[str, Any]:
    """How much of the base's quality is left, 1 = all: base ÷ compressed error, compressed ÷ base ρ, in pairs.

    All of a metric is None unless the number below the line is above 0, and so is the lower end of its 95% interval: a
    base whose ρ is negative, or may be 0, has no quality to retain, and two negative ρ must not look like a gain.
    """
    rows = _draws(len(labels), n_boot, seed)
    result: dict[str, Any] = {}
    for name, metric in METRICS.items():
        above, below = (base, compressed) if name == "mean_absolute_error" else (compressed, base)
        drawn = [np.arange(len(labels)), *rows]  # all rows first
        one, other = (np.array([metric(labels[chosen], side[chosen]) for chosen in drawn]) for side in (above, below))
        measured = interval(float(other[0]), other[1:])["low"] > 0
        ratios = np.where(measured & (other > 0), quotient(one, other), np.nan)
        result[name] = ratio_interval(float(ratios[0]), ratios[1:])
    return result
