"""Label information of each block's representation, as a linear probe can use it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from lwc.core import distributed
from lwc.core.arrays import Array
from lwc.importance.types import LayerImportance, scorer
from lwc.models.batches import Batch
from lwc.models.families import Family, pooling_of
from lwc.models.forward.watch import watched
from lwc.models.types import Model
from lwc.recipe import MutualInformation

FOLDS = 5
COMPONENTS = 64
# Variances of the normal prior on the probe's weights, of which the best on held-out rows counts (in the null too).
PRIORS = (1.0, 10.0, 100.0)
ITERATIONS = 30
SEED = 0
# Dimensions that hardly vary are not blown up to the size of the others: they would be rounding errors.
_FLOOR = 1e-3


def pooled(model: Model, family: Family, batches: Sequence[Batch]) -> tuple[Array, Array, Array]:
    """(what the head reads of every block's input and output (2, L, N, D), labels (N,), rows (N,)): `pooling_of`."""
    pooling = pooling_of(model, family)

    def of(batch: Batch) -> Tensor:
        real = batch.mask.bool()
        every, places = torch.arange(len(real), device=real.device), torch.arange(real.shape[1], device=real.device)
        seen: dict[int, Tensor] = {}

        def read(hidden: Tensor) -> Tensor:
            if pooling == "mean":
                # Masked, not multiplied by 0: what a model leaves in padded places may be anything.
                kept = hidden.double().masked_fill(~real.unsqueeze(-1), 0.0)
                return kept.sum(dim=1) / real.sum(dim=1, keepdim=True)
            place = real.int() if pooling == "first" else real * places
            return hidden.double()[every, place.argmax(dim=1)]

        def look(index: int, before: Tensor, after: Tensor) -> None:
            seen[index] = torch.stack([read(before), read(after)])

        with watched(model, family, look):
            model(**batch.inputs)
        return torch.stack([seen[index] for index in sorted(seen)], dim=1).float().cpu()

    found = distributed.spread(batches, of)
    labels, rows = (torch.cat([getattr(batch, name) for batch in batches]).cpu() for name in ("labels", "rows"))
    return torch.cat(found, dim=2).numpy(), labels.numpy(), rows.numpy()


def folds_of(rows: Array, labels: Array, random: np.random.Generator) -> Array:
    """Fold of each example (N,), classes spread evenly; a repeated row is in one fold only."""
    unique, first = np.unique(rows, return_index=True)
    order = random.permutation(len(unique))
    order = order[np.argsort(labels[first][order], kind="stable")]
    folds = np.empty(len(unique), dtype=np.int64)
    folds[order] = np.arange(len(unique)) % FOLDS
    return np.asarray(folds[np.searchsorted(unique, rows)])


def _components(features: Array, weights: Array) -> Array:
    """Leading principal components of the softly standardised features, total variance 1; no label is looked at."""
    centred = features.astype(np.float64)
    centred -= np.average(centred, axis=0, weights=weights)
    variance = np.average(centred**2, axis=0, weights=weights)
    if not variance.any():
        return np.zeros((len(features), 1))
    centred = centred / np.sqrt(variance + _FLOOR * variance.mean())
    scaled = centred * np.sqrt(weights / weights.sum())[:, None]
    wide = scaled.shape[1] > len(scaled)  # the same vectors from the smaller of the two matrices
    values, vectors = np.linalg.eigh(scaled @ scaled.T if wide else scaled.T @ scaled)
    leading = vectors[:, ::-1][:, :COMPONENTS]
    if wide:
        leading = scaled.T @ leading / np.sqrt(np.maximum(values[::-1][:COMPONENTS], values[-1] * 1e-12))
    return np.asarray(centred @ leading / np.sqrt(values.sum()))


def _fit(design: Array, weights: Array, targets: Array, prior: Array, variance: float) -> Array:
    """Logistic regression of many label columns at once: (N, R), (N,), (Q, N, C) one-hot, (Q, C) → weights (Q, R, C).

    Böhning (1992): the Hessian is at most ½ XᵀΩX, whatever the labels, so that one factorisation serves all of them;
    with Nesterov's momentum. The steps are few and fixed; a fit that they leave unfinished only loosens the bound.
    """
    weighted = design * weights[:, None]
    inverse = np.linalg.inv(design.T @ weighted / 2 + np.eye(design.shape[1]) / variance)
    solution = ahead = np.zeros((len(targets), design.shape[1], targets.shape[2]))
    for step in range(ITERATIONS):
        residual = targets - softmax(design @ ahead + prior[:, None], axis=-1)
        better = ahead + inverse @ (weighted.T @ residual - ahead / variance)
        ahead = better + step / (step + 3) * (better - solution)
        solution = better
    return solution


def v_information(features: Array, labels: Array, weights: Array, folds: Array) -> Array:
    """Usable information (nats) of features (N, D) about each of Q label columns (Q, N): (Q,).

    H(Y) − CE with both terms cross-fitted: the entropy is the held-out cross-entropy of the class shares of the other
    folds, smoothed by one count a class; the probe starts from these shares, so that one that learns nothing gives 0.
    """
    if not np.isfinite(features).all():
        return np.full(len(labels), np.nan)
    classes = np.unique(labels)
    targets = (labels[:, :, None] == classes).astype(np.float64)
    weights = weights / weights.mean()
    design = np.concatenate([_components(features, weights), np.ones((len(features), 1))], axis=1)
    gain = np.zeros((len(PRIORS), len(labels)))
    for fold in np.unique(folds):
        held, rest = folds == fold, folds != fold
        counts = (targets[:, rest] * weights[rest, None]).sum(axis=1) + 1
        prior = np.log(counts / counts.sum(axis=1, keepdims=True))
        truth = targets[:, held] * weights[held, None]
        for index, variance in enumerate(PRIORS):
            solution = _fit(design[rest], weights[rest], targets[:, rest], prior, variance)
            found = np.log(softmax(design[held] @ solution + prior[:, None], axis=-1))
            gain[index] += (truth * (found - prior[:, None])).sum(axis=(1, 2))
    return np.asarray(gain.max(axis=0) / weights.sum())


def _examples(features: Array, labels: Array, rows: Array) -> tuple[Array, Array, Array, Array]:
    """Each (row, label) once, in the order of rows, with its count: whatever the batches were."""
    _, first, counts = np.unique(np.stack([rows, labels]), axis=1, return_index=True, return_counts=True)
    return features[:, :, first], labels[first], rows[first], counts.astype(np.float64)


@scorer
@torch.inference_mode()
def mutual_information(
    model: Model, family: Family, batches: Sequence[Batch], settings: MutualInformation
) -> LayerImportance:
    """I(h_out; Y) − I(h_in; Y) in nats; h is a block's input or output (N, D), Y the label.

    h is what the model's head reads: the first real token, the mean over all real tokens, or the last real token.

    I is V-information (Xu et al. 2020, "A theory of usable information under computational constraints", def. 2) with V
    the regularised linear classifiers on the 64 leading principal components: H(Y) − CE, both cross-fitted over 5
    folds. In expectation that is no more than the mutual information (Barber and Agakov 2003), which itself cannot grow
    from one block to the next (data processing inequality): what grows is what a linear reader can use.
    Plug-in estimates, such as Gaussian or binned ones, grow with D where nothing is to be known, so that none is used.

    Bias: the same estimate of ``permutations`` random orders of the labels, where the truth is 0, is averaged and
    subtracted; it also has what the choice of the prior gained on the rows it was chosen on. After that the figure is
    an estimate, no longer a bound. Deviations: a block that leaves less to a linear reader scores below 0. Examples
    that occur in the calibration set more than once share a fold and weigh more. The seed is fixed; float32 features of
    all examples (2, L, N, D) are kept in memory.

    ``details``: ``before`` and ``after``, corrected; ``null_before`` and ``null_after``, the means subtracted;
    ``p_value``, the share of label orders, the true one included, whose gain is at least that of the true one.
    """
    features, labels, rows, weights = _examples(*pooled(model, family, batches))
    random = np.random.default_rng(SEED)
    folds = folds_of(rows, labels, random)
    columns = np.stack([labels, *[random.permutation(labels) for _ in range(settings.permutations)]])
    places = features.swapaxes(0, 1).reshape(-1, *features.shape[2:])  # in, out, in, out, …
    # A block mostly reads what the one before it wrote, and an identity writes what it read.
    fresh = [not index or not np.array_equal(places[index], places[index - 1]) for index in range(len(places))]
    different = [place for place, new in zip(places, fresh, strict=True) if new]
    found = distributed.spread(different, lambda place: v_information(place, columns, weights, folds))
    sides = [found[index] for index in np.cumsum(fresh) - 1]
    before, after = np.stack(sides[::2]), np.stack(sides[1::2])  # (L, 1 + permutations)
    null = [side[:, 1:].mean(axis=1) for side in (before, after)]
    corrected = [side[:, 0] - mean for side, mean in zip((before, after), null, strict=True)]
    gains = after - before
    reached = (gains >= gains[:, :1]).mean(axis=1)
    details = {
        "before": corrected[0].tolist(),
        "after": corrected[1].tolist(),
        "null_before": null[0].tolist(),
        "null_after": null[1].tolist(),
        "p_value": np.where(np.isnan(gains[:, 0]), np.nan, reached).tolist(),
    }
    scores = tuple((corrected[1] - corrected[0]).tolist())
    return LayerImportance("mutual_information", scores, "nats", details=details)
