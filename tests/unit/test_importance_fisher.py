"""Fisher squares each example's gradient, and says so when it cannot do so fast."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from planted import data, with_identity
from tiny_models import tiny
from torch import nn

from lwc.importance.fisher import fisher
from lwc.importance.per_example import is_norm, uncovered
from lwc.models.batches import Batch, Encoded, batches
from lwc.models.families import block_list, family_of


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
    result = fisher(model, family, [batch])
    assert max(mean) < 1e-9 * min(result.details["trace"]), "the squared mean gradient is 0 here"
    assert min(result.scores) > 1e-6


def test_plain_trace_would_not_see_an_identity_block() -> None:
    model = with_identity("modernbert", 2)
    result = fisher(model, family_of(model), data(model))
    assert result.scores[2] == 0
    assert result.details["trace"][2] > 0.01 * max(result.details["trace"]), "why the trace is not the score"


def test_frozen_parameters_are_scored_all_the_same() -> None:
    model = tiny("bert")
    calibration = data(model)
    expected = fisher(model, family_of(model), calibration).scores
    model.requires_grad_(False)
    assert fisher(model, family_of(model), calibration).scores == expected


def test_tied_weights_are_noticed(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("bert")
    family = family_of(model)
    first, second = block_list(model, family)[:2]
    assert uncovered(model, family, data(model)[0]) is None
    first.attention.output.dense.weight = second.attention.output.dense.weight
    assert "shared" in (uncovered(model, family, data(model)[0]) or "")
    with caplog.at_level(logging.WARNING, logger="lwc"):
        fisher(model, family, data(model)[:1])
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
