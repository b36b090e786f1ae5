"""The retention benchmark: what its table says of planted answers, and a case that fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmark_scripts import load
from scipy import stats

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "retention.py"
ROWS = 200


@pytest.fixture(scope="module")
def benchmark() -> Any:
    return load(SCRIPT)


def row(folder: Path, case: str, seed: int, wrong: int, base_wrong: int) -> dict[str, Any]:
    """The base is wrong on the first ``base_wrong`` test rows, the case on the last ``wrong``: they share none."""
    labels = np.zeros(ROWS, dtype=np.int64)
    base, compressed = labels.copy(), labels.copy()
    base[:base_wrong] = 1
    compressed[ROWS - wrong :] = 1
    path = folder / f"{case}-{seed}.parquet"
    pq.write_table(pa.table({"id": np.arange(ROWS), "label": labels, "base": base, "compressed": compressed}), path)
    base_figures, figures = ({"accuracy": 1 - bad / ROWS, "macro_f1": 0.5} for bad in (base_wrong, wrong))
    return {
        "case": case, "ratio": 3.0, "seed": seed, "kept": [0, 1], "ratios": {"blocks": 3.0, "params": 1.5}, "n": ROWS,
        "n_train": 1, "n_recovery": 1, "steps": 1, "base": base_figures, "compressed": figures,
        "unrecovered": base_figures, "tfidf": base_figures,
        "retention": {"value": 1.0, "low": 0.9, "high": 1.1}, "kl": 0.1, "predictions": str(path),
    }  # fmt: skip


def test_the_table_says_what_was_planted(benchmark: Any, tmp_path: Path) -> None:
    rows = [row(tmp_path, case, seed, wrong, 20) for case, wrongs in (("lwc", (24, 28)), ("random", (40, 60)))
            for seed, wrong in zip((17, 18), wrongs, strict=True)]  # fmt: skip
    lwc, random = [line.split(" | ") for line in benchmark.table(rows).splitlines()[2:4]]
    kept = np.array([176, 172]) / 180
    half = stats.t.ppf(0.975, 1) * kept.std(ddof=1) / np.sqrt(2)
    assert lwc[0] == "| lwc"
    assert f"{kept.mean():.2%} ± {half:.2%}" in lwc
    assert f"{1 - (20 + 26) / ROWS:.2%}" in lwc, "where neither is wrong, both give the base's label"
    assert random[-2].startswith("+12.00 ("), "(40 + 60 − 24 − 28) of 400 rows"
    assert random[-1].startswith("+12.00 (")
    assert "; +8.0, +16.0)" in random[-2], "(40 − 24) and (60 − 28) of 200 rows: one seed alone"
    assert float(random[-2].split("(")[1].split(" ")[0]) > 0, "the lead is beyond its interval"
    assert lwc[-2] == "", "nobody leads itself"


def test_the_cases_of_all_seeds_come_side_by_side(benchmark: Any) -> None:
    options = SimpleNamespace(seeds=[17, 18], ratios=[3.0, 2.0], baselines=["drop_top"], baseline_ratio=2.0)
    cases = [("lwc", 3.0), ("lwc", 2.0), ("drop_top", 2.0)]
    assert [case[:3] for case in benchmark.asked(options)] == [(seed, *case) for case in cases for seed in (17, 18)]


@pytest.mark.grid
def test_a_case_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--model", "scratch", "--runs", str(tmp_path / "runs"), "--seeds", "1", "2",
               "--ratios", "3", "--baselines", "--jobs", "2"]  # fmt: skip
    nowhere = {**os.environ, "LWC_DATA_DIR": str(tmp_path / "nowhere"), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=nowhere, timeout=300)
    assert ended.returncode == 1, ended.stderr
    for seed in (1, 2):
        assert f"lwc 3x seed {seed} failed: " in ended.stderr
    assert "Musical_instruments_reviews.csv.gz" in ended.stderr
