"""Classification metrics and their bootstrap intervals, in plain numpy.

Every headline number carries a 95% percentile interval (Efron & Tibshirani 1993, ch. 13). Metrics that depend
only on (label, prediction) pairs are resampled through their cell counts: drawing n rows with replacement is the
same as one multinomial draw over the distinct cells, which is exact and needs no (resamples, rows) matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

from lwc.core.marks import LEVEL, Interval

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ECE_BINS = 15
_CHUNK = 4_000_000  # rows drawn at once for the calibration error: 32 MB of indices
RESAMPLED = ("accuracy", "macro_f1", "balanced_accuracy")


def _pair(labels: ArrayLike, predictions: ArrayLike) -> tuple[Ints, Ints]:
    y = np.asarray(labels, dtype=np.int64)
    p = np.asarray(predictions, dtype=np.int64)
    if y.ndim != 1 or y.shape != p.shape:
        raise ValueError(f"labels {y.shape} and predictions {p.shape} must be equal one-dimensional shapes")
    if y.size == 0:
        raise ValueError("no examples to measure")
    if min(int(y.min()), int(p.min())) < 0:
        raise ValueError("class ids must not be negative")
    return y, p


def _from_counts(hits: Floats, support: Floats, predicted: Floats) -> dict[str, Floats]:
    """Metrics from per-class counts, all (..., C): correct, true and predicted rows of each class."""
    present = support > 0
    seen = present | (predicted > 0)
    f1 = np.divide(2 * hits, support + predicted, out=np.zeros_like(hits), where=seen)
    recall = np.divide(hits, support, out=np.zeros_like(hits), where=present)
    return {
        "accuracy": hits.sum(-1) / support.sum(-1),
        "macro_f1": f1.sum(-1) / seen.sum(-1),
        "balanced_accuracy": recall.sum(-1) / present.sum(-1),
    }


def _point(labels: ArrayLike, predictions: ArrayLike) -> dict[str, float]:
    matrix = confusion_matrix(labels, predictions).astype(np.float64)
    values = _from_counts(np.diagonal(matrix), matrix.sum(1), matrix.sum(0))
    return {name: float(value) for name, value in values.items()}


def accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Share of rows whose predicted class id (N,) equals the label (N,)."""
    return _point(labels, predictions)["accuracy"]


