"""A number for each text, by squared error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import Ridge

from lwc.core.arrays import Array
from lwc.core.errors import DataError, ModelError
from lwc.core.spelling import is_number
from lwc.data.labels import listed
from lwc.data.splits import Examples, load_labels
from lwc.metrics.regression import number_quality, number_retention
from lwc.models.batches import Batch
from lwc.models.forward.predict import predict
from lwc.models.head import Head
from lwc.models.head_labels import described
from lwc.models.types import Model, Tokenizer
from lwc.recipe import Evaluate, Labels, Recipe
from lwc.tasks.endpoint import Endpoint
from lwc.tasks.floors import tfidf_features
from lwc.tasks.task import Checkpoint, Judge, Say, validation_batches
from lwc.tasks.text import TextTask, compared
from lwc.tasks.text_endpoint import TextEndpoint

NUMBER = "number"
"""Name of a regressor's one output."""


class Regression(TextTask):
    """Judged by squared error, and in recovery by the squared distance from the teacher's numbers."""

    endpoint: Endpoint = TextEndpoint(classes=False)

    def labels(self, head: Head, labels: Labels) -> Labels:
        """Numbers have no names; the head must have one output."""
        _check_one(head)
        return labels

    def order(self, head: Head, labels: Labels, label_names: list[str]) -> list[int]:
        """The one output."""
        _check_one(head)
        return [0]

    def outputs(self, label_names: list[str]) -> list[str]:
        """The number."""
        return [NUMBER]

    def targets(self, label_ids: Array, label_names: list[str]) -> Array:
        """The numbers (N,) that the labels stand for."""
        return numbers_of(label_names)[label_ids]

    def start(self, recipe: Recipe, data_dir: Path, warn: Say) -> Checkpoint[Tokenizer]:
        """The numbers go into config.json: the endpoint must know which there are."""
        base = super().start(recipe, data_dir, warn)
        base.model.config.numbers = _parsed(load_labels(data_dir))
        base.model.config.problem_type = "regression"
        return base

    def judge(self, recipe: Recipe, reader: Tokenizer, data_dir: Path, teacher: Model | None = None) -> Judge:
        rows = self.rows(recipe, reader, data_dir, "validation")
        return self.judged(validation_batches(recipe, rows), rows.labels, teacher)

    def judged(self, groups: Sequence[Batch], labels: Array | None, teacher: Model | None = None) -> Judge:
        wanted = labels if teacher is None else predict(teacher, groups)[:, 0]

        def judge(model: Model) -> dict[str, float]:
            found = predict(model, groups)[:, 0]
            apart = float(((found - wanted) ** 2).mean())
            if labels is None:
                return {"squared_distance": apart, "score": -apart}
            return {"mean_absolute_error": float(np.abs(found - labels).mean()), "score": -apart}

        return judge

    def quality(
        self, logits: dict[str, Array], test: Examples, train: Examples, names: list[str], settings: Evaluate, seed: int
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        """Floors: the median of train, and TF-IDF with ridge regression."""
        n_boot, numbers = settings.bootstrap, numbers_of(names)
        labels = numbers[test.labels].astype(np.float64)
        found = {name: values[:, 0] for name, values in logits.items()}
        floors = {
            "median": np.full(len(labels), float(np.median(numbers[train.labels]))),
            "tfidf": tfidf_numbers(train, numbers, test.texts),
        }
        measured = compared(
            found,
            floors,
            lambda one: number_quality(labels, one, n_boot, seed),
            lambda base, cut: number_retention(labels, base, cut, n_boot, seed),
        )
        return measured, {name: np.abs(values - numbers).argmin(axis=1) for name, values in logits.items()}


def _check_one(head: Head) -> None:
    if len(head.outputs) != 1:
        raise ModelError(
            f"{head.place}: its head has {len(head.outputs)} outputs ({described(head.outputs)}), a regressor has one",
            "name a checkpoint that gives one number"
            + ("" if head.stays else ", or train a new head with model.head: new"),
        )


def _parsed(names: Sequence[str]) -> list[float]:
    strange = [name for name in names if not is_number(name)]
    if strange:
        raise DataError(
            f"task regression: labels {listed(strange)} are no numbers",
            "use labels: {scheme: five_class}, or give them numbers with data.labels.map",
        )
    return [float(name) for name in names]


def numbers_of(names: Sequence[str]) -> Array:
    """The numbers (C,) that label names stand for.

    Raises:
        DataError: a name is no number.
    """
    return np.array(_parsed(names), dtype=np.float32)


def tfidf_numbers(train: Examples, numbers: Array, texts: list[str]) -> Array:
    """Predictions (N,) of TF-IDF (1–2-grams) + ridge regression fitted on train only.

    Raises:
        DataError: no word occurs twice in train.
    """
    features, asked = tfidf_features(train.texts, texts)
    model = Ridge(alpha=1.0).fit(features, numbers[train.labels])
    return np.asarray(model.predict(asked), dtype=np.float64)


TASK = Regression()
