"""Evaluation of a regressor: three models and two floors on the test split."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.linear_model import Ridge

from lwc.core.arrays import Array
from lwc.data.splits import Examples
from lwc.evaluation.floors import tfidf_features
from lwc.metrics.regression import number_quality, number_retention


def tfidf_numbers(train: Examples, numbers: Array, texts: list[str]) -> Array:
    """Predictions (N,) of TF-IDF (1–2-grams) + ridge regression fitted on train only.

    Raises:
        DataError: no word occurs twice in train.
    """
    features, asked = tfidf_features(train.texts, texts)
    model = Ridge(alpha=1.0).fit(features, numbers[train.labels])
    return np.asarray(model.predict(asked), dtype=np.float64)


def numbers_result(
    predicted: dict[str, Array], test: Examples, train: Examples, numbers: Array, n_boot: int, seed: int
) -> dict[str, Any]:
    """``quality`` and both retentions of ``evaluation.json``; floors: the median of train, and TF-IDF + ridge.

    Args:
        predicted: numbers (N,) of ``base``, ``unrecovered`` and ``compressed``.
        numbers: the number (C,) of each label id.
    """
    labels = numbers[test.labels].astype(np.float64)
    quality: dict[str, Any] = {name: number_quality(labels, values, n_boot, seed) for name, values in predicted.items()}
    median = np.full(len(labels), float(np.median(numbers[train.labels])))
    quality["floors"] = {
        "median": number_quality(labels, median, n_boot, seed),
        "tfidf": number_quality(labels, tfidf_numbers(train, numbers, test.texts), n_boot, seed),
    }
    return {
        "quality": quality,
        "retention": number_retention(labels, predicted["base"], predicted["compressed"], n_boot, seed),
        "retention_unrecovered": number_retention(labels, predicted["base"], predicted["unrecovered"], n_boot, seed),
    }
