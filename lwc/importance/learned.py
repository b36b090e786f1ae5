"""Learned fusion: how much each method counts, fitted on the losses of models that were really cut."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.preprocessing import StandardScaler

from lwc.core.arrays import Array
from lwc.importance.types import LearnedFit

_FOLDS = 5
# Times the mean variance of the columns: from one that leaves little but equal weights to next to none.
_RIDGES = (10.0, 1.0, 1e-1, 1e-2, 1e-4, 1e-6)
_LEAST = 4

Measured = Sequence[tuple[Collection[int], float]]


def removed_sums(scores: Array, removed: Sequence[Collection[int]]) -> Array:
    """Sum of the scores (M, L) of the removed blocks: (S, M)."""
    chosen = np.zeros((len(removed), scores.shape[1]))
    for row, blocks in enumerate(removed):
        chosen[row, list(blocks)] = 1.0
    return np.asarray(chosen @ scores.T)


def _scaled(scores: Array) -> Array:
    """Each method ÷ its largest |score|: 0 stays 0, so that a block that does nothing adds nothing."""
    largest = np.abs(scores).max(axis=1, keepdims=True)
    return np.asarray(scores / np.where(largest > 0, largest, 1.0))


def _search(rows: int) -> GridSearchCV:
    """Non-negative ridge regression on ``rows`` cut models. Cross-validation chooses the ridge (of equals, the larger).

    Subsets come in random order, so the folds need no draw. Losses are standardised for the solver's tolerance.
    """
    model = TransformedTargetRegressor(Ridge(positive=True, tol=1e-11), transformer=StandardScaler())
    grid = {"regressor__alpha": [ridge * rows for ridge in _RIDGES]}
    return GridSearchCV(model, grid, cv=min(_FOLDS, rows), scoring="neg_mean_squared_error")


def _size(x: Array) -> float:
    """Root mean variance of the columns, of which the ridges are multiples."""
    return float(np.sqrt(x.var(axis=0).mean())) or 1.0


@dataclass(frozen=True)
class Learned:
    """Weights (M,) ≥ 0 of methods scaled to a largest |score| of 1, so in nats; the fit's ridge and held-out error."""

    weights: Array
    ridge: float
    error: float
    spread: float
    subsets: int

    def scores(self, scores: Array) -> Array:
        """Fused scores (L,) in nats: the loss that removing the block is predicted to add."""
        return np.asarray(self.weights @ _scaled(scores))

    def described(self) -> LearnedFit:
        """For ``importance.json``."""
        return {
            "subsets": self.subsets,
            "folds": min(_FOLDS, self.subsets),
            "ridge": self.ridge,
            "held_out_rmse": float(np.sqrt(self.error)),
            # 1 is perfect; 0 or less is no better than predicting the mean loss for every cut model.
            "held_out_r2": 1 - self.error / self.spread if self.spread > 0 else None,
        }


def _checked(measured: Measured) -> Array:
    losses = np.array([loss for _, loss in measured], dtype=np.float64)
    if len(losses) < _LEAST:
        raise ValueError(f"learned fusion needs the losses of at least {_LEAST} cut models, got {len(losses)}")
    if not np.isfinite(losses).all():
        raise ValueError("the loss of a cut model is not finite")
    return losses


def fit(scores: Array, measured: Measured) -> Learned:
    """Non-negative ridge regression of the losses of cut models on the methods' scores (M, L).

    loss(S) ≈ c + Σₘ wₘ Σ_{b ∈ S} sₘᵦ / max|sₘ|, wₘ ≥ 0: a model linear in the blocks, of which each single method is a
    special case. Negative weights are ruled out, since they would turn a method's "keep" into "remove"; the ridge is
    chosen by five-fold cross-validation over the subsets, without chance. Nothing is drawn: same input, same weights.

    Raises:
        ValueError: too few cut models, a loss that is not finite, or no method that predicts the losses.
    """
    losses = _checked(measured)
    x = removed_sums(_scaled(scores), [removed for removed, _ in measured])
    size = _size(x)
    search = _search(len(losses)).fit(x / size, losses)
    found = search.best_estimator_
    weights = np.asarray(found.regressor_.coef_) * float(found.transformer_.scale_[0]) / size
    if not weights.any():
        raise ValueError("no method's scores rise with the losses of the cut models, so there is nothing to learn")
    return Learned(weights, _RIDGES[search.best_index_], -float(search.best_score_), float(losses.var()), len(losses))


def cross_validated(scores: Array, measured: Measured) -> Array:
    """Predicted loss (S,) of each cut model by weights *and* ridge that were chosen without its fold."""
    losses = _checked(measured)
    x = removed_sums(_scaled(scores), [removed for removed, _ in measured])
    folds = min(_FOLDS, len(losses))
    search = _search(len(losses) - math.ceil(len(losses) / folds))
    return np.asarray(cross_val_predict(search, x / _size(x), losses, cv=folds))
