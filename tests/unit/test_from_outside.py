"""Scorers and a family from outside lwc: a settings class, a function and a row, and nothing in the package changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from planted import data
from toy_model import ToyConfig, ToyForSequenceClassification

from lwc.importance import methods
from lwc.importance.per_example import ExampleGradients, GradientScorer
from lwc.importance.score import score_blocks
from lwc.importance.types import LayerImportance, Refusal, scorer
from lwc.models.batches import Batch
from lwc.models.families import FAMILIES, Family, block_list, family_of
from lwc.models.forward.predict import predict
from lwc.models.surgery import bypass, remove_blocks
from lwc.models.types import Model
from lwc.recipe import METHODS, Method, Recipe, Target
from lwc.selection.select import plan_cut, select_blocks


class WeightNorm(Method):
    implementation: ClassVar[str] = f"{__name__}:weight_norm"
    method: Literal["weight_norm"]
    power: float = 2.0


@scorer
def weight_norm(model: Model, family: Family, batches: Sequence[Batch], settings: WeightNorm) -> LayerImportance:
    """Σ |θ|^p over the block's parameters."""
    blocks = block_list(model, family)
    sums = [float(sum((p.detach().abs() ** settings.power).sum() for p in block.parameters())) for block in blocks]
    return LayerImportance("weight_norm", tuple(sums), "1")


class GradientNorm(Method):
    implementation: ClassVar[str] = f"{__name__}:gradient_norm"
    method: Literal["gradient_norm"]


@GradientScorer
def gradient_norm(gradients: ExampleGradients, settings: GradientNorm) -> LayerImportance:
    """E_n Σ g²."""
    return LayerImportance("gradient_norm", tuple(gradients.squared.mean(dim=0).tolist()), "nats²")


class Vote(Method):
    implementation: ClassVar[str] = f"{__name__}:vote"
    reads: ClassVar[Literal["model", "scores"]] = "scores"
    method: Literal["vote"]


def vote(evidence: Mapping[str, Sequence[float]], blocks: int, settings: Vote) -> LayerImportance | Refusal:
    """How many methods put a block above their own median."""
    if len(evidence) < 2:
        return Refusal("one method is no vote")
    above = [np.asarray(values) > np.median(values) for values in evidence.values()]
    return LayerImportance("vote", tuple(np.sum(above, axis=0, dtype=float).tolist()), "votes")


def recipe(*names: str) -> Recipe:
    return Recipe.model_validate(
        {
            "schema_version": 1, "name": "x", "model": {"kind": "config"}, "target": {"ratio": 2, "of": "blocks"},
            "score": {"methods": [{"method": name} for name in names]},
            "select": {"strategy": "single", "method": names[0]},
        }
    )  # fmt: skip


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "_rows", dict(METHODS._rows))  # so that what is added here goes again
    for row in (WeightNorm, GradientNorm, Vote):
        METHODS.add(row)
    row = Family("toy", "tower.units", depth_field="depth", per_block_fields=("gains",), as_output=lambda h: (h, None))
    monkeypatch.setitem(FAMILIES, "toy", row)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    model = ToyForSequenceClassification(ToyConfig(num_labels=3, pad_token_id=1)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.25)
        for parameter in model.trunk.tower.units[2].parameters():
            parameter.mul_(0.1)
    return model


@pytest.mark.usefixtures("added")
def test_a_new_scorer_scores_and_cuts_a_new_family(model: Any) -> None:
    whole, family, calibration = recipe("weight_norm", "ablation"), family_of(model), data(model)
    found = score_blocks(model, family, calibration, whole.score)
    assert list(found["methods"]) == ["weight_norm", "ablation"]
    assert found["methods"]["weight_norm"]["unit"] == "1"
    assert found["methods"]["weight_norm"]["seconds"] > 0
    assert int(np.argmin(found["methods"]["weight_norm"]["scores"])) == 2
    plan = plan_cut(model, family, Target(ratio=4 / 3, of="blocks"), whole.select)
    chosen = select_blocks(model, family, calibration, found, plan)
    assert chosen["removed"] == [2]
    smaller = remove_blocks(model, family, chosen["removed"])
    with bypass(model, family, [2]):
        np.testing.assert_allclose(predict(smaller, calibration), predict(model, calibration), atol=1e-6)


@pytest.mark.usefixtures("added")
def test_a_new_scorer_shares_the_gradients(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    collect = methods.collect
    monkeypatch.setattr(methods, "collect", lambda *args: calls.append(1) or collect(*args))
    found = score_blocks(model, family_of(model), data(model), recipe("gradient_norm", "taylor", "fisher").score)
    assert calls == [1]
    assert found["methods"]["gradient_norm"]["scores"] == found["methods"]["fisher"]["details"]["trace"]


@pytest.mark.usefixtures("added")
def test_a_new_scorer_reads_the_scores_of_the_others(model: Any) -> None:
    family, calibration = family_of(model), data(model)
    found = score_blocks(model, family, calibration, recipe("vote", "weight_norm", "ablation").score)
    assert list(found["methods"]) == ["weight_norm", "ablation", "vote"]
    assert found["methods"]["vote"]["scores"][2] == 0.0
    alone = score_blocks(model, family, calibration, recipe("vote", "ablation").score)
    assert alone["excluded"]["vote"] == "one method is no vote"


def test_the_name_of_another_row_is_taken() -> None:
    class Other(Method):
        implementation: ClassVar[str] = "elsewhere:other"
        method: Literal["taylor"]

    with pytest.raises(ValueError, match="method 'taylor' is taken by Taylor"):
        METHODS.add(Other)
