"""A text's class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from lwc.core.arrays import Array
from lwc.core.errors import DataError
from lwc.data.splits import Examples
from lwc.metrics.classification import classification_quality, macro_f1, retention
from lwc.models.batches import Batch
from lwc.models.forward.predict import predict
from lwc.models.head import Head
from lwc.models.losses import distillation_loss
from lwc.models.types import Model, Tokenizer
from lwc.recipe import Evaluate, Labels, Recipe
from lwc.tasks.endpoint import Endpoint
from lwc.tasks.floors import tfidf_features
from lwc.tasks.task import Judge, validation_batches
from lwc.tasks.text import TextTask, compared
from lwc.tasks.text_endpoint import TextEndpoint

_SMALLEST = 1e-12  # stands for probability 0 under the logarithm


class Classification(TextTask):
    """Cross-entropy; judged by macro-F1, and in recovery by the KL divergence from the teacher."""

    endpoint: Endpoint = TextEndpoint()

    def labels(self, head: Head, labels: Labels) -> Labels:
        """The classes are those of the head, in its order."""
        return head.labels(labels)

    def order(self, head: Head, labels: Labels, label_names: list[str]) -> list[int]:
        """By name."""
        return head.order(labels, label_names)

    def outputs(self, label_names: list[str]) -> list[str]:
        """One output a class."""
        return label_names

    def targets(self, label_ids: Array, label_names: list[str]) -> Array:
        """Class ids (N,)."""
        return label_ids

    def judge(self, recipe: Recipe, reader: Tokenizer, data_dir: Path, teacher: Model | None = None) -> Judge:
        """With a few hundred rows, closeness to the teacher says more than the labels."""
        rows = self.rows(recipe, reader, data_dir, "validation")
        return self.judged(validation_batches(recipe, rows), rows.labels, teacher)

    def judged(self, groups: Sequence[Batch], labels: Array | None, teacher: Model | None = None) -> Judge:
        target = None if teacher is None else torch.from_numpy(predict(teacher, groups))

        def judge(model: Model) -> dict[str, float]:
            logits = predict(model, groups)
            figures = {}
            if labels is not None:
                predicted = logits.argmax(axis=1)
                figures = {"macro_f1": macro_f1(labels, predicted), "accuracy": float((predicted == labels).mean())}
            if target is None:
                return {**figures, "score": figures["macro_f1"]}
            apart = float(distillation_loss(torch.from_numpy(logits), target, 1.0))
            return {**(figures or {"kl_divergence": apart}), "score": -apart}

        return judge

    def quality(
        self, logits: dict[str, Array], test: Examples, train: Examples, names: list[str], settings: Evaluate, seed: int
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        """Floors: the majority class, and TF-IDF with logistic regression."""
        labels, n_boot = test.labels, settings.bootstrap
        floors = {
            "majority": majority_logits(train.labels, len(names), len(test)),
            "tfidf": tfidf_logits(train, test.texts, len(names), seed),
        }
        measured = compared(
            logits,
            floors,
            lambda values: classification_quality(labels, values, n_boot, seed),
            lambda base, cut: retention(labels, base.argmax(axis=1), cut.argmax(axis=1), n_boot, seed),
        )
        return measured, {name: values.argmax(axis=1) for name, values in logits.items()}


def majority_logits(train_labels: NDArray[np.int64], classes: int, rows: int) -> NDArray[np.float64]:
    """Log class frequencies of train, (rows, classes): a model that knows nothing but the balance."""
    share = np.bincount(train_labels, minlength=classes) / len(train_labels)
    return np.tile(np.log(np.maximum(share, _SMALLEST)), (rows, 1))


def tfidf_logits(train: Examples, texts: list[str], classes: int, seed: int) -> NDArray[np.float64]:
    """Log-probabilities (N, classes) of TF-IDF (1–2-grams) + logistic regression fitted on train only.

    Raises:
        DataError: train contains a single class, or no word occurs twice.
    """
    if len(np.unique(train.labels)) < 2:
        raise DataError("the train split contains a single class", "check the label column and scheme of `data`")
    features, asked = tfidf_features(train.texts, texts)
    model = LogisticRegression(C=10, max_iter=1000, random_state=seed).fit(features, train.labels)
    out = np.full((len(texts), classes), np.log(_SMALLEST))
    # A class that train lacks has no column of its own: columns are placed by class id.
    out[:, model.classes_] = np.log(np.maximum(model.predict_proba(asked), _SMALLEST))
    return out


TASK = Classification()
