"""After the last stage: gates, report, and the published repository."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from lwc.core.errors import RecipeError
from lwc.core.machine import describe
from lwc.core.store import STORE_FOLDER, Store, publish_folder
from lwc.pipeline.destination import destinations
from lwc.pipeline.run import StageResult, plan
from lwc.recipe import Recipe
from lwc.report.content_types import Environment, Report, StageTime


def finish(recipe: Recipe, results: Mapping[str, StageResult], folder: Path, models: Path) -> tuple[Report, list[Path]]:
    """Decide the gates, write ``report.*`` to ``folder``, publish the repositories.

    They go to ``models``, from where people deploy, only if the verdict is passed; otherwise they stay in ``folder``,
    and what ``models`` holds from an earlier run is left as it is.

    Returns:
        The report, and where each repository was put.
    """
    written = write_report(recipe, results, folder)
    passed, package = written["verdict"]["passed"], results["package"].path
    places = [
        publish(package / made, place, folder / made, passed) for made, place in destinations(recipe, models).items()
    ]
    publish_folder(results["verify"].path, folder / "verify")
    return written, places


def publish(made: Path, place: Path, held_back: Path, passed: bool) -> Path:
    """Copy a repository to ``place``, or, of a run that has not passed its gates, to ``held_back``; where it went."""
    if not passed:
        publish_folder(made, held_back)
        return held_back
    publish_folder(made, place)
    # One that an earlier run held back would pass for this one.
    shutil.rmtree(held_back, ignore_errors=True)
    return place


def finished(recipe: Recipe, runs: Path) -> dict[str, StageResult]:
    """The results of an earlier run of the whole line.

    Raises:
        RecipeError: a stage would have to run first.
    """
    results: dict[str, StageResult] = {}
    for planned in plan(recipe, runs):
        if planned.artifact is not None:
            results[planned.stage.name] = StageResult(planned.artifact.path, planned.artifact.seconds, True)
        elif planned.stage.cached:
            raise RecipeError(
                f"{recipe.name}: stage {planned.stage.name} has not run: {planned.reason}",
                "use `lwc run` first",
            )
        elif planned.key is not None:
            # The last measurement of a stage that is measured anew in every run.
            measured = Store(runs / STORE_FOLDER).place(planned.stage.name, planned.key)
            if not measured.is_dir():
                raise RecipeError(
                    f"{recipe.name}: {planned.stage.name} has no measurement with these settings",
                    "give the --set options of the run, or use `lwc run`",
                )
            results[planned.stage.name] = StageResult(measured, 0.0, True)
    return results


def write_report(recipe: Recipe, results: Mapping[str, StageResult], folder: Path) -> Report:
    """Decide the recipe's gates and write ``report.*`` to ``folder``."""
    from lwc.report.build import build_report

    times: dict[str, StageTime] = {
        name: {"seconds": round(result.seconds, 2), "hit": result.hit} for name, result in results.items()
    }
    paths = {name: result.path for name, result in results.items()}
    return build_report(recipe, paths, cast(Environment, describe()), times, folder)
