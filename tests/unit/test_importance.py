"""Every claim of a scorer: planted blocks, padding, batching, seeds, and a model left as it was."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from tiny_models import VOCAB, tiny, tokens

from lwc.errors import DataError
from lwc.importance.ablation import loss_and_accuracy
from lwc.importance.fusion import fuse, usable
from lwc.importance.per_example import example_gradients, fast_gradients, slow_gradients, uncovered
from lwc.importance.registry import SCORERS
from lwc.importance.score import score_blocks
from lwc.models.batches import Batch, batches, pad
from lwc.models.families import FAMILIES, block_list, family_of
from lwc.models.load import build_from_config
from lwc.models.surgery import remove_blocks
from lwc.recipe import FromConfig, Score

METHODS = sorted(SCORERS)
TYPES = sorted(FAMILIES)
ENCODED = tokens(9)
LABELS = np.array([0, 1, 2, 1, 0, 2, 0, 1, 1])
DATA = batches(ENCODED, LABELS, 4, length_bucketed=False, seed=None)


class Words:
    """As much of a tokenizer as ``build_from_config`` reads."""

    pad_token_id, cls_token_id, sep_token_id = 1, 2, 3

    def __len__(self) -> int:
        return VOCAB


def pre_norm(blocks: int, seed: int = 0) -> Any:
    settings = FromConfig(kind="config", blocks=blocks, hidden=16, heads=2, dropout=0.1, max_length=40)
    model = build_from_config(settings, Words(), ["bad", "fair", "good"], seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.copy_(0.25 * torch.randn(parameter.shape, generator=generator))
    return model


def scale(model: Any, index: int, factor: float) -> None:
    with torch.no_grad():
        for parameter in block_list(model, family_of(model))[index].parameters():
            parameter.mul_(factor)


def score(method: str, model: Any, data: list[Batch] | None = None) -> tuple[float, ...]:
    result = SCORERS[method](model, family_of(model), DATA if data is None else data, None)
    assert result.method == method
    assert result.unit
    assert result.seconds >= 0
    count = len(block_list(model, family_of(model)))
    assert len(result.scores) == count
    assert all(len(figures) == count for figures in result.details.values())
    return result.scores


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dead", [0, 2, 4])
def test_an_identity_block_scores_exactly_zero(method: str, dead: int) -> None:
    model = pre_norm(5)
    scale(model, dead, 0.0)
    found = score(method, model)
    assert found[dead] == 0.0
    others = [value for index, value in enumerate(found) if index != dead]
    assert min(abs(value) for value in others) > 1e-7
    if method != "ablation":  # a block that does harm has a negative ablation score, and belongs below the identity
        assert min(others) > 0


@pytest.mark.parametrize("method", METHODS)
def test_a_block_whose_output_projections_are_zero_scores_zero(method: str) -> None:
    """The identity, with all other weights of the block in place."""
    model = pre_norm(5)
    block = block_list(model, family_of(model))[2]
    with torch.no_grad():
        block.attn.Wo.weight.zero_()
        block.mlp.Wo.weight.zero_()
    assert score(method, model)[2] == 0.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "deberta-v2", "mpnet", "electra"])
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


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rest", [0.0, 0.01])
@pytest.mark.parametrize("needed", [1, 3, 4])
def test_an_indispensable_block_scores_highest(method: str, rest: float, needed: int) -> None:
    """One block does the work: labels are the answers that the model gives with it."""
    model = pre_norm(5)
    for index in range(5):
        if index != needed:
            scale(model, index, rest)
    with torch.no_grad():
        answers = np.concatenate([model(**batch.inputs).logits.argmax(dim=-1).numpy() for batch in DATA])
    data = batches(ENCODED, answers, 4, length_bucketed=False, seed=None)
    found = score(method, model, data)
    assert int(np.argmax(found)) == needed
    others = [value for index, value in enumerate(found) if index != needed]
    assert found[needed] > 10 * max(abs(value) for value in others)


def same(found: tuple[float, ...], want: tuple[float, ...]) -> None:
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6 * max(abs(value) for value in want))


def padded(batch: Batch, extra: int) -> Batch:
    fill = {"input_ids": 1, "attention_mask": 0}
    return Batch(
        {name: functional.pad(value, (0, extra), value=fill[name]) for name, value in batch.inputs.items()},
        batch.labels,
        batch.rows,
    )


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("method", METHODS)
def test_padding_batch_size_and_batch_order_change_nothing(model_type: str, method: str) -> None:
    model = tiny(model_type, blocks=3)
    want = score(method, model)
    same(score(method, model, [padded(batch, 7) for batch in DATA]), want)
    for size in (1, 2, 9):
        same(score(method, model, batches(ENCODED, LABELS, size, length_bucketed=False, seed=None)), want)
    # Reversed, the rest of one row comes first: what a first batch shows must not decide for the others.
    same(score(method, model, DATA[::-1]), want)
    same(score(method, model, batches(ENCODED, LABELS, 4, length_bucketed=True, seed=3)), want)


@pytest.mark.parametrize("method", METHODS)
def test_what_stands_in_padded_places_does_not_count(method: str) -> None:
    model = pre_norm(3)
    junk = [padded(batch, 5) for batch in DATA]
    for batch in junk:
        batch.inputs["input_ids"][batch.mask == 0] = 50
    same(score(method, model, junk), score(method, model))


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_scores(method: str) -> None:
    assert score(method, pre_norm(4, seed=5)) == score(method, pre_norm(4, seed=5))
    assert score(method, pre_norm(4, seed=5)) != score(method, pre_norm(4, seed=6))


def hooks(model: Any) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model_type", ["modernbert", "bert", "deberta-v2"])
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


@pytest.mark.parametrize("method", METHODS)
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


@pytest.mark.parametrize("method", METHODS)
def test_a_failure_halfway_leaves_no_trace(method: str) -> None:
    model = pre_norm(3)
    bad = Batch({name: value.clone() for name, value in DATA[1].inputs.items()}, DATA[1].labels, DATA[1].rows)
    bad.inputs["input_ids"][0, 0] = VOCAB + 5
    with pytest.raises((IndexError, RuntimeError)):
        score(method, model, [DATA[0], bad])
    assert hooks(model) == 0
    assert all("forward" not in module.__dict__ for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "electra", "modernbert"])
@pytest.mark.parametrize("longest", [6, 30])
def test_fast_gradients_are_the_loop(model_type: str, longest: int) -> None:
    """30 tokens are more than the model is wide: the squared norm is then computed the other way round."""
    model = tiny(model_type, blocks=3)
    family = family_of(model)
    data = batches(tokens(5, longest=longest), LABELS[:5], 5, length_bucketed=False, seed=None)[0]
    assert uncovered(model, family, data) is None
    fast, slow = fast_gradients(model, family, data), slow_gradients(model, family, data)
    for name in ("squared", "dot", "units"):
        want = getattr(slow, name)
        assert want.shape == (5, 3)
        torch.testing.assert_close(getattr(fast, name), want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))
    torch.testing.assert_close(fast.squared, slow.squared, rtol=1e-5, atol=0)


def test_what_the_fast_way_does_not_cover_goes_the_slow_way() -> None:
    model = tiny("deberta-v2", blocks=3)
    family = family_of(model)
    assert uncovered(model, family, DATA[0])
    found = torch.cat([gradients.squared for gradients in example_gradients(model, family, DATA)])
    want = torch.cat([slow_gradients(model, family, batch).squared for batch in DATA])
    assert torch.equal(found, want)


def test_tied_weights_inside_a_block_go_the_slow_way() -> None:
    model = tiny("bert", blocks=3)
    attention = block_list(model, family_of(model))[1].attention.self
    attention.key.weight = attention.query.weight
    assert uncovered(model, family_of(model), DATA[0])


def test_opposite_gradients_do_not_cancel() -> None:
    """Case 14: one text under both labels of a model that answers 50:50. The mean gradient is exactly zero."""
    model = tiny("bert", blocks=3, num_labels=2)
    with torch.no_grad():
        model.classifier.bias.zero_()
        logits = model(input_ids=torch.tensor([ENCODED.ids[0]])).logits[0]
        model.classifier.bias.copy_(-logits)
    twice = pad(ENCODED, [0, 0], LABELS)
    data = [Batch(twice.inputs, torch.tensor([0, 1]), twice.rows)]
    parameters = list(block_list(model, family_of(model)).parameters())
    mean = functional.cross_entropy(model(**data[0].inputs).logits, data[0].labels)
    of_mean = sum(float((g**2).sum()) for g in torch.autograd.grad(mean, parameters))
    result = SCORERS["fisher"](model, family_of(model), data, None)
    assert of_mean < 1e-6 * sum(result.details["trace"])
    assert min(result.scores) > 1e-4
    assert min(score("taylor", model, data)) > 1e-4


@pytest.mark.parametrize("model_type", TYPES)
def test_block_influence_is_its_formula_on_real_tokens(model_type: str) -> None:
    model = tiny(model_type, blocks=3)
    sums, count = np.zeros(3), 0
    with torch.no_grad():
        for ids in ENCODED.ids:
            seen: list[tuple[torch.Tensor, torch.Tensor]] = []

            def keep(_: Any, args: Any, output: Any, seen: list[Any] = seen) -> None:
                seen.append((args[0], output[0] if isinstance(output, tuple) else output))

            handles = [block.register_forward_hook(keep) for block in block_list(model, family_of(model))]
            model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long))
            for handle in handles:
                handle.remove()
            for index, (before, after) in enumerate(seen):
                for x, y in zip(before[0].double(), after[0].double(), strict=True):
                    sums[index] += 1 - float(x @ y / (x.norm() * y.norm()))
            count += len(ids)
    np.testing.assert_allclose(score("block_influence", model), sums / count, rtol=1e-4)


@pytest.mark.parametrize("model_type", TYPES)
def test_ablation_is_the_loss_of_the_model_with_the_block_removed(model_type: str) -> None:
    model = tiny(model_type, blocks=4)
    family = family_of(model)
    result = SCORERS["ablation"](model, family, DATA, None)
    whole, accuracy = loss_and_accuracy(model, DATA)
    for block in set(range(4)) - set(family.protected):
        loss, left = loss_and_accuracy(remove_blocks(model, family, [block]), DATA)
        assert result.scores[block] == pytest.approx(loss - whole, abs=1e-6)
        assert result.details["accuracy_drop"][block] == pytest.approx(accuracy - left, abs=1e-9)


def test_loss_and_accuracy_by_hand() -> None:
    model = tiny("bert", blocks=2)
    loss, correct = 0.0, 0
    with torch.no_grad():
        for ids, label in zip(ENCODED.ids, LABELS, strict=True):
            logits = model(input_ids=torch.tensor([ids])).logits[0].double()
            loss -= float(logits.log_softmax(dim=-1)[int(label)])
            correct += int(logits.argmax()) == label
    assert loss_and_accuracy(model, DATA) == pytest.approx((loss / 9, correct / 9), rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dead", [1, 10, 11])
def test_blocks_1_10_and_11_are_not_mixed_up(method: str, dead: int) -> None:
    model = pre_norm(12)
    scale(model, dead, 0.0)
    assert [index for index, value in enumerate(score(method, model)) if value == 0.0] == [dead]


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "distilbert", "deberta-v2"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_models_of_one_and_two_blocks(model_type: str, blocks: int) -> None:
    model = tiny(model_type, blocks=blocks)
    found = score_blocks(model, family_of(model), DATA, Score())
    assert found["blocks"] == blocks
    assert sorted(found["fused"]["ranking"]) == list(range(blocks))
    assert found["excluded"] == {}
    assert len(found["kendall_tau"]["matrix"]) == 4
    json.dumps(found, allow_nan=False)


def test_the_score_stage_says_all_and_ranks_planted_blocks() -> None:
    model = pre_norm(6)
    for index in range(6):
        scale(model, index, {3: 1.0, 1: 0.0}.get(index, 0.2))
    with torch.no_grad():
        answers = np.concatenate([model(**batch.inputs).logits.argmax(dim=-1).numpy() for batch in DATA])
    assert len(set(answers.tolist())) > 1
    data = batches(ENCODED, answers, 4, length_bucketed=False, seed=None)
    said: list[str] = []
    found = score_blocks(model, family_of(model), data, Score(), said.append)
    assert [line.split()[0] for line in said] == list(found["methods"])
    assert found["examples"] == 9
    assert found["fused"]["ranking"][0] == 3
    assert found["fused"]["scores"][3] == 1.0
    assert {entry["weight"] for entry in found["methods"].values()} == {1.0}
    json.dumps(found, allow_nan=False)


def test_one_class_only_is_an_error() -> None:
    model = pre_norm(2)
    data = batches(ENCODED, np.ones(9, dtype=int), 4, length_bucketed=False, seed=None)
    with pytest.raises(DataError, match="one label"):
        score_blocks(model, family_of(model), data, Score())
    with pytest.raises(DataError, match="empty"):
        score_blocks(model, family_of(model), [], Score())


def test_a_method_without_information_is_excluded_by_name() -> None:
    nan, good = float("nan"), [0.1, 0.3, 0.2]
    fusion = fuse({"fisher": good, "taylor": [1.0, nan, 2.0], "ablation": [0.5] * 3}, {})
    assert fusion.excluded == {"taylor": "a score is not finite", "ablation": "all blocks score the same"}
    assert fusion.scores == fuse({"fisher": good}, {}).scores == (0.0, 1.0, 0.5)
    assert fusion.ranking == (1, 2, 0)
    assert "weight" in fuse({"fisher": good, "taylor": [3, 2, 1]}, {"taylor": 0.0}).excluded["taylor"]
    assert set(usable({"a": [float("inf"), 1.0], "b": [0.0, 0.0]})[1]) == {"a", "b"}
    # Equal but for rounding is equal.
    assert set(usable({"a": [0.3, 0.1 + 0.2]})[1]) == {"a"}


def test_weights_weigh() -> None:
    scores = {"fisher": [1.0, 2.0, 3.0], "taylor": [3.0, 2.0, 1.0]}
    assert fuse(scores, {}).scores == (0.5, 0.5, 0.5)
    assert fuse(scores, {}).ranking == (0, 1, 2)
    assert fuse(scores, {"fisher": 3.0}).scores == (0.25, 0.5, 0.75)
    with pytest.raises(ValueError, match="different numbers"):
        fuse({"a": [1, 2], "b": [1, 2, 3]}, {})


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_are_not_finite_never_pass_for_scores(method: str) -> None:
    """NaN in a block: every method says so, none gives it a number such as the 0 of the identity."""
    model = pre_norm(3)
    with torch.no_grad():
        block_list(model, family_of(model))[1].mlp.Wo.weight.fill_(float("nan"))
    assert usable({method: score(method, model)})[1] == {method: "a score is not finite"}


def test_nothing_left_to_rank_by_is_one_clear_error() -> None:
    broken = pre_norm(3)
    with torch.no_grad():
        broken.classifier.weight.fill_(float("nan"))
        block_list(broken, family_of(broken))[0].mlp.Wo.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="cannot be ranked") as caught:
        score_blocks(broken, family_of(broken), DATA, Score())
    assert all(method in caught.value.message for method in METHODS)
    still = pre_norm(3)
    for index in range(3):
        scale(still, index, 0.0)
    with pytest.raises(DataError, match="all blocks score the same"):
        score_blocks(still, family_of(still), DATA, Score())


def test_a_head_that_is_not_finite_excludes_the_methods_that_read_the_loss() -> None:
    model = pre_norm(3)
    with torch.no_grad():
        model.classifier.weight.fill_(float("nan"))
    found = score_blocks(model, family_of(model), DATA, Score())
    assert set(found["excluded"]) == {"fisher", "taylor", "ablation"}
    assert found["kendall_tau"]["names"] == ["block_influence"]
    assert found["methods"]["fisher"]["scores"] == [None] * 3
    json.dumps(found, allow_nan=False)
