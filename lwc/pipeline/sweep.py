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
from lwc.core.store import read_json
from lwc.pipeline.run import STORE_FOLDER, Event, StageResult
from lwc.pipeline.run import run as run_line
from lwc.pipeline.stages import check_stage
from lwc.recipe import Recipe, Select, Sweep

Run = Callable[[Recipe, Path, Event, str | None], Mapping[str, StageResult]]
"""`lwc.pipeline.run.run`, or what stands for it."""

_MODELS = ("base", "unrecovered", "compressed", "majority")
_METRICS = ("accuracy", "macro_f1")
# Before a variant's own stages; None: before any. A target out of its reach is told in them too, and is its own.
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
    if recipe.task.kind != "classification":
        raise RecipeError(
            f"{recipe.name}: sweeps are drawn by accuracy and macro-F1, which task {recipe.task.kind} does not have",
            "use `lwc run` for each ratio",
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


def _asked(variant: Recipe, recipe: Recipe) -> dict[str, Any]:
    """A row of which nothing is measured yet."""
    return {
        "recipe": recipe.name,
        "name": variant.name,
        "ratio": variant.target.ratio,
        "of": variant.target.of,
        "strategy": variant.select.strategy,
        "select": variant.select.model_dump(mode="json"),
        "kept": None,
        "ratios": dict.fromkeys(("blocks", "params", "size", "latency")),
        **dict.fromkeys(_MODELS),
        "retention": None,
        "seconds": None,
        "fresh_seconds": None,
        "error": None,
    }


def _measured(results: Mapping[str, StageResult]) -> dict[str, Any]:
    """What the stages left. Size and latency are of the exported pair, so None where export did not run."""
    selection = _content(results, "select", "selection.json")
    evaluation = _content(results, "evaluate", "evaluation.json")
    planned: Mapping[str, Any] = selection.get("ratios") or {}
    exported: Mapping[str, Any] = _content(results, "export", "export.json").get("ratios") or {}
    found: Mapping[str, Any] = evaluation.get("quality") or {}
    quality = {**found, **(found.get("floors") or {})}
    kept: Mapping[str, Any] = evaluation.get("retention") or {}
    return {
        "kept": selection.get("kept"),
        "ratios": {
            **{name: planned.get(name) for name in ("blocks", "params")},
            **{name: exported.get(name) for name in ("size", "latency")},
        },
        **{model: {key: quality[model][key] for key in _METRICS} if model in quality else None for model in _MODELS},
        "retention": {key: kept.get(key) for key in _METRICS} if kept else None,
        "seconds": sum(result.seconds for result in results.values()),
        "fresh_seconds": sum(result.seconds for result in results.values() if not result.hit),
    }


def sweep(
    recipe: Recipe, runs: Path, event: Event, run: Run | None = None, until: str = "export"
) -> list[dict[str, Any]]:
    """Run every variant up to ``until``; a variant that fails is recorded as such and the rest go on.

    What the uncut model answers in recovery is kept in the store until the last variant is made.

    Args:
        recipe: with a sweep section.
        runs: where runs and the stage store live; stages that variants share are made once.
        event: told of stages; the variant's name stands before the text.
        run: stands for the pipeline.
        until: last stage of each variant.

    Returns:
        A row for each variant: ``recipe``, ``name``, ``ratio`` asked, ``of``, ``strategy``, ``select``, ``kept``
        block ids, ``ratios`` reached, ``base`` / ``unrecovered`` / ``compressed`` / ``majority`` (accuracy and
        macro-F1 with intervals), ``retention``, ``seconds`` (all its stages, when they were made), ``fresh_seconds``
        (those made now) and ``error`` (None, or ``{"stage", "message", "hint", "exit_code"}``). What was not measured
        is None.

    Raises:
        RecipeError: see `variants`; or ``until`` is no stage.
        LwcError: of what all variants share, the data and the base.
    """
    check_stage(until)
    answers = runs / STORE_FOLDER / "teacher"
    run = run or partial(run_line, answers=answers)
    rows = []
    for variant in variants(recipe):
        row = _asked(variant, recipe)
        reached: list[str | None] = [None]

        def told(kind: str, stage: str, text: str, name: str = variant.name, at: list[str | None] = reached) -> None:
            at[0] = stage
            event(kind, stage, f"{name}: {text}")

        try:
            row |= _measured(run(variant, runs, told, until))
        except LwcError as problem:
            if reached[0] in _SHARED and not isinstance(problem, TargetError):
                raise  # the next variant would come to the same, after the same hours
            said = {"message": problem.message, "hint": problem.hint, "exit_code": problem.exit_code}
            row["error"] = {"stage": reached[0], **said}
        rows.append(row)
    shutil.rmtree(answers, ignore_errors=True)
    return rows
