"""`lwc.run`: a recipe from end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from lwc.api.settings import told
from lwc.core.progress import Say

if TYPE_CHECKING:
    from lwc.recipe import Recipe
    from lwc.recipe.file import Check
    from lwc.report.content_types import Report


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        report: the content of ``report.json``: quality with intervals, retention, ratios, latency, served figures.
        passed: whether every gate passed and the target was reached; only then the repository is published.
        folder: ``runs/NAME`` with the report.
    """

    report: Report = field(repr=False)
    passed: bool
    folder: Path

    @property
    def model(self) -> Path:
        """The compressed model as a Hugging Face folder with its model card."""
        made = self.report["artifacts"]
        assert made is not None  # a run's report has them
        return self.folder / made["model"]


def read_recipe(path: Path, overrides: Sequence[str], *more: Check) -> Recipe:
    """The recipe of a file, with overrides applied, and its gates and the variants of its sweep checked.

    ``more`` are further checks, whose findings are listed with the recipe's other problems.
    """
    from lwc.recipe.file import load_recipe
    from lwc.recipe.variants import unfit_variants
    from lwc.report.gate_names import CHECKS

    return load_recipe(path, overrides, [*CHECKS, unfit_variants, *more])


def run(
    recipe: str | PathLike[str],
    *,
    overrides: Sequence[str] = (),
    runs: str | PathLike[str] = "runs",
    triton_models: str | PathLike[str] = "triton_models",
    progress: Say | None = None,
) -> Run:
    """Run a recipe end to end, as ``lwc run`` does: finished stages are reused, a killed run resumes.

    A run that fails a gate is a result, not an error: see `Run.passed`.

    Args:
        recipe: the YAML file.
        overrides: single keys to change, such as ``"train.epochs=1"``.
        runs: folder for runs and the stage store.
        triton_models: folder that the repository is published to if the gates pass.
        progress: called with ``STAGE: what it does``; by default the logger ``lwc`` at level INFO.

    Raises:
        LwcError: the recipe is wrong, something it needs is missing, or a stage failed; ``hint`` says what to do.
    """
    from lwc.api.state import own_state
    from lwc.pipeline.preflight import MACHINE, Subject, run_checks, serves
    from lwc.pipeline.publish import finish
    from lwc.pipeline.run import run as run_stages
    from lwc.pipeline.run import run_folder
    from lwc.pipeline.stages import stages_until
    from lwc.pipeline.tracking import tracked
    from lwc.serving.triton.environment import ensure

    say, base, models = told(progress), Path(runs), Path(triton_models)
    loaded = read_recipe(Path(recipe), overrides)
    subject = Subject(loaded, stages_until(None), models=models)
    run_checks(MACHINE, subject)
    if serves(subject):
        ensure(say)
    folder = run_folder(base, loaded)
    with own_state(), tracked(loaded, base) as tracking:
        results = run_stages(loaded, base, lambda kind, stage, text: say(f"{stage}: {text}") if text else None)
        report = finish(loaded, results, folder, models)
        tracking.decided(report, folder)
    return Run(report, report["verdict"]["passed"], folder)
