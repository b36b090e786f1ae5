"""The run in an experiment tracker: parameters, curves, stage times, metrics, gates and the report.

Written when the run ends, also where it fails, from what its finished stages wrote: a reused stage has its curve too.
Accelerate's trackers do the writing. They would join the processes of a run too early if they were started before it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lwc.core.errors import LwcError, MissingDependency
from lwc.core.store import read_json
from lwc.pipeline.run import flatten, plan, run_folder
from lwc.recipe import Recipe
from lwc.report.content_types import Report

PROJECT = "lwc"
"""The experiment or project in which a tracker files the run, unless its own environment variables name another."""

_SECTIONS = ("served", "quality", "retention", "ratios", "parity", "serving")


@dataclass(frozen=True)
class Kind:
    """A tracker: the module it needs, how it starts, keeps a file, and ends a run that failed."""

    module: str
    start: Callable[[Recipe, Path], Any]
    keep: Callable[[Any, Path], None]
    fail: Callable[[Any], None]


def _tensorboard(recipe: Recipe, folder: Path) -> Any:
    from accelerate.tracking import TensorBoardTracker

    del recipe
    return TensorBoardTracker(run_name="", logging_dir=folder / "tensorboard")


def _tensorboard_keep(tracker: Any, file: Path) -> None:
    if file.suffix == ".md":
        tracker.writer.add_text("report", file.read_text(encoding="utf-8"))


def _mlflow(recipe: Recipe, folder: Path) -> Any:
    from accelerate.tracking import MLflowTracker

    del folder
    return MLflowTracker(experiment_name=PROJECT, run_name=recipe.name, description=recipe.description or None)


def _mlflow_fail(tracker: Any) -> None:
    import mlflow

    del tracker
    mlflow.end_run("FAILED")


def _trackio(recipe: Recipe, folder: Path) -> Any:
    from accelerate.tracking import TrackioTracker

    del folder
    return TrackioTracker(PROJECT, name=recipe.name)


def _wandb(recipe: Recipe, folder: Path) -> Any:
    from accelerate.tracking import WandBTracker

    return WandBTracker(PROJECT, name=recipe.name, dir=str(folder))


TRACKERS: Mapping[str, Kind] = {
    "tensorboard": Kind("tensorboard", _tensorboard, _tensorboard_keep, lambda tracker: tracker.finish()),
    "mlflow": Kind("mlflow", _mlflow, lambda tracker, file: tracker.log_artifact(str(file)), _mlflow_fail),
    "trackio": Kind("trackio", _trackio, lambda tracker, file: None, lambda tracker: tracker.finish()),
    "wandb": Kind(
        "wandb", _wandb, lambda tracker, file: tracker.tracker.save(str(file), base_path=str(file.parent)),
        lambda tracker: tracker.tracker.finish(exit_code=1),
    ),
}  # fmt: skip


def require_trackers(recipe: Recipe) -> None:
    """Raise `MissingDependency` for a tracker of the recipe that is not installed."""
    for name in recipe.tracking:
        if importlib.util.find_spec(TRACKERS[name].module) is None:
            raise MissingDependency(f"tracking: {name} is not installed", f"pip install 'lwc[{name}]'")


@dataclass
class Tracked:
    """What the run adds when it has a verdict; see `tracked`."""

    report: Report | None = None
    files: list[Path] = field(default_factory=list)

    def decided(self, report: Report, folder: Path) -> None:
        """The run has a verdict, and its report is in ``folder``."""
        self.report, self.files = report, [folder / f"report.{kind}" for kind in ("html", "md", "json")]


@contextmanager
def tracked(recipe: Recipe, runs: Path) -> Iterator[Tracked]:
    """Give the run in this block to the recipe's trackers when it ends; a run without a passed verdict is failed.

    Raises:
        LwcError: a tracker cannot be written to; where the run itself failed, its error is raised and this one noted.
    """
    run = Tracked()
    if not recipe.tracking:
        yield run
        return
    try:
        yield run
    except BaseException as error:
        if isinstance(error, Exception):
            try:
                _write(recipe, runs, run, failed=True)
            except LwcError as second:
                error.add_note(second.message)
        raise
    _write(recipe, runs, run, failed=run.report is not None and not run.report["verdict"]["passed"])


def _write(recipe: Recipe, runs: Path, run: Tracked, failed: bool) -> None:
    for name in recipe.tracking:
        kind = TRACKERS[name]
        try:
            tracker = kind.start(recipe, run_folder(runs, recipe))
            tracker.start()
            settings = flatten(recipe.model_dump(mode="json", exclude={"tracking"}))
            tracker.store_init_configuration({key: str(value) for key, value in settings.items()})
            for step, values in _curves(recipe, runs):
                tracker.log(values, step=step)
            tracker.log(_figures(run.report) | {"failed": float(failed)}, step=0)
            for file in run.files:
                kind.keep(tracker, file)
            kind.fail(tracker) if failed else tracker.finish()
        except Exception as error:  # of its own kinds: network, credentials, storage
            raise LwcError(
                f"tracking: {name}: {type(error).__name__}: {error}",
                "the run's own files are complete; repair the tracker and run the same command to log it",
            ) from error


def _curves(recipe: Recipe, runs: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Evaluations of training and recovery by step, and the seconds of each finished stage at step 0."""
    for planned in plan(recipe, runs):
        if planned.artifact is None:
            continue
        name, metrics = planned.stage.name, planned.artifact.path / "metrics.json"
        yield 0, {f"seconds/{name}": planned.artifact.seconds}
        history = read_json(metrics).get("history", []) if metrics.is_file() else []
        for entry in history:
            yield int(entry["step"]), {f"{name}/{key}": value for key, value in entry.items() if key != "step"}


def _figures(report: Report | None) -> dict[str, float]:
    """The figures of a report that people compare runs by, and its gates: 1 passed, 0 failed."""
    if report is None:
        return {}
    found = flatten({section: report.get(section) for section in _SECTIONS})
    figures = {key: float(value) for key, value in found.items() if isinstance(value, int | float)}
    return figures | {f"gates/{gate['metric']}": float(gate["passed"]) for gate in report["gates"]}
