"""The line of stages: plan it (hit or miss, and why), then run what is missing. Imports no torch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lwc.core import distributed
from lwc.core.errors import LwcError
from lwc.core.store import RECORD, STORE_FOLDER, Artifact, Store, key_of, read_json, write_json
from lwc.pipeline.keys import check_model
from lwc.pipeline.stage import Stage, StageContext
from lwc.pipeline.stages import STAGES
from lwc.recipe import Recipe

# What takes a stage's memory.
_BATCHES = {
    "train": "train.batch_size",
    "score": "score.batch_size",
    "select": "score.batch_size, recover.batch_size or, for a language model, train.batch_size",
    "recover": "recover.batch_size or, for a language model, train.batch_size",
    "evaluate": "evaluate.batch_size",
}


@dataclass(frozen=True)
class StagePlan:
    """What a stage would do: ``hit`` with its artifact, or a miss with the reason."""

    stage: Stage
    hit: bool
    reason: str
    key: str | None = None
    ingredients: Mapping[str, Any] = field(default_factory=dict)
    artifact: Artifact | None = None


def run_folder(runs: Path, recipe: Recipe) -> Path:
    """The folder a recipe's report goes to. The name's pattern keeps it inside ``runs``."""
    return runs / recipe.name


def _ingredients(stage: Stage, recipe: Recipe, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    return {
        "stage": stage.name,
        "version": stage.version,
        "config": stage.config(recipe),
        "external": stage.external(recipe),
        "inputs": {name: inputs[name].digest for name in stage.inputs},
        "seed": recipe.seed,
        "libraries": stage.library_versions(),
    }


def _flatten(value: object, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        flat: dict[str, Any] = {}
        for key, item in value.items():
            flat.update(_flatten(item, f"{prefix}.{key}" if prefix else str(key)))
        return flat
    return {prefix: value}


def _why(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    """The first differences between what a stage was made from last time and now."""
    if before is None:
        return "never run"
    old, new = _flatten(before), _flatten(now)
    changes = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    if not changes:
        return "its result is gone or damaged"
    told = []
    for name in changes[:3]:
        short = name.removeprefix("config.")
        if name.startswith("inputs."):
            told.append(f"{name.removeprefix('inputs.')} gave another result")
        elif name.startswith("external."):
            told.append(f"content of {name.removeprefix('external.')} changed")
        else:
            told.append(f"{short}: {old.get(name)} → {new.get(name)}")
    return "; ".join(told) + (f" (+{len(changes) - 3} more)" if len(changes) > 3 else "")


def _plan_one(
    stage: Stage, recipe: Recipe, store: Store, done: Mapping[str, Artifact], record: Mapping[str, Any]
) -> StagePlan:
    waiting = [name for name in stage.inputs if name not in done]
    if waiting:
        return StagePlan(stage, False, f"{waiting[0]} runs first")
    ingredients = _ingredients(stage, recipe, done)
    key = key_of(ingredients)
    if not stage.cached:
        return StagePlan(stage, False, "measured anew in every run", key, ingredients)
    artifact = store.find(stage.name, key)
    if artifact is not None:
        return StagePlan(stage, True, "unchanged", key, ingredients, artifact)
    return StagePlan(stage, False, _why(record.get(stage.name), ingredients), key, ingredients)


def _record(runs: Path, recipe: Recipe) -> dict[str, Any]:
    path = run_folder(runs, recipe) / RECORD
    return dict(read_json(path)) if path.is_file() else {}


def plan(recipe: Recipe, runs: Path) -> list[StagePlan]:
    """Every stage in order with hit or miss and why; nothing is run."""
    store = Store(runs / STORE_FOLDER)
    record = _record(runs, recipe)
    done: dict[str, Artifact] = {}
    plans = []
    for stage in STAGES:
        planned = _plan_one(stage, recipe, store, done, record)
        if planned.artifact is not None:
            done[stage.name] = planned.artifact
        plans.append(planned)
    return plans


@dataclass(frozen=True)
class StageResult:
    """A stage's folder, how long it took to make, and whether it was reused."""

    path: Path
    seconds: float
    hit: bool


Event = Callable[[str, str, str], None]
"""Called as ``event(kind, stage, text)`` with kind ``hit``, ``start``, ``progress``, ``done`` or ``warning``."""


