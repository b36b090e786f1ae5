"""Finished runs side by side: what differs, what it gave, and whether the difference is more than chance.

Two models that answer the same rows are compared in pairs: the exact McNemar test (McNemar 1947; Dietterich 1998
recommends it for classifiers) looks only at rows that one of them gets right and the other wrong. Its p-values
are corrected for the number of runs that are compared with the reference (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lwc.core.errors import RecipeError
from lwc.core.store import Store, key_of, read_json
from lwc.metrics.classification import accuracy, bootstrap, interval, macro_f1
from lwc.report.collect import SCHEMA_VERSION

# Where `lwc.pipeline.run`, which stands above this module, keeps results and what they were made from.
STORE_FOLDER = ".store"
RECORD = "stages.json"
# They name a run, or plan others: no number depends on them.
_NO_EFFECT = ("name", "description", "sweep")
_RESAMPLES = 2000


@dataclass(frozen=True)
class Predictions:
    """Test rows in order of their id: ids (N,), label ids (N,) and answers of the compressed model (N,)."""

    ids: NDArray[Any]
    labels: NDArray[np.int64]
    compressed: NDArray[np.int64]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings, and lists of mappings, to ``{"a.b.0.c": value}``; other lists stay whole."""
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat.update(flatten(item, f"{prefix}.{key}" if prefix else key))
    return flat


