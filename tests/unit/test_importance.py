"""Every claim of a scorer: planted blocks, padding, batching, seeds, and a model left as it was."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from grid import methods_by_family
from planted import (
    BLOCKS,
    MEASURING,
    SCORERS,
    config_for,
    data,
    pre_norm,
    rows_for,
    scale,
    with_identity,
    with_indispensable,
)
from tiny_models import VOCAB, tiny, tokens

from lwc.importance.fusion import usable
from lwc.models.batches import Batch, batches
from lwc.models.families import FAMILIES, block_list, family_of
from lwc.models.surgery import bypass
from lwc.recipe import METHODS, Score

SIGNED = {"ablation", "mutual_information", "shap"}
TYPES = sorted(FAMILIES)
POST_NORM = ["bert", "roberta", "distilbert", "deberta-v2", "mpnet", "electra"]
PADDING = ["bert", "roberta", "mpnet", "distilbert", "modernbert", "deberta-v2"]
ENCODED = tokens(9)
LABELS = np.array([0, 1, 2, 1, 0, 2, 0, 1, 1])
DATA = batches(ENCODED, LABELS, 4, length_bucketed=False, seed=None)


def score(method: str, model: Any, data: list[Batch] | None = None) -> tuple[float, ...]:
    result = SCORERS[method](model, family_of(model), DATA if data is None else data, config_for(method))
    assert result.method == method
    assert result.unit
    assert result.seconds >= 0
    count = len(block_list(model, family_of(model)))
    assert len(result.scores) == count
    assert all(len(figures) == count for figures in result.details.values())
    return result.scores


@pytest.mark.parametrize("method", MEASURING)
@pytest.mark.parametrize("dead", [0, 4])
def test_an_identity_block_scores_exactly_zero(method: str, dead: int) -> None:
    model = pre_norm(5)
    scale(model, dead, 0.0)
    found = score(method, model)
    assert found[dead] == 0.0
    others = [value for index, value in enumerate(found) if index != dead]
    assert min(abs(value) for value in others) > 1e-7
    if method not in SIGNED:  # a block that does harm has a negative score there, and belongs below the identity
        assert min(others) > 0


@pytest.mark.parametrize("method", MEASURING)
def test_a_block_whose_output_projections_are_zero_scores_zero(method: str) -> None:
    """The identity, with all other weights of the block in place."""
    model = pre_norm(5)
    block = block_list(model, family_of(model))[2]
    with torch.no_grad():
        block.attn.Wo.weight.zero_()
        block.mlp.Wo.weight.zero_()
    assert score(method, model)[2] == 0.0


@pytest.mark.parametrize(
    ("method", "model_type"), methods_by_family(MEASURING, POST_NORM, ("bert", "deberta-v2", "mpnet"))
)
def test_a_post_norm_identity_block_scores_lowest(model_type: str, method: str) -> None:
    """Post-norm blocks normalise the stream again, which changes nothing but the last digits."""
    model = tiny(model_type, blocks=5)
    with torch.no_grad():
        for name, parameter in block_list(model, family_of(model))[2].named_parameters():
            if "norm" not in name.lower():
                parameter.zero_()
    found = np.array(score(method, model))
    assert abs(found[2]) < 1e-4 * np.abs(found).max()
    assert np.abs(found).argmin() == 2


@pytest.mark.parametrize("block", [0, BLOCKS - 1])
@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
@pytest.mark.parametrize("method", MEASURING)
def test_identity_block_scores_lowest(method: str, model_type: str, block: int) -> None:
    model = with_identity(model_type, block)
    result = SCORERS[method](model, family_of(model), data(model, rows_for(method)), config_for(method))
    others = [score for index, score in enumerate(result.scores) if index != block]
    assert abs(result.scores[block]) < 1e-6, "an identity block scores 0"
    assert result.scores[block] < 1e-2 * min(abs(score) for score in others), "and nothing else does"


@pytest.mark.parametrize("method", MEASURING)
@pytest.mark.parametrize("rest", [0.0, 0.01])
@pytest.mark.parametrize("needed", [1, 4])
def test_an_indispensable_block_scores_highest(method: str, rest: float, needed: int) -> None:
    """One block does the work: labels are the answers that the model gives with it."""
    model = pre_norm(5)
    for index in range(5):
        if index != needed:
            scale(model, index, rest)
    encoded = tokens(rows_for(method)) if method == "mutual_information" else ENCODED
    data = batches(encoded, np.zeros(len(encoded)), 4, length_bucketed=False, seed=None)
    with torch.no_grad():
        answers = np.concatenate([model(**batch.inputs).logits.argmax(dim=-1).numpy() for batch in data])
    data = batches(encoded, answers, 4, length_bucketed=False, seed=None)
    found = score(method, model, data)
    assert int(np.argmax(found)) == needed
    others = [value for index, value in enumerate(found) if index != needed]
    assert found[needed] > 10 * max(abs(value) for value in others)


@pytest.mark.parametrize("block", [0, BLOCKS - 1])
@pytest.mark.parametrize(("method", "model_type"), methods_by_family(MEASURING, TYPES))
def test_an_indispensable_block_scores_highest_in_encoders_and_decoders(
    method: str, model_type: str, block: int
) -> None:
    model = with_indispensable(model_type, block)
    scores = SCORERS[method](model, family_of(model), data(model, rows_for(method)), config_for(method)).scores
    others = [score for index, score in enumerate(scores) if index != block]
    assert scores[block] > 3 * max(others), scores


@pytest.mark.parametrize(("method", "model_type"), methods_by_family(MEASURING, TYPES))
def test_bypassed_block_scores_nothing_in_every_family(method: str, model_type: str) -> None:
    model = tiny(model_type)
    family = family_of(model)
    calibration = batches(tokens(6), np.arange(6) % 3, 3, length_bucketed=True, seed=None)
    with bypass(model, family, [2]):
        scores = SCORERS[method](model, family, calibration, config_for(method)).scores
    assert abs(scores[2]) < 1e-9
    assert all(abs(score) > 1e-9 for index, score in enumerate(scores) if index != 2), scores


@pytest.mark.parametrize("method", MEASURING)
@pytest.mark.parametrize("dead", [1, 10, 11])
def test_blocks_1_10_and_11_are_not_mixed_up(method: str, dead: int) -> None:
    model = pre_norm(12)
    scale(model, dead, 0.0)
    assert [index for index, value in enumerate(score(method, model)) if value == 0.0] == [dead]


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("method", MEASURING)
def test_shallow_models(method: str, blocks: int) -> None:
    model = tiny("bert", blocks=blocks)
    scores = SCORERS[method](model, family_of(model), data(model), config_for(method)).scores
    assert len(scores) == blocks
    assert np.isfinite(scores).all()


def same(found: tuple[float, ...], want: tuple[float, ...]) -> None:
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6 * max(abs(value) for value in want))


def padded(batch: Batch, extra: int) -> Batch:
    fill = {"input_ids": 1, "attention_mask": 0}
    return Batch(
        {name: functional.pad(value, (0, extra), value=fill[name]) for name, value in batch.inputs.items()},
        batch.labels,
        batch.rows,
    )


# Each treats positions and padding its own way; the other families are BERT or RoBERTa in that.
@pytest.mark.parametrize(
    ("method", "model_type"), methods_by_family(MEASURING, PADDING, ("mpnet", "modernbert", "deberta-v2"))
)
def test_padding_batch_size_and_batch_order_change_nothing(model_type: str, method: str) -> None:
    model = tiny(model_type, blocks=3)
    want = score(method, model)
    same(score(method, model, [padded(batch, 7) for batch in DATA]), want)
    for size in (1, 9):
        same(score(method, model, batches(ENCODED, LABELS, size, length_bucketed=False, seed=None)), want)
    # Reversed, the rest of one row comes first: what a first batch shows must not decide for the others.
    same(score(method, model, DATA[::-1]), want)
    same(score(method, model, batches(ENCODED, LABELS, 4, length_bucketed=True, seed=3)), want)


@pytest.mark.parametrize("method", MEASURING)
@pytest.mark.parametrize("build", [pre_norm, lambda blocks: tiny("bert", blocks=blocks)], ids=["pre", "post"])
def test_what_stands_in_padded_places_does_not_count(method: str, build: Any) -> None:
    model = build(3)
    junk = [padded(batch, 5) for batch in DATA]
    for batch in junk:
        batch.inputs["input_ids"][batch.mask == 0] = 50
    same(score(method, model, junk), score(method, model))


@pytest.mark.parametrize("method", MEASURING)
def test_same_seed_same_scores(method: str) -> None:
    assert score(method, pre_norm(4, seed=5)) == score(method, pre_norm(4, seed=5))
    assert score(method, pre_norm(4, seed=5)) != score(method, pre_norm(4, seed=6))


@pytest.mark.parametrize("method", MEASURING)
def test_repeating_the_calibration_set_changes_nothing(method: str) -> None:
    model = tiny("bert", blocks=3)
    plain = batches(ENCODED, LABELS, 4, length_bucketed=True, seed=None)
    np.testing.assert_allclose(score(method, model, plain * 3), score(method, model, plain), rtol=1e-6)


def hooks(model: Any) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


@pytest.mark.parametrize("method", MEASURING)
@pytest.mark.parametrize("model_type", ["modernbert", "bert"])
def test_the_model_is_left_as_it_was(model_type: str, method: str) -> None:
    model = tiny(model_type)
    before = copy.deepcopy(model.state_dict())
    first = score(method, model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert hooks(model) == 0
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all("forward" not in module.__dict__ for module in model.modules())
    assert score(method, model) == first


@pytest.mark.parametrize("method", MEASURING)
def test_odd_flags_and_gradients_survive_the_slow_way(method: str) -> None:
    model = tiny("deberta-v2")  # the slow way
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
        parameter.grad = torch.ones_like(parameter) if number % 4 == 0 else None
    before = {name: (p.clone(), p.requires_grad) for name, p in model.named_parameters()}
    calibration = batches(tokens(3), np.arange(3), 3, length_bucketed=True, seed=None)
    SCORERS[method](model, family_of(model), calibration, config_for(method))
    for number, (name, parameter) in enumerate(model.named_parameters()):
        assert torch.equal(parameter, before[name][0])
        assert parameter.requires_grad == before[name][1]
        assert (parameter.grad is not None) == (number % 4 == 0)
        assert parameter.grad is None or bool((parameter.grad == 1).all())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("method", MEASURING)
def test_flags_and_gradients_of_the_caller_survive(method: str) -> None:
    """Training mode (dropout would make scores random), frozen weights, gradients of a step under way."""
    model = pre_norm(4)
    want = score(method, model)
    model.train()
    model.model.embeddings.eval()
    frozen = [*model.model.embeddings.parameters(), *model.model.layers[1].parameters()]
    for parameter in frozen:
        parameter.requires_grad_(False)
    model.classifier.weight.grad = torch.ones_like(model.classifier.weight)
    assert score(method, model) == want
    assert model.training
    assert not model.model.embeddings.training
    assert all(not parameter.requires_grad for parameter in frozen)
    assert model.classifier.weight.requires_grad
    assert torch.equal(model.classifier.weight.grad, torch.ones_like(model.classifier.weight))


@pytest.mark.parametrize("method", MEASURING)
def test_a_failure_halfway_leaves_no_trace(method: str) -> None:
    model = pre_norm(3)
    bad = Batch({name: value.clone() for name, value in DATA[1].inputs.items()}, DATA[1].labels, DATA[1].rows)
    bad.inputs["input_ids"][0, 0] = VOCAB + 5
    with pytest.raises((IndexError, RuntimeError)):
        score(method, model, [DATA[0], bad])
    assert hooks(model) == 0
    assert all("forward" not in module.__dict__ for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("method", MEASURING)
def test_weights_that_are_not_finite_never_pass_for_scores(method: str) -> None:
    """NaN in a block: every method says so, none gives it a number such as the 0 of the identity."""
    model = pre_norm(3)
    with torch.no_grad():
        block_list(model, family_of(model))[1].mlp.Wo.weight.fill_(float("nan"))
    assert usable({method: score(method, model)})[1] == {method: "a score is not finite"}


def test_every_method_has_a_scorer_that_says_what_it_does() -> None:
    assert {method.method for method in Score().methods} <= set(SCORERS)
    assert set(METHODS.names()) - set(SCORERS) == {"llm_expert"}, "the expert reads what the others measured"
    for name in METHODS.names():
        assert METHODS[name].load().__doc__, name
