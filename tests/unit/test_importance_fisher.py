"""Fisher squares each example's gradient, and says so when it cannot do so fast."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from planted import data, with_identity
from tiny_models import tiny, tokens
from torch import nn

from lwc.importance.fisher import fisher
from lwc.importance.per_example import collect, example_gradients, fast_gradients, is_norm, slow_gradients, uncovered
from lwc.importance.taylor import taylor
from lwc.models.batches import Batch, Encoded, batches
from lwc.models.families import block_list, family_of
from lwc.models.forward import pieces
from lwc.recipe import EmpiricalFisher, Taylor

FISHER, TAYLOR = EmpiricalFisher(method="fisher"), Taylor(method="taylor")
DATA = batches(tokens(9), np.arange(9) % 3, 4, length_bucketed=False, seed=None)


def opposite() -> tuple[nn.Module, list[Batch]]:
    """One text with both labels, on a model that gives both the same probability: the gradients cancel exactly."""
    model = tiny("bert", num_labels=2)
    encoded = Encoded([[2, 9, 17, 33, 3]] * 2, None, 1, 32, 0)
    calibration = batches(encoded, np.array([0, 1]), 2, length_bucketed=True, seed=None)
    with torch.no_grad():
        model.classifier.bias.sub_(model(**calibration[0].inputs).logits[0])
    return model, calibration


def test_opposite_gradients_do_not_cancel() -> None:
    model, (batch,) = opposite()
    family = family_of(model)
    nn.functional.cross_entropy(model(**batch.inputs).logits, batch.labels).backward()
    mean = [sum(float((p.grad**2).sum()) for p in block.parameters()) for block in block_list(model, family)]
    result = fisher(model, family, [batch], FISHER)
    assert max(mean) < 1e-9 * min(result.details["trace"]), "the squared mean gradient is 0 here"
    assert min(result.scores) > 1e-6
    assert min(taylor(model, family, [batch], TAYLOR).scores) > 1e-4


def test_plain_trace_would_not_see_an_identity_block() -> None:
    model = with_identity("modernbert", 2)
    result = fisher(model, family_of(model), data(model), FISHER)
    assert result.scores[2] == 0
    assert result.details["trace"][2] > 0.01 * max(result.details["trace"]), "why the trace is not the score"


def test_frozen_parameters_are_scored_all_the_same() -> None:
    model = tiny("bert")
    calibration = data(model)
    expected = fisher(model, family_of(model), calibration, FISHER).scores
    model.requires_grad_(False)
    assert fisher(model, family_of(model), calibration, FISHER).scores == expected


def test_tied_weights_are_noticed(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("bert")
    family = family_of(model)
    first, second = block_list(model, family)[:2]
    assert uncovered(model, family, data(model)[0]) is None
    first.attention.output.dense.weight = second.attention.output.dense.weight
    assert "shared" in (uncovered(model, family, data(model)[0]) or "")
    with caplog.at_level(logging.WARNING, logger="lwc"):
        fisher(model, family, data(model)[:1], FISHER)
    assert "one example at a time, since weights are shared" in caplog.text


def test_deberta_goes_the_slow_way_and_says_why() -> None:
    model = tiny("deberta-v2", share_att_key=True)
    assert uncovered(model, family_of(model), data(model)[0]) is not None


def test_a_layer_it_does_not_know_is_named() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    model = tiny("bert")
    block_list(model, family_of(model))[1].output.dense = Scaled(32, 16)
    assert "Scaled" in (uncovered(model, family_of(model), data(model)[0]) or "")


def test_norms_are_known_by_name_too() -> None:
    assert is_norm(nn.LayerNorm(4))
    assert is_norm(nn.RMSNorm(4))
    assert not is_norm(nn.Linear(4, 4))


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "modernbert"])
def test_rows_keep_their_order_in_whatever_pieces_they_are_taken(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(model_type)
    family, calibration = family_of(model), data(model)
    want = torch.cat([slow_gradients(model, family, batch).units for batch in calibration])
    for numbers in (1, 16 * 4 * 20, 1 << 30):
        monkeypatch.setattr(pieces, "_CACHED", numbers)
        found = collect(model, family, calibration)
        torch.testing.assert_close(found.units, want, rtol=1e-5, atol=1e-6 * float(want.max()))


def test_fisher_and_taylor_share_one_pass() -> None:
    model = tiny("bert")
    family, calibration = family_of(model), data(model)
    shared = collect(model, family, calibration)
    one, other = fisher.of(shared, FISHER), taylor.of(shared, TAYLOR)
    assert (one.scores, one.details) == ((alone := fisher(model, family, calibration, FISHER)).scores, alone.details)
    assert (other.scores, other.details) == (
        (alone := taylor(model, family, calibration, TAYLOR)).scores,
        alone.details,
    )


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "electra", "modernbert"])
@pytest.mark.parametrize("longest", [6, 30])
def test_fast_gradients_are_the_loop(model_type: str, longest: int) -> None:
    """30 tokens are more than the model is wide: the squared norm is then computed the other way round."""
    model = tiny(model_type, blocks=3)
    family = family_of(model)
    data = batches(tokens(5, longest=longest), np.arange(5) % 3, 5, length_bucketed=False, seed=None)[0]
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
