"""Shapley values and ablation against loops written from the definitions: every order, every model run in full."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from grid import families
from tiny_models import tiny, tokens

from lwc.importance.ablation import ablation
from lwc.importance.shap import antithetic, shap
from lwc.models.batches import Batch, batches
from lwc.models.families import FAMILIES, family_of
from lwc.models.surgery import bypass
from lwc.recipe import Ablation, Shap

TEXTS, LABELS = tokens(7, seed=6), np.arange(7) % 3
DATA: list[Batch] = batches(TEXTS, LABELS, 3, length_bucketed=True, seed=None)


def worth(model: Any, kept: set[int], blocks: int) -> float:
    """v(S): mean log-probability of the labels, one text at a time, with the blocks outside S bypassed."""
    total = 0.0
    with bypass(model, family_of(model), set(range(blocks)) - kept), torch.no_grad():
        for text, label in zip(TEXTS.ids, LABELS, strict=True):
            total += float(model(input_ids=torch.tensor([text])).logits[0].double().log_softmax(0)[int(label)])
    return total / len(TEXTS)


def shapley(model: Any, orders: list[tuple[int, ...]], blocks: int) -> np.ndarray:
    """The mean over orders of what each block adds when it joins."""
    gains = np.zeros(blocks)
    for order in orders:
        kept: set[int] = set()
        for player in order:
            before = worth(model, kept, blocks)
            kept.add(player)
            gains[player] += worth(model, kept, blocks) - before
    return gains / len(orders)


@pytest.mark.parametrize("model_type", families(sorted(FAMILIES)))
def test_exact_is_the_mean_over_every_order(model_type: str) -> None:
    model = tiny(model_type, blocks=3)
    found = shap(model, family_of(model), DATA, Shap(method="shap", exact=True))
    np.testing.assert_allclose(found.scores, shapley(model, list(permutations(range(3))), 3), atol=2e-6)


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "deberta-v2"])
def test_sampled_is_the_loop_over_the_same_orders(model_type: str) -> None:
    model = tiny(model_type, blocks=5)
    found = shap(model, family_of(model), DATA, Shap(method="shap", permutations=2))
    np.testing.assert_allclose(found.scores, shapley(model, antithetic(5, 2), 5), atol=2e-6)


@pytest.mark.parametrize("model_type", families(sorted(FAMILIES)))
def test_ablation_is_the_loss_of_its_absence(model_type: str) -> None:
    model = tiny(model_type)
    everyone = set(range(4))
    want = [worth(model, everyone, 4) - worth(model, everyone - {index}, 4) for index in range(4)]
    np.testing.assert_allclose(
        ablation(model, family_of(model), DATA, Ablation(method="ablation")).scores, want, atol=2e-6
    )
