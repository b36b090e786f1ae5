"""`lwc sweep`: one recipe at several ratios and strategies. The base is trained once; the rest is made for each."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lwc.core.errors import LwcError, RecipeError, TargetError
from lwc.core.marks import Interval, Intervals
from lwc.core.store import STORE_FOLDER, read_json
from lwc.pipeline.run import Event, StageResult
from lwc.pipeline.run import run as run_line
from lwc.pipeline.stages import check_stage
from lwc.recipe import TASKS, Recipe, Select, Sweep
from lwc.report.frontier import Variant

Run = Callable[[Recipe, Path, Event, str | None], Mapping[str, StageResult]]
"""`lwc.pipeline.run.run`, or a stand-in."""

# Stages before a variant's own; None: before any. Only an unreachable target, found there too, is the variant's own.
_SHARED = (None, "data", "train")


def _strategies(recipe: Recipe, sweep: Sweep) -> Iterator[tuple[str, Select]]:
    """(ending of the name, strategy): no ending for one strategy, a number where two have the same name."""
    choices = sweep.select or (recipe.select,)
    often = Counter(choice.strategy for choice in choices)
    seen: Counter[str] = Counter()
    for choice in choices:
        seen[choice.strategy] += 1
        index = f"-{seen[choice.strategy]}" if often[choice.strategy] > 1 else ""
        yield (f"-{choice.strategy}{index}" if len(choices) > 1 else ""), choice


def _problem(item: Mapping[str, Any]) -> str:
    where = ".".join(map(str, item["loc"]))
    said = str(item["msg"]).removeprefix("Value error, ")
    return f"{where}: {said}" if where else said


def variants(recipe: Recipe) -> list[Recipe]:
    """One recipe for each (ratio, strategy) of ``recipe.sweep``, in that order, without a sweep of its own.

    Raises:
        RecipeError: no sweep section, a ratio listed twice, or a variant that is no valid recipe; told before
            anything runs.
    """
    sweep = recipe.sweep
    if sweep is None:
        raise RecipeError(
            f"{recipe.name}: has no sweep section", "add one, e.g. `sweep: {ratios: [1.5x, 2x, 3x]}`, or use `lwc run`"
        )
    found: list[Recipe] = []
    for ratio in sweep.ratios:
        for ending, select in _strategies(recipe, sweep):
            changes = {
                "name": f"{recipe.name}-{ratio:g}x{ending}",
                "target": {"ratio": ratio, "of": recipe.target.of},
                "select": select.model_dump(),
                "sweep": None,
            }
            try:
                found.append(Recipe.model_validate({**recipe.model_dump(), **changes}))
            except ValidationError as error:
                told = "; ".join(map(_problem, error.errors()))
                raise RecipeError(
                    f"{recipe.name}: {ratio:g}x with {select.strategy} is no valid recipe: {told}",
                    "change sweep.ratios or sweep.select",
                ) from error
    twice = [name for name, count in Counter(one.name for one in found).items() if count > 1]
    if twice:
        raise RecipeError(
            f"{recipe.name}: sweep.ratios gives {twice[0]} twice", "list each ratio once, with at most six digits"
        )
    return found


def _content(results: Mapping[str, StageResult], stage: str, name: str) -> dict[str, Any]:
    """A stage's JSON; empty where the stage did not run."""
    return dict(read_json(results[stage].path / name)) if stage in results else {}


def _row(variant: Recipe, recipe: Recipe, results: Mapping[str, StageResult]) -> Variant:
    """What the stages left, None where one did not run. Size and latency are those of the exported pair."""
    selection = _content(results, "select", "selection.json")
    evaluation = _content(results, "evaluate", "evaluation.json")
    planned: Mapping[str, float] = selection.get("ratios") or {}
    exported: Mapping[str, float] = _content(results, "export", "export.json").get("ratios") or {}
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
        "compressed": shown(quality.get("compressed")),
        "floor": shown((quality.get("floors") or {}).get(headline.floors[0][0])),
        "retention": shown(evaluation.get("retention")),
        "seconds": sum(result.seconds for result in results.values()) if results else None,
        "fresh_seconds": sum(result.seconds for result in results.values() if not result.hit) if results else None,
        "error": None,
    }


def sweep(recipe: Recipe, runs: Path, event: Event, run: Run | None = None, until: str = "export") -> list[Variant]:
    """Run every variant up to ``until``; a variant that fails is recorded as such and the rest go on.

    Stages that variants share are made once, and what the uncut model answers in recovery is kept in the store until
    the last variant is made. ``event`` texts start with the variant's name; ``run`` stands in for the pipeline.

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
    for variant in variants(recipe):
        reached: list[str | None] = [None]

        def told(kind: str, stage: str, text: str, name: str = variant.name, at: list[str | None] = reached) -> None:
            at[0] = stage
            event(kind, stage, f"{name}: {text}")

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
