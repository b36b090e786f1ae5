"""The training benchmark: what it counts, that it runs, and that it says why it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_scripts import load
from torch.utils.flop_counter import FlopCounterMode

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "train.py"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    return load(SCRIPT)


def test_operations_are_those_that_torch_counts(benchmark: Any) -> None:
    setting = benchmark.Setting(2, 128, 3, 24, 24, 1, "fp32", 64)
    model = benchmark.build(setting)
    inputs = {"input_ids": torch.randint(5, 100, (3, 24)), "attention_mask": torch.ones(3, 24, dtype=torch.long)}
    with FlopCounterMode(display=False) as counter:
        model(**inputs).logits.sum().backward()
    # The pooler and the head are not counted: 6 · 3 rows · (128² + 2 · 128).
    head = 6 * 3 * (128 * 128 + 2 * 128)
    assert benchmark.step_flops(model, inputs["attention_mask"]) == pytest.approx(counter.get_total_flops() - head)
    half = inputs["attention_mask"].clone()
    half[:, 12:] = 0
    assert benchmark.step_flops(model, half) < benchmark.step_flops(model, inputs["attention_mask"]) / 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so nothing is skipped")
def test_without_a_gpu_it_says_so(benchmark: Any, capsys: pytest.CaptureFixture[str],
                                  monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["train.py"])
    benchmark.main()
    assert "skipped: torch" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.grid
def test_two_processes_share_the_batches(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--quick", "--workers", "2"]
    command += [] if torch.cuda.is_available() else ["--cpu"]
    if 0 < torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs or none")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["processes"] == 2
    assert found["measured_steps"] == 4
    assert 0 <= found["padding_share"] < 0.5
    assert 0 < found["share_of_peak"] < 1
