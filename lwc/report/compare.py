"""Finished runs side by side: what differs, what it gave, and whether the difference is more than chance.

Tasks whose answers are not right or wrong are compared without a test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NotRequired, TypeAlias, cast

from typing_extensions import TypedDict

from lwc.core.errors import RecipeError
from lwc.core.marks import Interval, Intervals
from lwc.core.store import RECORD, STORE_FOLDER, Store, key_of, read_json, read_record
from lwc.recipe import TASKS
from lwc.report.content_types import Ratios, Target
from lwc.report.export_contents import AsServed, ShapeTimes
from lwc.report.paired import Predictions, holm, other_rows, paired, read_predictions
from lwc.report.quality_contents import Quality, measured
from lwc.report.reading import ReadGate, ReadReport, check_metrics, read_report
from lwc.report.serving_contents import Served

# They name a run, or plan others: no number depends on them.
_NO_EFFECT = ("name", "description", "sweep")
_RESAMPLES = 2000
_MACHINE: tuple[Literal["cpu", "cores", "gpu"], ...] = ("cpu", "cores", "gpu")


class Cost(TypedDict):
    """Seconds that each stage took when it was made, and their sum."""

    stages: dict[str, float | None]
    total: float | None


class Compared(TypedDict):
    """One run of a comparison. ``floor`` is the first floor of its task."""

    name: str
    folder: str
    date: str | None
    machine: dict[str, str | int | bool | None]
    passed: bool
    target: Target
    quality: dict[Literal["base", "unrecovered", "compressed", "floor"], Quality | None]
    retention: dict[str, Interval | None]
    ratios: Ratios
    served: AsServed | None
    latency: list[ShapeTimes]
    serving: dict[str, Served | None]
    gates: list[ReadGate]
    cost: Cost


Untested: TypeAlias = Literal["no such test", "no predictions", "other classes", "other rows"]


class Test(TypedDict):
    """A run against the reference: the test, or why there is none, as a word and in a sentence."""

    run: str
    reference: str
    tested: bool
    why: Untested | None
    reason: str
    n: NotRequired[int]
    only_reference_right: NotRequired[int]
    only_run_right: NotRequired[int]
    p: NotRequired[float]
    p_holm: NotRequired[float]
    difference: NotRequired[Intervals]


class Difference(TypedDict):
    """A recipe key, and its value in each run."""

    key: str
    values: list[object]


class Comparison(TypedDict):
    """Runs side by side."""

    task: str
    reference: str
    runs: list[Compared]
    differences: list[Difference]
    tests: list[Test]
    notes: list[str]


def flatten(value: object, prefix: str = "") -> dict[str, object]:
    """Nested mappings, and lists of mappings, to ``{"a.b.0.c": value}``; other lists stay whole."""
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        return {prefix: value}
    flat: dict[str, object] = {}
    for key, item in items:
        flat.update(flatten(item, f"{prefix}.{key}" if prefix else key))
    return flat


def differences(recipes: Sequence[Mapping[str, object]]) -> list[Difference]:
    """``[{"key", "values"}]``: flattened recipe keys whose values differ; a key that a recipe lacks reads None."""
    flat = [flatten({k: v for k, v in recipe.items() if k not in _NO_EFFECT}) for recipe in recipes]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    rows: list[Difference] = [{"key": key, "values": [one.get(key) for one in flat]} for key in keys]
    return [row for row in rows if any(value != row["values"][0] for value in row["values"])]


def load_predictions(folder: Path, report: ReadReport) -> tuple[Predictions | None, str]:
    """The predictions a report is of, or None and the reason in words."""
    made_from = read_record(folder).get("evaluate")
    if made_from is None:
        return None, f"{RECORD} does not say what the evaluate stage was made from"
    artifact = Store(folder.resolve().parent / STORE_FOLDER).find("evaluate", key_of(made_from))
    if artifact is None:
        return None, "its predictions are missing from the store, or damaged"
    if read_json(artifact.path / "evaluation.json").get("quality") != report["quality"]:
        return None, "its stages ran again after the report was written (rewrite it with `lwc report`)"
    return read_predictions(artifact.path / "predictions.parquet"), ""


@dataclass(frozen=True)
class _Run:
    name: str
    folder: Path
    report: ReadReport


def _untested(
    reference: _Run, run: _Run, first: Predictions | None, second: Predictions | None, lacking: Mapping[str, str]
) -> tuple[Untested, str] | None:
    """Why two runs cannot be tested against each other; None where they can."""
    if first is None or second is None:
        without = reference.name if first is None else run.name
        return "no predictions", f"{without}: {lacking[without]}"
    if run.report["data"]["label_names"] != reference.report["data"]["label_names"]:
        return "other classes", "the classes differ"
    different = other_rows(first, second)
    return ("other rows", different) if different else None


def _tests(runs: Sequence[_Run]) -> list[Test]:
    reference, *others = runs
    headline = TASKS[reference.report["task"]].headline
    rows: list[Test] = [
        {"run": run.name, "reference": reference.name, "tested": False, "why": None, "reason": ""} for run in others
    ]
    if headline.not_paired:
        for row in rows:
            row["why"], row["reason"] = "no such test", headline.not_paired
        return rows
    loaded = {run.name: load_predictions(run.folder, run.report) for run in runs}
    lacking = {name: reason for name, (_, reason) in loaded.items()}
    first = loaded[reference.name][0]
    drawn = reference.report["bootstrap"]
    n_boot, seed = (drawn["resamples"], drawn["seed"]) if drawn else (_RESAMPLES, 0)
    for row, run in zip(rows, others, strict=True):
        second = loaded[run.name][0]
        found = _untested(reference, run, first, second, lacking)
        if found is not None:
            row["why"], row["reason"] = found
        elif first is not None and second is not None:
            row.update({**row, "tested": True, **paired(first, second, n_boot, seed)})
    done = [row for row in rows if row["tested"]]
    for row, adjusted in zip(done, holm([row["p"] for row in done]), strict=True):
        row["p_holm"] = adjusted
    return rows


def _compared(run: _Run) -> Compared:
    report, headline = run.report, TASKS[run.report["task"]].headline
    quality, kept = report["quality"], report["retention"] or {}

    def shown(found: Quality | None) -> Quality | None:
        if found is None:
            return None
        return cast(Quality, {"n": found["n"], **{one.key: measured(found, one.key) for one in headline.metrics}})

    seconds: dict[str, float | None] = {stage: one["seconds"] for stage, one in report["stages"].items()}
    known = [value for value in seconds.values() if value is not None]
    environment = report["environment"]
    return {
        "name": run.name,
        "folder": str(run.folder),
        "date": environment.get("date"),
        "machine": {key: environment.get(key) for key in _MACHINE},
        "passed": report["verdict"]["passed"],
        "target": report["target"],
        "quality": {
            "base": shown(quality and quality["base"]),
            "unrecovered": shown(quality and quality["unrecovered"]),
            "compressed": shown(quality and quality["compressed"]),
            "floor": shown(quality and quality["floors"].get(headline.floors[0][0])),
        },
        "retention": {metric.key: kept.get(metric.key) for metric in headline.metrics},
        "ratios": report["ratios"],
        "served": report["served"],
        "latency": (report["latency"] or {}).get("shapes", []),
        "serving": report["serving"] or {},
        "gates": [{"at": "value", **gate} for gate in report["gates"]],
        "cost": {"stages": seconds, "total": sum(known) if known else None},
    }


def _names(folders: Sequence[Path]) -> list[str]:
    """Folder names; the paths as given where two folders have the same name."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def compare(runs: Sequence[Path]) -> Comparison:
    """Run folders side by side; the first is the reference of the paired tests.

    Raises:
        RecipeError: fewer than two runs, the same run twice, runs of different tasks, or a folder without a report that
            this version reads.
    """
    folders = [Path(run) for run in runs]
    if len(folders) < 2:
        raise RecipeError(
            f"{len(folders)} run{'' if len(folders) == 1 else 's'} to compare", "name two run folders or more"
        )
    seen: dict[Path, Path] = {}
    for folder in folders:
        if folder.resolve() in seen:
            raise RecipeError(f"{folder}: is the same run as {seen[folder.resolve()]}", "name each run once")
        seen[folder.resolve()] = folder
    every = [_Run(name, folder, read_report(folder)) for name, folder in zip(_names(folders), folders, strict=True)]
    tasks = list(dict.fromkeys(run.report["task"] for run in every))
    if len(tasks) > 1:
        raise RecipeError(f"the runs are of different tasks: {', '.join(tasks)}", "compare runs of one task")
    for run in every:
        check_metrics(run.folder, run.report)
    rows, tests = [_compared(run) for run in every], _tests(every)
    notes = []
    if any(row["machine"] != rows[0]["machine"] for row in rows):
        notes.append("The reports are of different machines: latencies and seconds do not compare.")
    if any(row["why"] == "other rows" for row in tests):
        notes.append("Some runs were measured on other test rows: their quality does not compare either.")
    return {
        "task": tasks[0],
        "reference": rows[0]["name"],
        "runs": rows,
        "differences": differences([run.report["recipe"]["resolved"] for run in every]),
        "tests": tests,
        "notes": notes,
    }
