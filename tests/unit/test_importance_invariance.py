"""Scores are about the model and its texts, not about how these were batched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny, tokens

from lwc.importance.registry import SCORERS
from lwc.models.batches import Batch, batches
from lwc.models.families import FAMILIES, family_of

METHODS = sorted(SCORERS)
TYPES = sorted(FAMILIES)
TEXTS = tokens(11, seed=5)
LABELS = np.arange(11) % 3


def scores(method: str, model: Any, calibration: list[Batch]) -> np.ndarray:
    return np.array(SCORERS[method](model, family_of(model), calibration, None).scores)


def padded(batch: Batch, extra: int) -> Batch:
    fill = {"input_ids": 1, "attention_mask": 0}
    inputs = {
        name: torch.cat([value, torch.full((len(batch), extra), fill[name])], dim=1)
        for name, value in batch.inputs.items()
    }
    return Batch(inputs, batch.labels, batch.rows)


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("method", METHODS)
def test_padding_batch_size_and_order_do_not_matter(method: str, model_type: str) -> None:
    model = tiny(model_type, blocks=3)
    plain = batches(TEXTS, LABELS, 4, length_bucketed=True, seed=None)
    expected = scores(method, model, plain)
    others = {
        "padding": [padded(batch, 9) for batch in plain],
        "batch size 1": batches(TEXTS, LABELS, 1, length_bucketed=False, seed=None),
        "one batch": batches(TEXTS, LABELS, 11, length_bucketed=False, seed=None),
        "order of batches": plain[::-1],
        "order of rows": batches(TEXTS, LABELS, 4, length_bucketed=False, seed=8),
    }
    for name, other in others.items():
        np.testing.assert_allclose(
            scores(method, model, other), expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max(), err_msg=name
        )


@pytest.mark.parametrize("method", METHODS)
def test_what_padding_holds_does_not_matter(method: str) -> None:
    model = tiny("bert", blocks=3)
    (batch,) = batches(TEXTS, LABELS, 11, length_bucketed=True, seed=None)
    other = {**batch.inputs, "input_ids": torch.where(batch.mask.bool(), batch.inputs["input_ids"], 40)}
    expected = scores(method, model, [batch])
    np.testing.assert_allclose(scores(method, model, [Batch(other, batch.labels, batch.rows)]), expected, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_scores(method: str) -> None:
    runs = [
        scores(method, tiny("modernbert", seed=4), batches(TEXTS, LABELS, 4, length_bucketed=True, seed=2))
        for _ in range(2)
    ]
    assert np.array_equal(*runs)


@pytest.mark.parametrize("method", METHODS)
def test_repeating_the_calibration_set_changes_nothing(method: str) -> None:
    model = tiny("bert", blocks=3)
    plain = batches(TEXTS, LABELS, 4, length_bucketed=True, seed=None)
    np.testing.assert_allclose(scores(method, model, plain * 3), scores(method, model, plain), rtol=1e-6)
