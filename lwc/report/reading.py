"""The ``report.json`` of a finished run, as far as a comparison reads it, of this version of lwc or an earlier one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NotRequired, cast

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from lwc.core.errors import RecipeError
from lwc.core.marks import Intervals, Number
from lwc.core.store import read_json
from lwc.recipe import TASKS, At
from lwc.report.collect import SCHEMA_VERSION
from lwc.report.content_types import (
    Bootstrap,
    Environment,
    Qualities,
    Ratios,
    RecipeSection,
    StageName,
    StageTime,
    Target,
)
from lwc.report.export_contents import AsServed, Latency
from lwc.report.quality_contents import Retention
from lwc.report.serving_contents import Served

_WRITE_AGAIN = "write it again with `lwc report RECIPE`"
# Sections that an earlier version did not write. None reads "not measured", as everywhere.
_ADDED = ("served", "serving", "latency", "bootstrap")


class ReadGate(TypedDict):
    """A decided gate; earlier versions judged no ends of intervals."""

    metric: str
    at: NotRequired[At]
    op: Literal[">=", "<=", ">", "<", "=="]
    threshold: Number
    value: Number
    passed: bool


class ReadVerdict(TypedDict):
    """Whether the run passed."""

    passed: bool


class ReadData(TypedDict):
    """The classes."""

    label_names: list[str] | None


class ReadReport(TypedDict):
    """The part of `lwc.report.content_types.Report` that is compared; whatever else is in the file may change."""

    recipe: RecipeSection
    task: str
    ratios: Ratios
    quality: Qualities | None
    retention: Retention | None
    served: AsServed | None
    latency: Latency | None
    serving: dict[str, Served | None] | None
    target: Target
    bootstrap: Bootstrap | None
    stages: dict[StageName, StageTime]
    data: ReadData
    environment: Environment
    gates: list[ReadGate]
    verdict: ReadVerdict


def read_report(folder: Path) -> ReadReport:
    """The report of a run folder.

    Raises:
        RecipeError: there is none, or it is not a report that this version reads.
    """
    path = folder / "report.json"
    if not path.is_file():
        raise RecipeError(
            f"{folder}: no report.json in it" if folder.is_dir() else f"{folder}: no such folder",
            "name the folder of a finished run, e.g. runs/amazon_2.5x; `lwc run` writes the report at its end",
        )
    content = read_json(path)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise RecipeError(f"{path}: has schema version {version}, this lwc reads {SCHEMA_VERSION}", _WRITE_AGAIN)
    try:
        report: ReadReport = TypeAdapter(ReadReport).validate_python({**dict.fromkeys(_ADDED), **content})
    except ValidationError as error:
        raise _not_a_report(path, error) from error
    if report["task"] not in TASKS.names():
        raise RecipeError(
            f"{path}: not a report: no task {report['task']!r}", f"this lwc has {', '.join(TASKS.names())}"
        )
    return report


def check_metrics(folder: Path, report: ReadReport) -> None:
    """Raise `RecipeError` where a metric is missing: the report's schema leaves open which ones a task has."""
    quality, metrics = report["quality"], TASKS[report["task"]].headline.metrics
    if quality is None:
        return
    for found in (quality["base"], quality["unrecovered"], quality["compressed"], *quality["floors"].values()):
        figures = {metric.key: cast(Mapping[str, object], found).get(metric.key) for metric in metrics}
        try:
            TypeAdapter(Intervals).validate_python(figures)
        except ValidationError as error:
            raise _not_a_report(folder / "report.json", error) from error


def _not_a_report(path: Path, error: ValidationError) -> RecipeError:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return RecipeError(f"{path}: not a report: {where}: {first['msg']}", _WRITE_AGAIN)
