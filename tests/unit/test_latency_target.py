"""A target of latency: bisection over measured cuts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny

from lwc.core.errors import TargetError
from lwc.models.families import block_list, family_of
from lwc.models.types import Model
from lwc.pipeline import blocks_for_latency as latency
from lwc.recipe import Export


def export(model: Model, path: Path) -> None:
    """In place of an ONNX file: the number of blocks."""
    path.write_text(str(len(block_list(model, family_of(model)))))


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ratio is base ÷ cut blocks, as a clock would find it."""
    asked: list[int] = []

    def compare(base: Path, cut: Path, *_: Any) -> dict[str, Any]:
        asked.append(int(cut.read_text()))
        return {"ratio": int(base.read_text()) / asked[-1], "shapes": [{"spread": {"base": 0.01}}]}

    monkeypatch.setattr(latency, "compare_latency", compare)
    return asked


@pytest.mark.parametrize(("ratio", "keep"), [(1.0, 12), (1.05, 11), (2.0, 6), (2.5, 4), (3.0, 4), (12.0, 1)])
def test_the_smallest_cut_that_is_fast_enough(timed: list[int], tmp_path: Path, ratio: float, keep: int) -> None:
    model = tiny("bert", blocks=12, max_position_embeddings=64)
    found = latency.blocks_for_latency(model, family_of(model), export, ratio, Export(), tmp_path, lambda _: None)
    assert found["keep"] == keep
    assert len(set(timed)) <= 5, "bisection, not a scan"
    assert [row["blocks"] for row in found["measured"]] == sorted(set(timed))
    assert not any(tmp_path.iterdir()), "nothing is left behind"


def test_a_cut_at_the_edge_must_reach_the_target_every_time(
    timed: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = {4: iter((1.01, 0.98, 1.02))}  # 4 of 12 blocks: 3.03, 2.94 and 3.06 times as fast
    exact = latency.compare_latency

    def noisy(base: Path, cut: Path, *more: Any) -> dict[str, Any]:
        found = exact(base, cut, *more)
        return {**found, "ratio": found["ratio"] * next(noise.get(timed[-1], iter((1.0,))))}

    monkeypatch.setattr(latency, "compare_latency", noisy)
    model = tiny("bert", blocks=12, max_position_embeddings=64)
    found = latency.blocks_for_latency(model, family_of(model), export, 3.0, Export(), tmp_path, lambda _: None)
    assert timed.count(4) == 3
    assert found["keep"] == 3
    assert {row["blocks"]: row["ratio"] for row in found["measured"]}[4] == pytest.approx(2.94)


def test_out_of_reach_says_what_can_be_had(timed: list[int], tmp_path: Path) -> None:
    model = tiny("modernbert", blocks=6)
    family = family_of(model)
    with pytest.raises(TargetError, match=r"9x of latency cannot be reached.*1 of 6 left it is 6\.00x") as caught:
        latency.blocks_for_latency(model, family, export, 9.0, Export(), tmp_path, lambda _: None)
    assert "5.7x" in caught.value.hint
    assert "not counted" in caught.value.hint, "int8 would not bring the target into reach: fp32 is measured"
    assert timed == [1]
