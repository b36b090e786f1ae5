"""`lwc sweep`: one recipe at several ratios and strategies. The base is trained once; the rest is made for each."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lwc.core.errors import LwcError, TargetError
from lwc.core.marks import Interval, Intervals
from lwc.core.store import STORE_FOLDER, read_json
from lwc.pipeline.run import Event, StageResult
from lwc.pipeline.run import run as run_line
from lwc.pipeline.stages import check_stage
from lwc.recipe import TASKS, Recipe
from lwc.recipe.variants import variants
from lwc.report.frontier import Variant

Run = Callable[[Recipe, Path, Event, str | None], Mapping[str, StageResult]]
"""`lwc.pipeline.run.run`, or a stand-in."""

# Stages before a variant's own; None: before any. Only an unreachable target, found there too, is the variant's own.
_SHARED = (None, "data", "train")


def _content(results: Mapping[str, StageResult], stage: str, name: str) -> dict[str, Any]:
    """A stage's JSON; empty where the stage did not run."""
    return dict(read_json(results[stage].path / name)) if stage in results else {}


def _row(variant: Recipe, recipe: Recipe, results: Mapping[str, StageResult]) -> Variant:
    """What the stages left, None where one did not run. Size, latency and quality are those of what is served."""
    selection = _content(results, "select", "selection.json")
    evaluation = _content(results, "evaluate", "evaluation.json")
    planned: Mapping[str, float] = selection.get("ratios") or {}
    served: Mapping[str, Any] = _content(results, "export", "export.json").get("served") or {}
    exported: Mapping[str, float] = served.get("ratios") or {}
    quality: Mapping[str, Any] = evaluation.get("quality") or {}
    headline = TASKS[recipe.task.name].headline

    def shown(found: Mapping[str, Interval] | None) -> Intervals | None:
        return {metric.key: found[metric.key] for metric in headline.metrics} if found else None

    return {
        "recipe": recipe.name,
        "task": recipe.task.name,
        "name": variant.name,
        "ratio": variant.target.ratio,
        "of": variant.target.of,
        "strategy": variant.select.strategy,
        "select": variant.select.model_dump(mode="json"),
        "kept": selection.get("kept"),
        "ratios": {
            "blocks": planned.get("blocks"),
            "params": planned.get("params"),
            "size": exported.get("size"),
            "latency": exported.get("latency"),
        },
        "base": shown(quality.get("base")),
        "unrecovered": shown(quality.get("unrecovered")),
        "compressed": shown(served.get("quality") or quality.get("compressed")),
        "floor": shown((quality.get("floors") or {}).get(headline.floors[0][0])),
        "retention": shown(served.get("retention") or evaluation.get("retention")),
        "seconds": sum(result.seconds for result in results.values()) if results else None,
        "fresh_seconds": sum(result.seconds for result in results.values() if not result.hit) if results else None,
        "error": None,
    }


def sweep(recipe: Recipe, runs: Path, event: Event, run: Run | None = None, until: str = "export") -> list[Variant]:
    """Run every variant up to ``until``; a variant that fails is recorded as such and the rest go on.

    Stages that variants share are made once, and what the uncut model answers in recovery is kept in the store until
    the last variant is made. An event of kind ``variant`` precedes those of each variant; a warning or note about the
    data, which are the same for all, is passed on once. ``run`` stands in for the pipeline.

    Returns:
        A row for each variant, in order.

    Raises:
        RecipeError: see `variants`; or ``until`` is no stage.
        LwcError: of what all variants share, the data and the base.
    """
    check_stage(until)
    answers = runs / STORE_FOLDER / "teacher"
    run = run or partial(run_line, answers=answers)
    rows: list[Variant] = []
    said: set[str] = set()
    asked = variants(recipe)
    for number, variant in enumerate(asked, start=1):
        reached: list[str | None] = [None]
        event("variant", "", f"{variant.name} ({number} of {len(asked)})")

        def told(kind: str, stage: str, text: str, at: list[str | None] = reached) -> None:
            at[0] = stage
            if kind in ("warning", "note"):
                if text in said:
                    return
                said.add(text)
            event(kind, stage, text)

        try:
            rows.append(_row(variant, recipe, run(variant, runs, told, until)))
        except LwcError as problem:
            if reached[0] in _SHARED and not isinstance(problem, TargetError):
                raise  # the next variant would fail too, after the same hours
            rows.append(_row(variant, recipe, {}))
            rows[-1]["error"] = {
                "stage": reached[0], "message": problem.message, "hint": problem.hint, "exit_code": problem.exit_code,
            }  # fmt: skip
    shutil.rmtree(answers, ignore_errors=True)
    return rows
