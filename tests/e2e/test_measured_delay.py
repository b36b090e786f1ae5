"""Delays measured on the real server: each is what the server was given, and what it does to a lone client shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_repository import configs

from lwc.core.errors import ServingError
from lwc.recipe import Package
from lwc.serving.triton.repository import ModelFiles, build_repository
from lwc.serving.tune import delay
from lwc.serving.tune.delay import DelaySearch, measure
from lwc.tasks.text_endpoint import TextEndpoint

pytestmark = pytest.mark.serving


def test_a_lone_client_waits_for_nobody_and_gets_no_delay(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client alone pays a delay of 50 ms in every request."""
    monkeypatch.setattr(delay, "ROUNDS", 2)
    build_repository(
        TextEndpoint(), ModelFiles(checkpoint / "model.onnx", checkpoint), tmp_path, Package(intra_op_threads=1), "r"
    )
    before = configs(tmp_path)
    told: list[str] = []
    found = measure(
        tmp_path, "r", ["a good thing", "a bad thing"], DelaySearch(50_000, 1, 240.0, 1.5, (0, 50_000)), told.append
    )
    assert found["chosen"] == 0
    slow, fast = found["figures"]
    assert (slow["delay"], fast["delay"]) == (50_000, 0)
    assert slow["p50_ms"] > 50.0
    assert slow["throughput"] < 20.0
    assert (fast["wins"], slow["wins"]) == (1.0, 0.0)
    assert fast["gain"] > 1.0
    assert len(told) == 4
    assert configs(tmp_path) == before, "only copies are served with other delays"


def test_a_text_that_is_refused_is_an_error_and_not_a_figure(checkpoint: Path, tmp_path: Path) -> None:
    build_repository(
        TextEndpoint(), ModelFiles(checkpoint / "model.onnx", checkpoint), tmp_path, Package(intra_op_threads=1), "r"
    )
    with pytest.raises(ServingError, match=r"r answers HTTP 400: .*empty"):
        measure(tmp_path, "r", ["  "], DelaySearch(0, 1, 240.0, 1.0, ()), print)