def run(
    recipe: Recipe, runs: Path, event: Event, until: str | None = None, answers: Path | None = None
) -> dict[str, StageResult]:
    """Run the line up to and including ``until``; finished stages are reused.

    ``answers`` is a folder for the uncut model's answers, where several recipes cut the same base (`StageContext`).

    Of several processes the main one decides, writes and returns all results. The others help with the shared stages,
    return none, and may end after the last of these.

    Raises:
        LwcError: from the stage that failed. What finished before stays reusable.
    """
    names = [stage.name for stage in STAGES]
    line = STAGES if until is None else STAGES[: names.index(until) + 1]
    together = max((number for number, stage in enumerate(line, start=1) if stage.shared), default=0)
    if not distributed.is_main():
        _help(recipe, line[:together])
        return {}
    if len(line) > 1:
        check_model(recipe)
    store = Store(runs / STORE_FOLDER)
    folder = run_folder(runs, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    record = _record(runs, recipe)
    done: dict[str, Artifact] = {}
    results: dict[str, StageResult] = {}
    for number, stage in enumerate(line):
        if number == together:
            distributed.leave()
        planned = _plan_one(stage, recipe, store, done, record)
        if planned.artifact is not None:
            artifact, hit = distributed.broadcast(planned.artifact), True
            event("hit", stage.name, f"reused, took {artifact.seconds:.0f} s when made")
        else:
            event("start", stage.name, planned.reason)
            artifact, hit = _build(stage, recipe, store, planned, done, event, answers), False
            event("done", stage.name, f"{artifact.seconds:.1f} s")
        if stage.name == "data":
            for text in _data_warnings(recipe, artifact.path):
                event("warning", stage.name, text)
        done[stage.name] = artifact
        results[stage.name] = StageResult(artifact.path, artifact.seconds, hit)
        record[stage.name] = dict(planned.ingredients)
        write_json(folder / RECORD, record)
    distributed.leave()
    return results


def _data_warnings(recipe: Recipe, folder: Path) -> list[str]:
    """Said before the training, of which they may be a reason to stop."""
    from lwc.report.data_warnings import data_warnings

    quality = folder / "quality.json"  # tasks from outside lwc may write none
    return (
        data_warnings(read_json(quality), recipe.task.name, list(recipe.data.labels.map)) if quality.is_file() else []
    )


def _help(recipe: Recipe, stages: Sequence[Stage]) -> None:
    """What the other processes do.

    The main one sends them the result of each stage, before it the scratch folder of one that all make together.
    """
    done: dict[str, Path] = {}
    for stage in stages:
        told: Artifact | Path | None = distributed.broadcast(None)
        if isinstance(told, Path):
            with tempfile.TemporaryDirectory(prefix="lwc-worker-") as aside:
                inputs = {name: done[name] for name in stage.inputs}
                stage.function(StageContext(recipe, inputs, Path(aside), told, progress=lambda text: None))
            told = distributed.broadcast(None)
        assert isinstance(told, Artifact)
        done[stage.name] = told.path
    distributed.leave()


@contextmanager
def _fitting(stage: Stage) -> Iterator[None]:
    """Turn a GPU out-of-memory error into advice on which batch size to lower."""
    try:
        yield
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        setting = _BATCHES.get(stage.name, "the batch size")
        raise LwcError(f"{stage.name}: out of GPU memory", f"lower {setting}, or model.max_length") from error


def _build(
    stage: Stage,
    recipe: Recipe,
    store: Store,
    planned: StagePlan,
    done: Mapping[str, Artifact],
    event: Event,
    answers: Path | None,
) -> Artifact:
    assert planned.key is not None
    with store.build(stage.name, planned.key) as (out, scratch):
        # Another process may have finished the same work while this one waited for the lock.
        ready = store.find(stage.name, planned.key) if stage.cached else None
        if ready is not None:
            return distributed.broadcast(ready)
        started = time.monotonic()
        context = StageContext(
            recipe=recipe,
            inputs={name: done[name].path for name in stage.inputs},
            out=out,
            scratch=scratch,
            progress=lambda text: event("progress", stage.name, text),
            answers=answers,
        )
        with _fitting(stage):
            if stage.shared:
                distributed.broadcast(scratch)
                stage.function(context)
            else:
                with distributed.alone():
                    stage.function(context)
        seconds = time.monotonic() - started
        made = store.commit(stage.name, planned.key, planned.ingredients, seconds, stage.account)
        return distributed.broadcast(made)
