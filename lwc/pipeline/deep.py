"""`lwc validate --deep`: everything that can be known of a run before training, with the data and the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lwc.pipeline.preflight import DATA, MACHINE, RECIPE, Subject, run_checks
from lwc.pipeline.run import Event, run
from lwc.pipeline.stages import stages_until
from lwc.recipe import Recipe

UNCHECKED = (
    "what training decides: accuracy, divergence, answers in int8 and fp16, the gates",
    "the ONNX export and its parity, latency (also as a target), and memory",
)
"""What only the run itself finds out."""


def validate_deeply(
    recipe: Recipe, runs: Path, models: Path, until: str | None, event: Event, say: Callable[[str], None]
) -> None:
    """Run every check that the stages up to ``until`` need; ``say`` gets a line for each that passed, and warnings.

    The data stage is run, and kept for `lwc run`.

    Raises:
        LwcError: of the first check that fails.
    """

    def checked(title: str) -> None:
        say(f"checked: {title}")

    stages = stages_until(until)
    subject = Subject(recipe, [*stages, *(["sweep"] if recipe.sweep else [])], models=models)
    run_checks(MACHINE, subject, checked)
    run_checks(RECIPE, subject, checked)
    data = run(recipe, runs, event, until="data")["data"].path
    checked("the data stage, which `lwc run` will reuse")
    subject = replace(subject, data=data, place=runs)
    run_checks(DATA, subject, checked)
    if len(stages) > 1:
        from lwc.pipeline.before_training import BASE
        from lwc.tasks.task import task_of

        base = task_of(recipe).start(recipe, data, lambda warning: say(f"warning: {warning}"))
        checked("the model and its reader load")
        run_checks(BASE, replace(subject, base=base), checked)
