"""What the recipe's task changes: the rows a model reads, what it learns from, and how a validation split judges it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lwc.core.arrays import Array
from lwc.core.errors import DataError
from lwc.data.splits import load_labels, load_split
from lwc.metrics.classification import macro_f1
from lwc.models.batches import Batch, Encoded, batches, encode, slices
from lwc.models.forward.predict import loss_and_accuracy, predict
from lwc.models.losses import distillation_loss
from lwc.recipe import Recipe
from lwc.training.loop import Judge

VALIDATION_BATCH = 64


def numbers_of(names: Sequence[str]) -> Array:
    """The numbers (C,) that label names stand for.

    Raises:
        DataError: a name is no number.
    """
    try:
        return np.array([float(name) for name in names], dtype=np.float32)
    except ValueError as error:
        raise DataError(
            f"task regression: labels {list(names)} are no numbers", "use labels: {scheme: five_class}"
        ) from error


def rows_of(
    recipe: Recipe, tokenizer: Any, texts: Sequence[str], label_ids: Array, names: Sequence[str]
) -> tuple[Encoded, Array | None]:
    """Token rows, and what is learnt from them: class ids (N,), numbers (N,), or None where tokens are the labels.

    A language model reads all texts as one stream in slices of ``model.max_length`` tokens.
    """
    length = recipe.model.max_length
    if recipe.task.kind == "causal_lm":
        return slices(tokenizer, texts, length), None
    encoded = encode(tokenizer, texts, length)
    return encoded, numbers_of(names)[label_ids] if recipe.task.kind == "regression" else label_ids


def split_rows(recipe: Recipe, tokenizer: Any, data_dir: Path, split: str) -> tuple[Encoded, Array | None]:
    """`rows_of` a split of the data stage."""
    examples = load_split(data_dir, split)
    return rows_of(recipe, tokenizer, examples.texts, examples.labels, load_labels(data_dir))


def in_batches(recipe: Recipe, rows: tuple[Encoded, Array | None], size: int) -> list[Batch]:
    """Batches in a fixed order, rows of about equal length together."""
    return batches(*rows, size, length_bucketed=True, seed=None)


def validation_batches(recipe: Recipe, held_out: tuple[Encoded, Array | None]) -> list[Batch]:
    """Validation rows in batches that fit: a language model's logits are as many as the vocabulary for each token."""
    return in_batches(recipe, held_out, recipe.train.batch_size if held_out[1] is None else VALIDATION_BATCH)


def judge_of(recipe: Recipe, held_out: tuple[Encoded, Array | None], teacher: Any | None = None) -> Judge:
    """How a model in training is judged on the validation rows.

    Without a teacher by macro-F1, squared error or loss. With one, a classifier by its closeness to the teacher's
    answers (KL) and a regressor by its squared distance from them: with a few hundred rows that tells more than the
    labels. A language model is judged by its loss in both cases: every token is a label.
    """
    labels, groups = held_out[1], validation_batches(recipe, held_out)
    if labels is None:
        return _language_judge(groups)
    target = None if teacher is None else torch.from_numpy(predict(teacher, groups))

    def logits_of(model: Any) -> Array:
        return predict(model, groups)

    if recipe.task.kind == "regression":
        return _number_judge(logits_of, labels, target)
    return _class_judge(logits_of, labels, target)


def _class_judge(logits_of: Callable[[Any], Array], labels: Array, target: torch.Tensor | None) -> Judge:
    def judge(model: Any) -> dict[str, float]:
        logits = logits_of(model)
        predicted = logits.argmax(axis=1)
        f1, accuracy = macro_f1(labels, predicted), float((predicted == labels).mean())
        score = f1 if target is None else -float(distillation_loss(torch.from_numpy(logits), target, 1.0))
        return {"macro_f1": f1, "accuracy": accuracy, "score": score}

    return judge


def _number_judge(logits_of: Callable[[Any], Array], labels: Array, target: torch.Tensor | None) -> Judge:
    wanted = labels if target is None else target[:, 0].numpy()

    def judge(model: Any) -> dict[str, float]:
        found = logits_of(model)[:, 0]
        error = float(np.abs(found - labels).mean())
        return {"mean_absolute_error": error, "score": -float(((found - wanted) ** 2).mean())}

    return judge


def _language_judge(groups: Sequence[Batch]) -> Judge:
    def judge(model: Any) -> dict[str, float]:
        was_training = model.training
        model.eval()
        loss, accuracy = loss_and_accuracy(model, groups)
        model.train(was_training)
        return {"perplexity": math.exp(loss), "next_token_accuracy": accuracy, "score": -loss}

    return judge
