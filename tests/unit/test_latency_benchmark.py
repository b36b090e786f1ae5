"""The latency benchmark: its ratios and verdicts, and that it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmark_scripts import load

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "latency.py"
SHAPES = ("1×64", "8×64")


@pytest.fixture(scope="module")
def benchmark() -> Any:
    return load(SCRIPT)


def windows(benchmark: Any, **changed: list[float]) -> Any:
    """12 blocks and cuts to 6 and 4, three rounds that meet every aim; ``changed`` at 8 × 64 by runtime and blocks."""
    made = {
        "torch_12": ("PyTorch eager", "fp32", 12, [600.0, 610.0, 590.0]),
        "ort_12": ("ONNX Runtime", "fp32", 12, [400.0, 410.0, 390.0]),
        "ort_6": ("ONNX Runtime", "fp32", 6, [200.0, 205.0, 195.0]),
        "int8_6": ("ONNX Runtime", "int8", 6, [100.0, 102.5, 97.5]),
        "ort_4": ("ONNX Runtime", "fp32", 4, [140.0, 143.5, 136.5]),
        "int8_4": ("ONNX Runtime", "int8", 4, [70.0, 71.75, 68.25]),
    }
    return {
        shape: {
            benchmark.Variant(*key): changed.get(name, times) if shape == "8×64" else times
            for name, (*key, times) in made.items()
        }
        for shape in SHAPES
    }


def by_verdict(rows: Any) -> list[tuple[str, bool]]:
    return [(row.what.partition(",")[0], row.met) for row in rows]


def test_ratios_are_medians_of_rounds_and_aims_follow_the_blocks(benchmark: Any) -> None:
    # The machine is ten times slower in one round: it falls on both sides, and no ratio moves.
    disturbed = {"ort_12": [4000.0, 410.0, 390.0], "ort_6": [2000.0, 205.0, 195.0], "int8_6": [1000.0, 102.5, 97.5]}
    cut, int8, deeper, _, together = benchmark.verdicts(windows(benchmark, **disturbed))
    assert cut.values == {"1×64": pytest.approx(2.0), "8×64": pytest.approx(2.0)}
    assert cut.aim == pytest.approx(0.93 * 2)
    assert int8.values["8×64"] == pytest.approx(2.0)
    assert int8.aim == 1.6
    assert deeper.aim == pytest.approx(0.93 * 3)
    assert deeper.spread["8×64"] == (pytest.approx(390 / 136.5), pytest.approx(4000 / 140))
    assert together.aim == 8.0
    assert together.values["1×64"] == pytest.approx(600 / 70)
    assert all(met for _, met in by_verdict([cut, int8, deeper, together]))


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({"ort_6": [230.0] * 3}, ["2.00× blocks"]),
        ({"int8_6": [130.0] * 3}, ["int8 on top of 2.00×"]),
        ({"ort_4": [150.0] * 3}, ["3.00× blocks"]),
        ({"torch_12": [500.0] * 3}, ["3.00× and int8 in ONNX Runtime against the uncut model in PyTorch eager"]),
    ],
)
def test_one_shape_below_the_aim_is_a_miss(benchmark: Any, changed: dict[str, list[float]], missed: list[str]) -> None:
    found = windows(benchmark, **changed)
    rows = benchmark.verdicts(found)
    assert [what for what, met in by_verdict(rows) if not met] == missed
    lines = benchmark.table(found, rows).splitlines()
    assert [line.split("|")[1].strip().partition(",")[0] for line in lines if "MISSED" in line] == missed


def test_the_fastest_runtime_is_named_for_the_same_file_only(benchmark: Any) -> None:
    found = windows(benchmark)
    faster = benchmark.Variant("OpenVINO", "fp32", 12)
    found["1×64"][faster], found["8×64"][faster] = [380.0] * 3, [420.0] * 3
    text = benchmark.table(found, benchmark.verdicts(found))
    assert "Fastest of 12 blocks in fp32: 1×64 OpenVINO fp32 380.0 ms, 8×64 ONNX Runtime fp32 400.0 ms." in text
    assert "Fastest of 4 blocks in fp32 or int8: 1×64 ONNX Runtime int8 70.0 ms" in text


@pytest.mark.slow
@pytest.mark.grid
def test_it_runs_and_its_exit_code_is_its_verdict(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--quick", "--threads", "1", "--batches", "1", "2", "--lengths", "8"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode in (0, 3), done.stderr
    found = json.loads((tmp_path / "latency.json").read_text())
    assert (done.returncode == 0) == all(row["met"] for row in found["speed_ups"])
    aims = [0.93 * 1.5, 1.6, 0.93 * 2, 1.6, 0.93 * 3, 1.6, 8.0]  # 4, 3 and 2 of 6 blocks
    assert [row["aim"] for row in found["speed_ups"]] == pytest.approx(aims)
    ours = [row for row in found["windows"] if row["runtime"] != "OpenVINO"]
    assert len(ours) == 2 * 8
    assert all(len(row["ms"]) == 2 and min(row["ms"]) > 0 for row in found["windows"])
