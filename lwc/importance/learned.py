"""Learned fusion: how much each method counts, fitted on the losses of models that were really cut."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from lwc.core.arrays import Array
from lwc.importance.contents import LearnedFit

_FOLDS = 5
# Of the mean squared column: from next to none to one that leaves little but equal weights.
_RIDGES = (1e-6, 1e-4, 1e-2, 1e-1, 1.0, 10.0)
_LEAST = 4

Measured = Sequence[tuple[Collection[int], float]]
"""(removed blocks, loss of the model without them in nats), one entry a cut model."""


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


def _solve(x: Array, y: Array, ridge: float) -> tuple[Array, float]:
    """Weights w ≥ 0 (M,) and intercept of min ‖y − c − x w‖² / S + ridge · mean(x²) · ‖w‖², x (S, M).

    Solved exactly. scikit-learn's ``Ridge(positive=True)`` is L-BFGS: it stops up to 4% off where methods nearly agree,
    or warns that it did not converge.
    """
    middle, level = x.mean(axis=0), float(y.mean())
    centred = (x - middle) / np.sqrt(len(y))
    size = float((centred**2).sum(axis=0).mean())
    penalty = np.sqrt(ridge * size) if size > 0 else 1.0
    design = np.vstack([centred, penalty * np.eye(x.shape[1])])
    goal = np.concatenate([(y - level) / np.sqrt(len(y)), np.zeros(x.shape[1])])
    weights = np.asarray(nnls(design, goal)[0])
    return weights, level - float(middle @ weights)


def _folds(count: int) -> list[Array]:
    """Held-out rows of each fold: every k-th subset. Subsets come in random order, so no draw is needed."""
    folds = min(_FOLDS, count)
    return [np.arange(count) % folds == fold for fold in range(folds)]


def _held_out_error(x: Array, y: Array, ridge: float) -> float:
    error = 0.0
    for held in _folds(len(y)):
        weights, intercept = _solve(x[~held], y[~held], ridge)
        error += float(((y[held] - intercept - x[held] @ weights) ** 2).sum())
    return error / len(y)


def _best_ridge(x: Array, y: Array) -> tuple[float, float]:
    """(mean squared held-out error, ridge) of the best ridge; of equal ones the larger."""
    errors = [(_held_out_error(x, y, ridge), -ridge) for ridge in _RIDGES]
    error, ridge = min(errors)
    return error, -ridge


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


def check_count(cut_models: int) -> None:
    """Raise `ValueError` where so few cut models are too few to learn from."""
    if cut_models < _LEAST:
        raise ValueError(f"learned fusion needs the losses of at least {_LEAST} cut models, got {cut_models}")


def _checked(measured: Measured) -> Array:
    losses = np.array([loss for _, loss in measured], dtype=np.float64)
    check_count(len(losses))
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
    error, ridge = _best_ridge(x, losses)
    weights, _ = _solve(x, losses, ridge)
    if not weights.any():
        raise ValueError("no method's scores rise with the losses of the cut models, so there is nothing to learn")
    return Learned(weights, ridge, error, float(losses.var()), len(losses))


def cross_validated(scores: Array, measured: Measured) -> Array:
    """Predicted loss (S,) of each cut model by weights *and* ridge that were chosen without its fold."""
    losses = _checked(measured)
    x = removed_sums(_scaled(scores), [removed for removed, _ in measured])
    predicted = np.zeros(len(losses))
    for held in _folds(len(losses)):
        _, ridge = _best_ridge(x[~held], losses[~held])
        weights, intercept = _solve(x[~held], losses[~held], ridge)
        predicted[held] = intercept + x[held] @ weights
    return predicted
