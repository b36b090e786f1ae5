"""What a machine can do and does: `precision: auto` by a planted driver and processor, and time without a core."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lwc.core import machine as environment
from lwc.core.machine import auto_precision, ran_and_waited


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A processor without bf16, torch built for CUDA, nothing remembered."""
    monkeypatch.setattr(environment, "cpu_flags", lambda: {"avx2"})
    monkeypatch.setattr(environment, "versions", lambda names: {"torch": "2.13.0"})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    environment._compute_capability.cache_clear()
    yield
    environment._compute_capability.cache_clear()


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.parametrize(
    ("script", "precision"),
    [
        ("echo 9.0", "bf16"),
        ("echo 7.5", "fp32"),
        ("echo 9.0; echo 7.5", "fp32"),
        ("echo 10.0", "bf16"),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "fp32"),
        ("echo '[N/A]'", "fp32"),
    ],
    ids=["Hopper", "Turing emulates it", "both", "Blackwell", "broken driver", "no answer"],
)
def test_auto_is_bf16_on_gpus_that_multiply_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, precision: str
) -> None:
    driver(tmp_path, monkeypatch, script)
    assert auto_precision() == precision


def test_a_gpu_that_is_not_used_does_not_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, "echo 9.0")
    assert auto_precision() == "bf16"
    with monkeypatch.context() as hidden:
        hidden.setenv("ACCELERATE_USE_CPU", "true")  # accelerate launch --cpu
        assert auto_precision() == "fp32"
    for name, value in (("CUDA_VISIBLE_DEVICES", ""), ("CUDA_VISIBLE_DEVICES", "-1")):
        with monkeypatch.context() as hidden:
            environment._compute_capability.cache_clear()
            hidden.setenv(name, value)
            assert auto_precision() == "fp32"
    environment._compute_capability.cache_clear()
    monkeypatch.setattr(environment, "versions", lambda names: {"torch": "2.13.0+cpu"})
    assert auto_precision() == "fp32"


def test_a_processor_that_multiplies_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert auto_precision() == "fp32"
    monkeypatch.setattr(environment, "cpu_flags", lambda: {"avx512f", "avx512_bf16"})
    assert auto_precision() == "bf16"


def test_what_runs_is_counted_and_waiting_never_shrinks() -> None:
    before = ran_and_waited()
    if before is None:
        pytest.skip("this system does not count it")
    started = time.process_time()
    while time.process_time() - started < 0.2:
        pass
    after = ran_and_waited()
    assert after is not None
    assert after[0] - before[0] >= 0.15
    assert after[1] >= before[1]
