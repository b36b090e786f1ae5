"""The score stage: methods run, fused, and left out by name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from planted import data, with_identity
from tiny_models import tiny, tokens

from lwc.errors import DataError
from lwc.importance import score
from lwc.importance.registry import SCORERS
from lwc.importance.score import score_blocks
from lwc.importance.types import LayerImportance
from lwc.models.batches import batches
from lwc.models.families import block_list, family_of
from lwc.recipe import Score


def test_content() -> None:
    model = with_identity("modernbert", 2)
    said: list[str] = []
    result = score_blocks(model, family_of(model), data(model), Score(), said.append)
    assert result == json.loads(json.dumps(result, allow_nan=False))
    assert result["blocks"] == 4
    assert result["examples"] == 24
    assert result["fused"]["ranking"][-1] == 2
    assert all(result["fused"]["scores"][2] < result["fused"]["scores"][other] for other in (0, 1, 3))
    assert sorted(result["fused"]["ranking"]) == [0, 1, 2, 3]
    assert result["excluded"] == {}
    assert result["kendall_tau"]["names"] == list(result["methods"]) == [m.method for m in Score().methods]
    assert len(said) == 4
    for method in result["methods"].values():
        assert len(method["scores"]) == 4
        assert method["unit"]
        assert method["weight"] == 1
        assert all(len(values) == 4 for values in method["details"].values())


def test_one_class_only() -> None:
    model = tiny("bert")
    calibration = batches(tokens(4), np.ones(4), 2, length_bucketed=True, seed=None)
    with pytest.raises(DataError, match="all 4 calibration rows have one label") as caught:
        score_blocks(model, family_of(model), calibration, Score())
    assert "data.calibration" in caught.value.hint


def test_no_rows() -> None:
    model = tiny("bert")
    with pytest.raises(DataError, match="empty"):
        score_blocks(model, family_of(model), [], Score())


def test_degenerate_methods_are_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def giving(method: str, *scores: float) -> Any:
        return lambda *_: LayerImportance(method, scores, "", 0.0)

    replaced = {"fisher": giving("fisher", 1.0, float("nan"), 0.0, 2.0), "taylor": giving("taylor", 3.0, 3.0, 3.0, 3.0)}
    monkeypatch.setattr(score, "SCORERS", {**SCORERS, **replaced})
    model = tiny("bert")
    result = score_blocks(model, family_of(model), data(model), Score())
    assert set(result["excluded"]) == {"fisher", "taylor"}
    assert "finite" in result["excluded"]["fisher"]
    assert "same" in result["excluded"]["taylor"]
    assert result["methods"]["fisher"]["scores"][1] is None
    assert result["kendall_tau"]["names"] == ["block_influence", "ablation"]
    only = Score.model_validate({"methods": [{"method": "block_influence"}, {"method": "ablation"}]})
    assert score_blocks(model, family_of(model), data(model), only)["fused"] == result["fused"]


def test_nan_in_the_model_is_never_a_score() -> None:
    model = tiny("bert")
    calibration = data(model)
    with torch.no_grad():
        next(block_list(model, family_of(model))[1].parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match="cannot be ranked"):
        score_blocks(model, family_of(model), calibration, Score())


@pytest.mark.parametrize("blocks", [1, 2])
def test_shallow_models(blocks: int) -> None:
    model = tiny("bert", blocks=blocks)
    result = score_blocks(model, family_of(model), data(model), Score())
    assert sorted(result["fused"]["ranking"]) == list(range(blocks))
    json.dumps(result, allow_nan=False)
