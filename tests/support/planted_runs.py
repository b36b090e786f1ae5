"""Run folders as finished runs leave them, without a run. Not a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lwc.core.store import RECORD, STORE_FOLDER, Store, key_of, write_json
from lwc.metrics.classification import classification_quality, retention
from lwc.recipe import Recipe
from lwc.report.build import build_report

N = 400
LABELS = (np.arange(N) % 3 == 0).astype(int)
BASE = np.where(np.arange(N) % 10 == 0, 1 - LABELS, LABELS)
ENVIRONMENT = {"date": "2026-01-02T03:04:05+00:00", "cpu": "Some CPU", "cores": 2, "gpu": False}


def wrong(*rows: int) -> Any:
    """Answers that are right but in these rows."""
    answers = LABELS.copy()
    answers[list(rows)] = 1 - answers[list(rows)]
    return answers


def make_run(
    runs: Path,
    name: str,
    compressed: Any,
    labels: Any = LABELS,
    ids: Any = None,
    cpu: str = "Some CPU",
    keep: bool = True,
    **changes: Any,
) -> Path:
    """A run folder as a finished run leaves it: report, record, and the evaluate stage in the store."""
    settings = {
        "schema_version": 1,
        "name": name,
        "model": {"kind": "config"},
        "target": {"ratio": 2.0, "of": "blocks"},
    }
    recipe = Recipe.model_validate({**settings, "gates": [{"metric": "retention.accuracy", "op": ">=", "value": 0.9}],
                                    **changes})  # fmt: skip
    base = BASE[: len(labels)]
    answers = {"base": base, "unrecovered": np.zeros_like(base), "compressed": compressed}
    majority = classification_quality(labels, np.tile([1.0, 0.0], (len(labels), 1)), 100, 1)
    evaluation = {
        "n": len(labels), "n_train": 900, "label_names": ["bad", "good"],
        "quality": {**{k: classification_quality(labels, np.eye(2)[v], 100, 1) for k, v in answers.items()},
                    "floors": {"majority": majority}},
        "bootstrap": {"resamples": 300, "level": 0.95, "seed": 1},
        "retention": retention(labels, base, compressed, 100, 1),
        "retention_unrecovered": retention(labels, base, answers["unrecovered"], 100, 1),
    }  # fmt: skip
    made_from = {"stage": "evaluate", "config": {"name": name}}
    store = Store(runs / STORE_FOLDER)
    with store.build("evaluate", key_of(made_from)) as (out, _):
        ids = np.array([f"r{i:03d}" for i in range(len(labels))]) if ids is None else ids
        pq.write_table(pa.table({"id": ids, "label": labels, **answers}), out / "predictions.parquet")
        write_json(out / "evaluation.json", evaluation)
        artifact = store.commit("evaluate", key_of(made_from), made_from, 1.0)
    export = runs / "export" / name
    export.mkdir(parents=True)
    shape = {"batch": 1, "length": 64, "base_ms": 10.0, "compressed_ms": 5.25, "ratio": 1.9}
    write_json(export / "export.json", {"ratios": {"size": 1.4, "latency": 1.9}, "latency": {"shapes": [shape]}})
    stages = {"evaluate": artifact.path, "export": export}
    seconds = {"train": {"seconds": 90.0, "hit": True}, "evaluate": {"seconds": 5.5, "hit": False}}
    folder = runs / name
    build_report(recipe, stages, {**ENVIRONMENT, "cpu": cpu}, seconds, folder)
    write_json(folder / RECORD, {"evaluate": made_from})
    if not keep:
        (artifact.path / "predictions.parquet").unlink()
    return folder


def finished_runs(runs: Path) -> Path:
    """A folder with two of them."""
    make_run(runs, "slow", wrong(*range(40)))
    make_run(runs, "fast", wrong(*range(10), 50))
    return runs
