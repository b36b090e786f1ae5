"""Full-ranking quality: the place of the item that came next among *all* items the user does not have yet.

Never sampled: metrics over a few sampled negatives order models differently (Krichene & Rendle 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwc.core.arrays import Array
from lwc.metrics.classification import interval, quotient, ratio_interval
from lwc.tasks.next_item.histories import UNKNOWN

K = 10
HEADLINES = ("ndcg_at_10", "hr_at_10", "mrr")
Floats = NDArray[np.float64]

# Rows × items × resamples kept in memory at a time.
_CHUNK = 50_000_000


def without_seen(scores: Array, seen: Sequence[Sequence[int]]) -> Array:
    """A copy of scores (N, V) with −∞ for what each user has already.

    Raises:
        ValueError: a score is NaN: it would rank as nothing does.
    """
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).any(axis=1).sum())} of {len(scores)} rows have NaN scores")
    left = np.array(scores, dtype=np.float64)
    for row, items in enumerate(seen):
        left[row, items] = -np.inf
    return left


def ranks(scores: Array, targets: Array) -> Floats:
    """The place (N,) of each target among scores (N, V), 1 = first; ∞ where the target is `UNKNOWN`.

    Equal scores are in the order of the item numbers, as in ONNX's TopK: a constant score is the popularity list.
    """
    found = np.full(len(targets), np.inf)
    for row, target in enumerate(targets):
        if target == UNKNOWN or scores[row, target] == -np.inf:
            continue
        mine = scores[row, target]
        before = (scores[row] > mine).sum() + (scores[row, :target] == mine).sum()
        found[row] = float(before) + 1
    return found


def top(scores: Array, k: int) -> Array:
    """The best k item numbers (N, k) of scores (N, V), equal scores in the order of the item numbers."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def per_question(places: Floats) -> dict[str, Floats]:
    """HR@10, NDCG@10 (one relevant item: 1 / log₂(1 + place)) and reciprocal rank of places (N,)."""
    near = places <= K
    return {
        "ndcg_at_10": np.where(near, 1 / np.log2(1 + places), 0.0),
        "hr_at_10": near.astype(np.float64),
        "mrr": 1 / places,
    }


def _shown(lists: Array, items: int) -> Array:
    """(N, V) booleans: item is in this user's list."""
    found: Array = np.zeros((len(lists), items), dtype=np.float32)
    np.put_along_axis(found, lists, 1.0, axis=1)
    return found


def resamples(rows: int, n_boot: int, seed: int) -> Array:
    """How often each of the rows is drawn in each resample, (R, N)."""
    return np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=n_boot).astype(np.float32)


def _coverage_samples(shown: Array, weights: Array) -> Floats:
    step = max(1, _CHUNK // max(1, shown.shape[1]))
    parts = [((weights[at : at + step] > 0) @ shown > 0).mean(axis=1) for at in range(0, len(weights), step)]
    found: Floats = np.concatenate(parts).astype(np.float64)
    return found


def quality(scores: Array, targets: Array, weights: Array) -> tuple[dict[str, Any], dict[str, Floats]]:
    """All metrics of scores (N, V), −∞ for seen items, each with its 95% interval over users; and the values per user.

    ``coverage`` is the share of the catalogue that is in at least one top-10 list; resampled users show fewer
    items, so that its interval reaches further down than up. ``weights`` (R, N) come from `resamples`.
    """
    values = per_question(ranks(scores, targets))
    result: dict[str, Any] = {"n": len(targets)}
    for name, each in values.items():
        result[name] = interval(float(each.mean()), weights @ each / len(each))
    shown = _shown(top(scores, min(K, scores.shape[1])), scores.shape[1])
    result["coverage"] = interval(float((shown.sum(axis=0) > 0).mean()), _coverage_samples(shown, weights))
    return result, values


def retention(base: dict[str, Floats], compressed: dict[str, Floats], weights: Array) -> dict[str, Any]:
    """Compressed ÷ base of each headline metric, the same users drawn for both; None where the base has 0."""
    return {
        name: ratio_interval(
            float(quotient(compressed[name].sum(), base[name].sum())),
            quotient(weights @ compressed[name], weights @ base[name]),
        )
        for name in HEADLINES
    }


def difference(one: Floats, other: Floats, weights: Array) -> dict[str, float]:
    """one − other of a metric per user (N,), with its paired interval: does a model beat a floor?"""
    return interval(float((one - other).mean()), weights @ (one - other) / len(one))