def macro_f1(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Unweighted mean F1 over the classes that occur in labels (N,) or predictions (N,)."""
    return _point(labels, predictions)["macro_f1"]


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, classes: int | None = None) -> Ints:
    """Counts (C, C): rows are true classes, columns predicted ones.

    Raises:
        ValueError: shapes differ, nothing to count, or an id is outside ``classes``.
    """
    y, p = _pair(labels, predictions)
    needed = int(max(y.max(), p.max())) + 1
    size = needed if classes is None else classes
    if needed > size:
        raise ValueError(f"class id {needed - 1} does not fit in {size} classes")
    return np.bincount(y * size + p, minlength=size * size).reshape(size, size).astype(np.int64)


def softmax(logits: ArrayLike) -> Floats:
    """Row-wise probabilities (N, C) of logits (N, C).

    Raises:
        ValueError: not two-dimensional, or a logit is NaN or infinite.
    """
    z = np.asarray(logits, dtype=np.float64)
    if z.ndim != 2:
        raise ValueError(f"logits must be (N, C), got {z.shape}")
    if not np.isfinite(z).all():
        bad = int((~np.isfinite(z)).any(axis=1).sum())
        raise ValueError(f"{bad} of {len(z)} rows have non-finite logits")
    return np.asarray(scipy.special.softmax(z, axis=1))


def _calibration_rows(labels: Ints, logits: ArrayLike) -> tuple[Floats, Ints]:
    """Per row: correctness minus confidence (N,), and its confidence bin (N,)."""
    probabilities = softmax(logits)
    confidence = probabilities.max(axis=1)
    gap = (probabilities.argmax(axis=1) == labels).astype(np.float64) - confidence
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    return gap, bins


def expected_calibration_error(labels: ArrayLike, logits: ArrayLike) -> float:
    """Expected calibration error of logits (N, C): Guo et al. 2017, eq. 3, with 15 equal-width bins."""
    y = np.asarray(labels, dtype=np.int64)
    gap, bins = _calibration_rows(y, logits)
    return float(np.abs(np.bincount(bins, weights=gap, minlength=ECE_BINS)).sum() / len(gap))


def _bootstrap_ece(labels: Ints, logits: ArrayLike, n_boot: int, rng: np.random.Generator) -> Floats:
    gap, bins = _calibration_rows(labels, logits)
    n = len(gap)
    step = max(1, _CHUNK // n)
    out: list[Floats] = []
    for start in range(0, n_boot, step):
        count = min(step, n_boot - start)
        rows = rng.integers(0, n, size=(count, n))
        cell = bins[rows] + np.arange(count)[:, None] * ECE_BINS
        sums = np.bincount(cell.ravel(), weights=gap[rows].ravel(), minlength=count * ECE_BINS)
        out.append(np.abs(sums.reshape(count, ECE_BINS)).sum(axis=1) / n)
    return np.concatenate(out)


def bootstrap(
    labels: ArrayLike, predictions: Mapping[str, ArrayLike], n_boot: int, seed: int
) -> dict[str, dict[str, Floats]]:
    """Metrics of one or more models' class ids (N,) on the *same* ``n_boot`` resamples of the rows (paired bootstrap).

    Returns:
        model name → metric name → values (R,).
    """
    y = np.asarray(labels, dtype=np.int64)
    columns = [y] + [_pair(y, p)[1] for p in predictions.values()]
    cells, counts = np.unique(np.stack(columns, axis=1), axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(y), counts / counts.sum(), size=n_boot).astype(np.float64)
    eye = np.eye(int(cells.max()) + 1)
    truth = eye[cells[:, 0]]
    result: dict[str, dict[str, Floats]] = {}
    for column, name in enumerate(predictions, start=1):
        guess = eye[cells[:, column]]
        result[name] = _from_counts(drawn @ (truth * guess), drawn @ truth, drawn @ guess)
    return result


def interval(value: float, samples: Floats) -> dict[str, float]:
    """``{"value", "low", "high"}``: the 95% percentile interval of finite ``samples`` (R,).

    The interval is widened to contain ``value``: resampling biases a calibration error upwards, and an estimate
    outside its own interval helps nobody.
    """
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(samples, [tail, 100 - tail])
    return {"value": value, "low": min(float(low), value), "high": max(float(high), value)}


def ratio_interval(value: float, samples: Floats) -> Interval:
    """`interval` over the finite ``samples`` (R,) of a ratio; all None where the ratio or every sample lacks a base."""
    finite = samples[np.isfinite(samples)]
    if not np.isfinite(value) or not finite.size:
        return {"value": None, "low": None, "high": None}
    found = interval(value, finite)
    return {"value": found["value"], "low": found["low"], "high": found["high"]}


def quotient(above: ArrayLike, below: ArrayLike) -> Floats:
    """above ÷ below, NaN where the latter is 0."""
    one, other = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    found: Floats = np.divide(one, other, out=np.full(other.shape, np.nan), where=other != 0)
    return found


def classification_quality(labels: ArrayLike, logits: ArrayLike, n_boot: int, seed: int) -> dict[str, Any]:
    """All metrics of logits (N, C) against labels (N,), each with its interval.

    Raises:
        ValueError: shapes disagree or a logit is not finite.
    """
    z = np.asarray(logits, dtype=np.float64)
    predictions = softmax(z).argmax(axis=1)
    y, p = _pair(labels, predictions)
    samples = bootstrap(y, {"model": p}, n_boot, seed)["model"]
    quality: dict[str, Any] = {"n": int(y.size)}
    for name, value in _point(y, p).items():
        quality[name] = interval(value, samples[name])
    draws = _bootstrap_ece(y, z, n_boot, np.random.default_rng(seed))
    quality["ece"] = interval(expected_calibration_error(y, z), draws)
    quality["confusion"] = confusion_matrix(y, p, z.shape[1]).tolist()
    return quality


def retention(labels: ArrayLike, base: ArrayLike, compressed: ArrayLike, n_boot: int, seed: int) -> dict[str, Interval]:
    """Compressed metric ÷ base metric on the same rows, class ids (N,), with paired-bootstrap intervals.

    Returns:
        metric → ``{"value", "low", "high"}``; all None where the base metric is 0, so that no ratio exists.
    """
    drawn = bootstrap(labels, {"base": base, "compressed": compressed}, n_boot, seed)
    whole, cut = _point(labels, base), _point(labels, compressed)
    return {
        name: ratio_interval(
            float(quotient(cut[name], whole[name])), quotient(drawn["compressed"][name], drawn["base"][name])
        )
        for name in RESAMPLED
    }