def differences(recipes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """``[{"key", "values"}]``: flattened recipe keys whose values differ; a key that a recipe lacks reads None."""
    flat = [flatten({k: v for k, v in recipe.items() if k not in _NO_EFFECT}) for recipe in recipes]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    rows = [{"key": key, "values": [one.get(key) for one in flat]} for key in keys]
    return [row for row in rows if any(value != row["values"][0] for value in row["values"])]


def mcnemar(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> dict[str, Any]:
    """Exact two-sided McNemar test of two models' class ids (N,) on the same labels (N,).

    Returns:
        ``{"only_first", "only_second", "p"}``: rows that only one model gets right, and the binomial p-value of
        their split under equal odds; 1 where there is no such row.
    """
    from scipy.stats import binomtest

    truth = np.asarray(labels)
    one, two = np.asarray(first) == truth, np.asarray(second) == truth
    b, c = int((one & ~two).sum()), int((two & ~one).sum())
    return {"only_first": b, "only_second": c, "p": float(binomtest(b, b + c, 0.5).pvalue) if b + c else 1.0}


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values, in the order given."""
    adjusted = [0.0] * len(values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        highest = max(highest, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = highest
    return adjusted


def _report(folder: Path) -> dict[str, Any]:
    path = folder / "report.json"
    if not path.is_file():
        raise RecipeError(
            f"{folder}: holds no report.json" if folder.is_dir() else f"{folder}: no such folder",
            "name the folder of a finished run, e.g. runs/amazon_2.5x; `lwc run` writes the report at its end",
        )
    report = read_json(path)
    version = report.get("schema_version") if isinstance(report, dict) else None
    if version != SCHEMA_VERSION:
        raise RecipeError(
            f"{path}: has schema version {version}, this lwc reads {SCHEMA_VERSION}",
            "write it again with `lwc report RECIPE`",
        )
    return dict(report)


def load_predictions(folder: Path, report: Mapping[str, Any]) -> tuple[Predictions | None, str]:
    """The predictions a report is of, or None and the reason in words."""
    record = folder / RECORD
    made_from = read_json(record).get("evaluate") if record.is_file() else None
    if made_from is None:
        return None, f"{RECORD} does not say what the evaluate stage was made from"
    artifact = Store(folder.resolve().parent / STORE_FOLDER).find("evaluate", key_of(made_from))
    if artifact is None:
        return None, "its predictions are gone from the store, or damaged"
    if read_json(artifact.path / "evaluation.json").get("quality") != report["quality"]:
        return None, "its stages ran again after the report was written (`lwc report` writes it anew)"
    return read_predictions(artifact.path / "predictions.parquet"), ""


def read_predictions(path: Path, truth: str = "label") -> Predictions:
    """What the evaluate stage wrote, in order of the rows' ids; its column ``truth`` is held to be right."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    ids, labels, compressed = (table[name].to_numpy() for name in ("id", truth, "compressed"))
    order = np.argsort(ids, kind="stable")
    return Predictions(ids[order], labels[order].astype(np.int64), compressed[order].astype(np.int64))


def _other_rows(one: Predictions, two: Predictions) -> str:
    """Why two runs' test rows are not the same, or ""."""
    if len(one.ids) != len(two.ids):
        return f"the test rows differ: {len(one.ids):,} and {len(two.ids):,}"
    foreign = len(set(two.ids.tolist()) - set(one.ids.tolist()))
    if foreign or not np.array_equal(one.ids, two.ids):
        return f"the test rows differ: {foreign:,} of {len(two.ids):,} ids are not in the reference"
    relabelled = int((one.labels != two.labels).sum())
    return f"the test labels differ: {relabelled:,} of {len(two.ids):,} rows" if relabelled else ""


def paired(reference: Predictions, other: Predictions, n_boot: int, seed: int) -> dict[str, Any]:
    """McNemar's test, and other − reference in accuracy and macro-F1 with paired-bootstrap intervals.

    Both hold the same rows in the same order.
    """
    y = reference.labels
    test = mcnemar(y, reference.compressed, other.compressed)
    drawn = bootstrap(y, {"reference": reference.compressed, "other": other.compressed}, n_boot, seed)
    gained = {
        name: interval(
            metric(y, other.compressed) - metric(y, reference.compressed),
            drawn["other"][name] - drawn["reference"][name],
        )
        for name, metric in (("accuracy", accuracy), ("macro_f1", macro_f1))
    }
    return {
        "n": len(y),
        "only_reference_right": test["only_first"],
        "only_run_right": test["only_second"],
        "p": test["p"],
        "difference": gained,
    }


def _tests(
    names: Sequence[str], reports: Sequence[Mapping[str, Any]], loaded: Sequence[tuple[Predictions | None, str]]
) -> list[dict[str, Any]]:
    drawn = reports[0].get("bootstrap") or {}
    n_boot, seed = drawn.get("resamples", _RESAMPLES), drawn.get("seed", 0)
    reference, lacking = loaded[0]
    rows: list[dict[str, Any]] = []
    for name, report, (found, reason) in zip(names[1:], reports[1:], loaded[1:], strict=True):
        row: dict[str, Any] = {"run": name, "reference": names[0], "tested": False}
        if reference is None or found is None:
            row["reason"] = f"{names[0]}: {lacking}" if reference is None else f"{name}: {reason}"
        elif report["data"]["label_names"] != reports[0]["data"]["label_names"]:
            row["reason"] = "the classes differ"
        elif different := _other_rows(reference, found):
            row["reason"] = different
        else:
            row |= {"tested": True, "reason": "", **paired(reference, found, n_boot, seed)}
        rows.append(row)
    done = [row for row in rows if row["tested"]]
    for row, adjusted in zip(done, holm([row["p"] for row in done]), strict=True):
        row["p_holm"] = adjusted
    return rows


def _quality(report: Mapping[str, Any], model: str) -> dict[str, Any] | None:
    quality = report["quality"] or {}
    measured = (quality.get("floors") or {}).get(model) if model == "majority" else quality.get(model)
    return {key: measured[key] for key in ("n", "accuracy", "macro_f1")} if measured else None


def _run(name: str, folder: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    seconds = {stage: one["seconds"] for stage, one in report["stages"].items()}
    known = [value for value in seconds.values() if value is not None]
    environment = report["environment"]
    return {
        "name": name,
        "folder": str(folder),
        "date": environment.get("date"),
        "machine": {key: environment.get(key) for key in ("cpu", "cores", "gpu")},
        "passed": report["verdict"]["passed"],
        "target": report["target"],
        "quality": {model: _quality(report, model) for model in ("base", "unrecovered", "compressed", "majority")},
        "retention": {key: (report["retention"] or {}).get(key) for key in ("accuracy", "macro_f1")},
        "ratios": report["ratios"],
        "latency": (report["latency"] or {}).get("shapes") or [],
        "gates": report["gates"],
        "cost": {"stages": seconds, "total": sum(known) if known else None},
    }


def _names(folders: Sequence[Path]) -> list[str]:
    """Folder names; the paths as given where two folders bear the same name."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def compare(runs: Sequence[Path]) -> dict[str, Any]:
    """Run folders side by side; the first is the reference of the paired tests.

    Returns:
        ``{"reference", "runs", "differences", "tests", "notes"}``, all of it JSON. A test row has ``tested`` and,
        where it could not be made, the ``reason``. Seconds of a stage are those it took when it was made.

    Raises:
        RecipeError: fewer than two runs, the same run twice, or a folder without a report that this version reads.
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
    reports = [_report(folder) for folder in folders]
    other = [report["task"] for report in reports if report["task"] != "classification"]
    if other:
        raise RecipeError(
            f"runs are compared by accuracy and macro-F1, which task {other[0]} does not have", "read their reports"
        )
    names = _names(folders)
    rows = [_run(*one) for one in zip(names, folders, reports, strict=True)]
    loaded = [load_predictions(folder, report) for folder, report in zip(folders, reports, strict=True)]
    notes = []
    if any(row["machine"] != rows[0]["machine"] for row in rows):
        notes.append("The reports are of different machines: latencies and seconds do not compare.")
    tests = _tests(names, reports, loaded)
    if any("test rows differ" in row["reason"] or "test labels differ" in row["reason"] for row in tests):
        notes.append("Some runs were measured on other test rows: their quality does not compare either.")
    return {
        "reference": names[0],
        "runs": rows,
        "differences": differences([report["recipe"]["resolved"] for report in reports]),
        "tests": tests,
        "notes": notes,
    }
