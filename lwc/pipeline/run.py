"""The line of stages: plan it (hit or miss, and why), then run what is missing. Imports no torch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lwc.core import distributed
from lwc.core.errors import LwcError, disk_full, no_space
from lwc.core.store import RECORD, STORE_FOLDER, Artifact, Store, key_of, read_json, read_record, write_json
from lwc.pipeline.preflight import DATA, RECIPE, Subject, run_checks
from lwc.pipeline.stage import Stage, StageContext
from lwc.pipeline.stages import STAGES, stages_until
from lwc.recipe import Recipe
from lwc.report.formats import duration

NEVER_RUN = "never run"

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
    """What a stage would do: ``hit`` with its artifact, or a miss with the reason; ``purpose`` is what it is for."""

    stage: Stage
    hit: bool
    reason: str
    purpose: str
    key: str | None = None
    ingredients: Mapping[str, Any] = field(default_factory=dict)
    artifact: Artifact | None = None

    def __str__(self) -> str:
        """For people: what can be reused, or what is done, and why again if it was done before."""
        if self.artifact is not None:
            return f"reused, took {duration(self.artifact.seconds)} when made"
        again = self.reason != NEVER_RUN and not self.unsure
        return f"{self.purpose} ({self.reason})" if again else self.purpose

    @property
    def unsure(self) -> bool:
        """Whether it was run before and may be reused: inputs count by content, and one of them is made first."""
        return self.key is None and self.reason != NEVER_RUN


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


def flatten(value: object, prefix: str = "") -> dict[str, Any]:
    """Single values of a nested mapping by dotted path."""
    if isinstance(value, Mapping):
        flat: dict[str, Any] = {}
        for key, item in value.items():
            flat.update(flatten(item, f"{prefix}.{key}" if prefix else str(key)))
        return flat
    return {prefix: value}


def _why(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    """The first differences between what a stage was made from last time and now."""
    if before is None:
        return NEVER_RUN
    old, new = flatten(before), flatten(now)
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
    before = record.get(stage.name)
    purpose = stage.purpose(recipe, {name: artifact.path for name, artifact in done.items()})
    waiting = [name for name in stage.inputs if name not in done]
    if waiting:
        return StagePlan(stage, False, NEVER_RUN if before is None else f"{waiting[0]} runs first", purpose)
    ingredients = _ingredients(stage, recipe, done)
    key = key_of(ingredients)
    if not stage.cached:
        reason = NEVER_RUN if before is None else "measured anew in every run"
        return StagePlan(stage, False, reason, purpose, key, ingredients)
    artifact = store.find(stage.name, key)
    if artifact is not None:
        return StagePlan(stage, True, "unchanged", purpose, key, ingredients, artifact)
    return StagePlan(stage, False, _why(before, ingredients), purpose, key, ingredients)


def _record(runs: Path, recipe: Recipe) -> dict[str, Any]:
    return read_record(run_folder(runs, recipe))


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
"""Called as ``event(kind, stage, text)``; kinds: hit, start, wait, progress, done, warning, note, and variant, which
begins the output of a variant of a sweep. The text of progress may be a `Step`; an empty one takes the last back."""


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
    line = STAGES[: len(stages_until(until))]
    together = max((number for number, stage in enumerate(line, start=1) if stage.shared), default=0)
    with distributed.leaving_on_error():
        if distributed.is_main():
            return _lead(recipe, runs, line, together, event, answers)
        _help(recipe, line, together)
        return {}


def _lead(
    recipe: Recipe, runs: Path, line: Sequence[Stage], together: int, event: Event, answers: Path | None
) -> dict[str, StageResult]:
    """What the main process does; the first ``together`` stages it does with the others."""
    store = Store(runs / STORE_FOLDER)
    folder = run_folder(runs, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    record = _record(runs, recipe)
    done: dict[str, Artifact] = {}
    results: dict[str, StageResult] = {}
    checks = [RECIPE, DATA]
    for number, stage in enumerate(line):
        if number == together:
            distributed.leave()
        planned = _plan_one(stage, recipe, store, done, record)
        if planned.artifact is not None:
            artifact, hit = distributed.broadcast(planned.artifact), True
            event("hit", stage.name, str(planned))
        else:
            ahead = _names(line[number:])
            while checks and (checks[0] is RECIPE or "data" in done):
                data = done["data"].path if "data" in done else None
                run_checks(checks.pop(0), Subject(recipe, ahead, data=data))
            event("start", stage.name, str(planned))
            inputs = {name: done[name].path for name in stage.inputs}
            make = partial(StageContext, recipe, inputs, answers=answers, ahead=ahead)
            artifact, hit = _build(stage, store, planned, make, event), False
            event("done", stage.name, duration(artifact.seconds))
        if stage.name == "data":
            for kind, text in _of_data(recipe, artifact.path):
                event(kind, stage.name, text)
        done[stage.name] = artifact
        results[stage.name] = StageResult(artifact.path, artifact.seconds, hit)
        record[stage.name] = dict(planned.ingredients)
        write_json(folder / RECORD, record)
    distributed.leave()
    return results


def _of_data(recipe: Recipe, folder: Path) -> list[tuple[str, str]]:
    """Warnings and notes about the data, said before the training, of which they may be a reason to stop."""
    from lwc.report.data_warnings import data_notes, data_warnings

    path = folder / "quality.json"
    if not path.is_file():  # tasks from outside lwc may write none
        return []
    quality, bad = read_json(path), folder / "quarantine.jsonl"
    notes = data_notes(quality)
    if quality.get("rows_bad"):
        notes.append(f"{bad} lists the bad rows.")
    warnings = data_warnings(quality, recipe.task.name, recipe.train.skip)
    return [*(("warning", text) for text in warnings), *(("note", text) for text in notes)]


def _names(stages: Sequence[Stage]) -> list[str]:
    return [stage.name for stage in stages]


def _help(recipe: Recipe, line: Sequence[Stage], together: int) -> None:
    """What the other processes do.

    The main one sends them the result of each stage, before it the scratch folder of one that all make together.
    """
    done: dict[str, Path] = {}
    for number, stage in enumerate(line[:together]):
        told: Artifact | Path | None = distributed.broadcast(None)
        if isinstance(told, Path):
            with tempfile.TemporaryDirectory(prefix="lwc-worker-") as aside:
                inputs = {name: done[name] for name in stage.inputs}
                ahead = _names(line[number:])
                stage.function(StageContext(recipe, inputs, Path(aside), told, lambda text: None, ahead=ahead))
            told = distributed.broadcast(None)
        assert isinstance(told, Artifact)
        done[stage.name] = told.path
    distributed.leave()


@contextmanager
def _fitting(stage: Stage, out: Path) -> Iterator[None]:
    """Turn a full disk into one error, and a GPU out-of-memory error into advice on which batch size to lower."""
    try:
        yield
    except Exception as error:
        if disk_full(error) and not isinstance(error, LwcError):
            raise no_space(out.parent) from error
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        setting = _BATCHES.get(stage.name, "the batch size")
        raise LwcError(f"{stage.name}: out of GPU memory", f"lower {setting}, or model.max_length") from error


def _build(stage: Stage, store: Store, planned: StagePlan, make: Callable[..., StageContext], event: Event) -> Artifact:
    """Make a stage's result; ``make`` completes its context."""
    assert planned.key is not None

    def wait(holder: str) -> None:
        event("wait", stage.name, f"waiting for another run of the same stage ({holder})")

    with store.build(stage.name, planned.key, wait) as (out, scratch):
        event("progress", stage.name, "")  # any wait is over
        # Another process may have finished the same work while this one waited for the lock.
        ready = store.find(stage.name, planned.key) if stage.cached else None
        if ready is not None:
            return distributed.broadcast(ready)
        started = time.monotonic()
        context = make(out=out, scratch=scratch, progress=lambda text: event("progress", stage.name, text))
        with _fitting(stage, out):
            if stage.shared:
                distributed.broadcast(scratch)
                stage.function(context)
            else:
                with distributed.alone():
                    stage.function(context)
        seconds = time.monotonic() - started
        made = store.commit(stage.name, planned.key, planned.ingredients, seconds, stage.account)
        return distributed.broadcast(made)
