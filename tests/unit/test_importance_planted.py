"""Every scorer against blocks whose importance is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import BLOCKS, PROJECTIONS, data, with_identity, with_indispensable
from tiny_models import tiny, tokens

from lwc.importance.registry import SCORERS
from lwc.models.batches import batches
from lwc.models.families import FAMILIES, family_of
from lwc.models.surgery import bypass
from lwc.recipe import Score

METHODS = sorted(SCORERS)
TYPES = sorted(PROJECTIONS)


@pytest.mark.parametrize("block", range(BLOCKS))
@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("method", METHODS)
def test_identity_block_scores_lowest(method: str, model_type: str, block: int) -> None:
    model = with_identity(model_type, block)
    result = SCORERS[method](model, family_of(model), data(model), None)
    others = [score for index, score in enumerate(result.scores) if index != block]
    assert abs(result.scores[block]) < 1e-6, "an identity block scores 0"
    assert result.scores[block] < 1e-2 * min(abs(score) for score in others), "and nothing else does"


@pytest.mark.parametrize("block", range(BLOCKS))
@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("method", METHODS)
def test_indispensable_block_scores_highest(method: str, model_type: str, block: int) -> None:
    model = with_indispensable(model_type, block)
    scores = SCORERS[method](model, family_of(model), data(model), None).scores
    others = [score for index, score in enumerate(scores) if index != block]
    assert scores[block] > 3 * max(others), scores


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
@pytest.mark.parametrize("method", METHODS)
def test_bypassed_block_scores_nothing_in_every_family(method: str, model_type: str) -> None:
    model = tiny(model_type)
    family = family_of(model)
    calibration = batches(tokens(6), np.arange(6) % 3, 3, length_bucketed=True, seed=None)
    with bypass(model, family, [2]):
        scores = SCORERS[method](model, family, calibration, None).scores
    assert abs(scores[2]) < 1e-9
    assert all(abs(score) > 1e-9 for index, score in enumerate(scores) if index != 2), scores


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_shallow_models(method: str, blocks: int) -> None:
    model = tiny("bert", blocks=blocks)
    scores = SCORERS[method](model, family_of(model), data(model), None).scores
    assert len(scores) == blocks
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("method", METHODS)
def test_model_is_left_as_it_was(method: str) -> None:
    model = tiny("deberta-v2")  # the slow way
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
        parameter.grad = torch.ones_like(parameter) if number % 4 == 0 else None
    before = {name: (p.clone(), p.requires_grad) for name, p in model.named_parameters()}
    calibration = batches(tokens(3), np.arange(3), 3, length_bucketed=True, seed=None)
    SCORERS[method](model, family_of(model), calibration, None)
    for number, (name, parameter) in enumerate(model.named_parameters()):
        assert torch.equal(parameter, before[name][0])
        assert parameter.requires_grad == before[name][1]
        assert (parameter.grad is not None) == (number % 4 == 0)
        assert parameter.grad is None or bool((parameter.grad == 1).all())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_rows_and_recipe_name_the_same_methods() -> None:
    assert set(SCORERS) == {method.method for method in Score().methods}
    for name, scorer in SCORERS.items():
        assert scorer.__doc__, name
