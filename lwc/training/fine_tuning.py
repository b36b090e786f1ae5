"""The train stage: a base model, fine-tuned from a checkpoint or trained from scratch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from lwc.core.store import write_json
from lwc.models.batches import Batch
from lwc.models.types import Model
from lwc.recipe import Recipe
from lwc.tasks.task import Checkpoint, Say, task_of
from lwc.training.loop import Objective, fit


def train_base(
    recipe: Recipe,
    data_dir: Path,
    out: Path,
    scratch: Path,
    progress: Say,
    check: Callable[[Checkpoint], None] = lambda base: None,
) -> None:
    """Train the base model on the train split; write ``model/`` and ``metrics.json``.

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

    def loss(model: Model, batch: Batch) -> Tensor:
        output = model(**task.inputs(batch))
        return task.loss(recipe, base.reader, model, output, batch)

    objective = Objective(rows, loss, task.judge(recipe, base.reader, data_dir))
    result = fit(base.model, objective, recipe.train, recipe.seed, scratch / "checkpoints", progress)
    added = task.trained(recipe, base, rows, data_dir)
    task.save(base, out / "model")
    metrics = {**asdict(result), "n_train": len(rows), **({"warnings": warnings} if warnings else {}), **added}
    write_json(out / "metrics.json", metrics)
