"""Read the test questions, once: base, unrecovered and compressed model, and three floors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lwc.core.arrays import Array
from lwc.core.errors import ModelError
from lwc.models.placement import placed
from lwc.recipe import NextItem
from lwc.tasks.next_item import floors, ranking
from lwc.tasks.next_item.histories import UNKNOWN, Catalogue
from lwc.tasks.next_item.model import load
from lwc.tasks.next_item.rows import answers
from lwc.tasks.next_item.splits import Questions, load_questions, load_train
from lwc.tasks.task import Evaluation, Measure


def model_scores(folder: Path, questions: Questions, catalogue: Catalogue, max_length: int, batch: int) -> Array:
    """Scores (N, V) of the checkpoint in ``folder``, −∞ for what each user has already.

    Raises:
        ModelError: it was trained on another catalogue, or a score is NaN or infinite.
    """
    if Catalogue.read(folder / "catalogue.json").digest() != catalogue.digest():
        raise ModelError(f"{folder} was trained on another catalogue than the data's", "run the train stage again")
    scores = answers(placed(load(folder)), questions.seen, len(catalogue), max_length, batch)
    bad = int((~np.isfinite(scores)).any(axis=1).sum())
    if bad:
        raise ModelError(
            f"{folder}: {bad} of {len(scores)} test users have NaN or infinite scores",
            "lower the learning rate or train in fp32 (precision: fp32)",
        )
    return ranking.without_seen(scores, questions.seen)


def floor_scores(task: NextItem, data_dir: Path, questions: Questions, items: int) -> dict[str, Array]:
    """Scores (N, V) of each floor, −∞ for what each user has already. Fitted on train only."""
    train = load_train(data_dir)
    scores = {
        "popularity": floors.popularity(train, items, len(questions)),
        "recent_popularity": floors.recent_popularity(train, items, questions.times, task.recent_days),
        "item_knn": floors.item_knn(train, items, questions.seen, task.neighbours),
    }
    return {name: ranking.without_seen(each, questions.seen) for name, each in scores.items()}


def ask(evaluation: Evaluation, task: NextItem) -> Measure:
    """Rank the whole catalogue for every test user with each model.

    Scores of all items (N, V) are kept of no model: three times a catalogue for each user fills the memory. Predictions
    have user, history, target and, of the compressed model, the list of the served size and its scores.

    Raises:
        ModelError: a model answers with non-finite scores, or belongs to another catalogue.
        MissingDependency: the package of the item-kNN floor is not installed, once the rest is measured.
    """
    recipe, data_dir = evaluation.recipe, evaluation.data_dir
    catalogue, test = Catalogue.read(data_dir / "catalogue.json"), load_questions(data_dir, "test")
    weights = ranking.resamples(len(test), recipe.evaluate.bootstrap, recipe.seed)
    quality: dict[str, Any] = {}
    values: dict[str, dict[str, ranking.Floats]] = {}
    lists: Array = np.empty(0, dtype=np.int64)
    best: Array = np.empty(0)
    for name, folder in evaluation.folders.items():
        evaluation.say(f"test split: {name} model on {len(test)} users")
        scores = model_scores(folder, test, catalogue, recipe.model.max_length, recipe.evaluate.batch_size)
        quality[name], values[name] = ranking.quality(scores, test.targets, weights)
        if name == "compressed":
            lists = ranking.top(scores, min(task.top_k, len(catalogue)))
            best = np.take_along_axis(scores, lists, axis=1)

    def measure() -> dict[str, Any]:
        _write_predictions(lists, best, test, catalogue, evaluation.out / "predictions.parquet")
        evaluation.say("test split: popularity, recent popularity and item-kNN")
        floors_: dict[str, Any] = {}
        for name, each in floor_scores(task, data_dir, test, len(catalogue)).items():
            floors_[name], values[name] = ranking.quality(each, test.targets, weights)
        cold = (test.targets >= catalogue.trained).astype(bool)
        truncated = sum(len(seen) > recipe.model.max_length for seen in test.seen)
        return {
            "n_train": len(load_train(data_dir).items),
            "items": len(catalogue),
            "label_names": None,
            "text_fields": [],
            "truncated": {"count": truncated, "of": len(test), "max_length": recipe.model.max_length},
            "unanswerable": {
                "target_not_in_catalogue": int((test.targets == UNKNOWN).sum()),
                "no_known_history": sum(not seen for seen in test.seen),
                "unknown_items_in_histories": int(test.skipped.sum()),
            },
            "quality": {**quality, "floors": floors_},
            "retention": ranking.retention(values["base"], values["compressed"], weights),
            "retention_unrecovered": ranking.retention(values["base"], values["unrecovered"], weights),
            # Targets that train never saw and the text of an item made known: how often they are found.
            "cold": {
                "items": len(catalogue) - catalogue.trained,
                "n": int(cold.sum()),
                **{f"hr_at_10_{name}": float(values[name]["hr_at_10"][cold].mean()) for name in quality if cold.any()},
            },
            "base_over_floors": {
                name: ranking.difference(values["base"]["ndcg_at_10"], values[name]["ndcg_at_10"], weights)
                for name in floors_
            },
        }

    return measure


def _write_predictions(lists: Array, scores: Array, test: Questions, catalogue: Catalogue, path: Path) -> None:
    # What a user has already is no answer: lists of users with long histories are shorter.
    rows = [
        [(catalogue.items[item], float(score)) for item, score in zip(*row, strict=True) if score > -np.inf]
        for row in zip(lists, scores, strict=True)
    ]
    table = pa.table(
        {
            "user": pa.array(test.users, pa.string()),
            "history": pa.array(test.histories, pa.list_(pa.string())),
            "target": pa.array(
                [catalogue.items[item] if item != UNKNOWN else None for item in test.targets], pa.string()
            ),
            "items": pa.array([[item for item, _ in row] for row in rows], pa.list_(pa.string())),
            "scores": pa.array([[score for _, score in row] for row in rows], pa.list_(pa.float32())),
        }
    )
    pq.write_table(table, path)
