"""Histories as token rows: what is trained on, what validation asks, what scores are computed on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lwc.core.arrays import Array
from lwc.core.errors import DataError
from lwc.models.batches import Encoded, batches
from lwc.models.forward.predict import predict
from lwc.models.types import Model
from lwc.recipe import Recipe
from lwc.tasks.next_item.histories import UNKNOWN
from lwc.tasks.next_item.model import encoded
from lwc.tasks.next_item.splits import Questions, load_questions, load_train
from lwc.tasks.task import Rows


def train_rows(histories: Sequence[Sequence[int]], max_length: int) -> Encoded:
    """Train histories as rows of up to ``max_length`` inputs and the item after them; longer ones in several rows.

    Rows do not overlap in what they ask: each position of a history is asked once.
    """
    rows = []
    for history in histories:
        end = len(history)
        while end >= 2:
            start = max(0, end - max_length - 1)
            rows.append(history[start:end])
            end = start + 1
    return encoded(rows, max_length + 1)


def answers(
    view: Model, histories: Sequence[Sequence[int]], items: int, max_length: int, batch_size: int = 64
) -> Array:
    """Logits (N, V) after each history; where it is empty, zeros, which rank as the popularity list does."""
    scores: Array = np.zeros((len(histories), items), dtype=np.float32)
    known = [row for row, history in enumerate(histories) if history]
    if known:
        rows = encoded([histories[row] for row in known], max_length)
        scores[known] = predict(view, batches(rows, np.zeros(len(known)), batch_size, length_bucketed=True, seed=None))
    return scores


def answerable(questions: Questions, trained: int) -> list[int]:
    """Questions with a history and a target among the ``trained`` items: those that training can be judged on."""
    return [row for row, target in enumerate(questions.targets) if questions.seen[row] and UNKNOWN < target < trained]


def validation_questions(data_dir: Path, trained: int) -> tuple[list[list[int]], Array]:
    """Known histories and targets (N,) of the validation questions that training can be judged on.

    Raises:
        DataError: there are none.
    """
    questions = load_questions(data_dir, "validation")
    rows = answerable(questions, trained)
    if not rows:
        raise DataError(
            "no validation question has both a history and an answer that train knows",
            "use more data, or another split",
        )
    return [questions.seen[row] for row in rows], questions.targets[rows]


def calibration_rows(recipe: Recipe, data_dir: Path) -> Rows:
    """The last train item of users as the label of those before it.

    Users are drawn by ``data.calibration``; validation and test are not touched.

    Raises:
        DataError: fewer than two users have two train items.
    """
    histories = [items for items in load_train(data_dir).items if len(items) >= 2]
    order = np.random.default_rng([recipe.seed, 1]).permutation(len(histories))[: recipe.data.calibration]
    chosen = [histories[row] for row in np.sort(order)]
    if len(chosen) < 2:
        raise DataError("fewer than two users have two train items: the blocks cannot be scored", "use more data")
    labels = np.array([items[-1] for items in chosen], dtype=np.int64)
    return Rows(encoded([items[:-1] for items in chosen], recipe.model.max_length), labels)
