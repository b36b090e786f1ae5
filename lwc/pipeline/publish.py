"""After the last stage: gates, the published model and repositories, and the report."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

from lwc.core.errors import RecipeError
from lwc.core.machine import describe
from lwc.core.store import STORE_FOLDER, Store, publish_folder
from lwc.pipeline.destination import destinations
from lwc.pipeline.run import StageResult, plan
from lwc.recipe import Recipe
from lwc.report.content_types import Environment, Report, StageTime

MODEL = "model"
"""In a run folder: the compressed model, with its card."""


def finish(recipe: Recipe, results: Mapping[str, StageResult], folder: Path, models: Path) -> Report:
    """Decide the gates; publish the model to ``folder`` and the repositories; write ``report.*``, which names them all.

    The repositories go to ``models``, from where people deploy, only if the verdict is passed; otherwise they stay in
    ``folder``, and what ``models`` holds from an earlier run is left as it is.
    """
    report = _decided(recipe, results)
    passed, package = report["verdict"]["passed"], results["package"].path
    _publish_model(report, results, folder)
    places = [
        publish(package / made, place, folder / made, passed) for made, place in destinations(recipe, models).items()
    ]
    publish_folder(results["verify"].path, folder / "verify")
    _write(report, results, folder, places, passed)
    return report


def rewrite(recipe: Recipe, results: Mapping[str, StageResult], folder: Path, models: Path) -> Report:
    """Decide the gates again; write ``report.*`` and the model with its card. Repositories stay where they are.

    The report names those of ``models``, or else of ``folder``, whose files are still those of this run.
    """
    report = _decided(recipe, results)
    _publish_model(report, results, folder)
    package, wanted = results["package"].path, destinations(recipe, models)
    published = [place for made, place in wanted.items() if _has_files_of(package / made, place)]
    held_back = [folder / made for made in wanted if _has_files_of(package / made, folder / made)]
    _write(report, results, folder, published or held_back, bool(published))
    return report


def _has_files_of(made: Path, place: Path) -> bool:
    files = [path.relative_to(made) for path in made.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    return all((place / name).is_file() and filecmp.cmp(made / name, place / name, shallow=False) for name in files)


def _publish_model(report: Report, results: Mapping[str, StageResult], folder: Path) -> None:
    from lwc.report.model_card import model_card

    made = results["recover"].path / "model"
    publish_folder(made, folder / MODEL, {"README.md": model_card(report, made)})


def _write(
    report: Report, results: Mapping[str, StageResult], folder: Path, repositories: Sequence[Path], published: bool
) -> None:
    """Write ``report.*`` with all artifacts named: last, because what it names must be there."""
    from lwc.report.build import write_report

    graphs: dict[Literal["base", "compressed", "served"], str] = {}
    if "export" in results:
        exported, served = (report["export"] or {}).get("files", {}), report["served"]
        graphs = {name: file["path"] for name, file in exported.items()}
        graphs |= {"served": served["path"]} if served else {}
        graphs = {name: _relative(results["export"].path / path, folder) for name, path in graphs.items()}
    report["artifacts"] = {
        "model": MODEL,
        "onnx": graphs,
        "repositories": [_relative(place, folder) for place in repositories],
        "published": published,
        "report": [],
    }
    write_report(report, {name: result.path for name, result in results.items()}, folder)


def _relative(path: Path, folder: Path) -> str:
    """Without a path of the machine, so that the folders can be moved together."""
    return Path(os.path.relpath(path, folder)).as_posix()


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


def _decided(recipe: Recipe, results: Mapping[str, StageResult]) -> Report:
    from lwc.report.build import decide_report

    times: dict[str, StageTime] = {
        name: {"seconds": round(result.seconds, 2), "hit": result.hit} for name, result in results.items()
    }
    paths = {name: result.path for name, result in results.items()}
    return decide_report(recipe, paths, cast(Environment, describe()), times)
