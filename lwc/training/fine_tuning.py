"""The train stage: a base model, fine-tuned from a checkpoint, trained from scratch, or a checkpoint as it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from lwc.core import distributed
from lwc.core.store import write_json
from lwc.models.batches import Batch
from lwc.models.placement import placed
from lwc.models.types import Model
from lwc.recipe import Recipe
from lwc.tasks.task import Checkpoint, Say, task_of
from lwc.training.loop import Objective, TrainingResult, fit


def train_base(
    recipe: Recipe,
    data_dir: Path,
    out: Path,
    scratch: Path,
    progress: Say,
    check: Callable[[Checkpoint], None] = lambda base: None,
) -> None:
    """Train the base model on the train split, unless the recipe says ``skip``; write ``model/`` and ``metrics.json``.

    ``check`` sees the base before it is trained, and raises where the training would be for nothing.

    Raises:
        ModelError: the checkpoint cannot be used, or its family has no row.
    """
    task = task_of(recipe)
    warnings: list[str] = []
    base = task.start(recipe, data_dir, warnings.append)
    for warning in warnings:
        progress(f"warning: {warning}")
    check(base)
    rows = task.rows(recipe, base.reader, data_dir, "train")

    judge = task.judge(recipe, base.reader, data_dir)

    def loss(model: Model, batch: Batch) -> Tensor:
        output = model(**task.inputs(batch))
        return task.loss(recipe, base.reader, model, output, batch)

    if recipe.train.skip:
        progress("the checkpoint is the base as it is: nothing is trained")
        started = time.monotonic()
        validation = distributed.broadcast(judge(placed(base.model)))
        result = TrainingResult(0, validation, 0, [], time.monotonic() - started, 0)
    else:
        objective = Objective(rows, loss, judge)
        result = fit(base.model, objective, recipe.train, recipe.seed, scratch / "checkpoints", progress)
    added = task.trained(recipe, base, rows, data_dir)
    task.save(base, out / "model")
    metrics = {
        **asdict(result),
        "skipped": recipe.train.skip,
        "n_train": len(rows),
        **({"warnings": warnings} if warnings else {}),
        **added,
    }
    write_json(out / "metrics.json", metrics)
