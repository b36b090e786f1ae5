"""Read the test split, once: base, unrecovered and compressed model, and the task's floors."""

from __future__ import annotations

from typing import Any

from lwc.core import distributed
from lwc.core.marks import LEVEL
from lwc.core.store import write_json
from lwc.tasks.task import Evaluation, Task


def evaluate(task: Task, evaluation: Evaluation) -> dict[str, Any]:
    """Measure three models and the floors on the test split; write ``evaluation.json`` and ``predictions.parquet``.

    Returns:
        The content of ``evaluation.json``.

    Raises:
        ModelError: a model answers with non-finite logits.
        DataError: the floors cannot be fitted on train.
    """
    measure = task.ask(evaluation)

    def written() -> dict[str, Any]:
        recipe = evaluation.recipe
        evaluation.out.mkdir(parents=True, exist_ok=True)
        measured = measure()
        result = {
            "task": recipe.task.name,
            "n": measured["quality"]["base"]["n"],
            "bootstrap": {"resamples": recipe.evaluate.bootstrap, "level": LEVEL, "seed": recipe.seed},
            **measured,
        }
        write_json(evaluation.out / "evaluation.json", result)
        return result

    return distributed.from_main(written)
