"""Losses with blocks bypassed: the same as full forwards, each hidden state computed once."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny, tokens

from lwc.core.errors import ModelError
from lwc.importance.ablation import ablation
from lwc.models.batches import batches
from lwc.models.families import FAMILIES, block_list, family_of
from lwc.models.forward.predict import loss_and_accuracy
from lwc.models.forward.prefix import outcomes, visiting_order
from lwc.models.surgery import bypass
from lwc.recipe import Ablation

DATA = batches(tokens(9, seed=4), np.arange(9) % 3, 4, length_bucketed=False, seed=None)
SUBSETS = [frozenset(chosen) for size in range(5) for chosen in combinations(range(4), size)]
MODELS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in sorted(FAMILIES)]
MODELS += [("deberta-v2", {"conv_kernel_size": 3}), ("modernbert", {"global_attn_every_n_layers": 2})]


def counted(model: Any) -> Counter[int]:
    """How often the sublayers of each block run."""
    runs: Counter[int] = Counter()
    for index, block in enumerate(block_list(model, family_of(model))):
        first = next(module for module in block.modules() if isinstance(module, torch.nn.Linear))
        first.register_forward_hook(lambda *_, index=index: runs.update([index]))
    return runs


@pytest.mark.parametrize(("model_type", "changes"), MODELS)
def test_every_subset_equals_a_full_forward(model_type: str, changes: dict[str, Any]) -> None:
    model = tiny(model_type, **changes)
    family = family_of(model)
    found = outcomes(model, family, DATA, SUBSETS)
    assert set(found) == set(SUBSETS)
    for gone in SUBSETS:
        with bypass(model, family, gone):
            loss, accuracy = loss_and_accuracy(model, DATA)
        assert found[gone].loss == pytest.approx(loss, abs=1e-6), gone
        assert found[gone].accuracy == accuracy


def test_each_prefix_is_computed_once() -> None:
    model = tiny("bert")
    runs = counted(model)
    outcomes(model, family_of(model), DATA[:1], SUBSETS)
    assert runs == {0: 1, 1: 2, 2: 4, 3: 8}, "as many as there are sets of blocks before it"


def test_ablation_needs_half_the_block_passes() -> None:
    model = tiny("bert", blocks=12)
    runs = counted(model)
    ablation(model, family_of(model), DATA[:1], Ablation(method="ablation"))
    assert sum(runs.values()) == 12 * 13 / 2


def test_visiting_order_starts_where_neighbours_part() -> None:
    none, last, first = frozenset[int](), frozenset([2]), frozenset([0])
    assert visiting_order([first, none, last, none], 3) == [(none, 0), (last, 2), (first, 0)]
    assert visiting_order([], 3) == []


def test_no_hidden_state_of_one_batch_is_used_for_another() -> None:
    model = tiny("modernbert")
    family = family_of(model)
    each = [outcomes(model, family, [batch], [frozenset([3])])[frozenset([3])].loss * len(batch) for batch in DATA]
    assert outcomes(model, family, DATA, SUBSETS)[frozenset([3])].loss == pytest.approx(sum(each) / 9, abs=1e-12)


def test_nests_with_a_bypass_and_restores_it() -> None:
    model = tiny("bert")
    family = family_of(model)
    both = outcomes(model, family, DATA, [frozenset([1, 2])])[frozenset([1, 2])]
    with bypass(model, family, [1]):
        assert outcomes(model, family, DATA, [frozenset([2])])[frozenset([2])] == both
        held = [block.__dict__.get("forward") for block in block_list(model, family)]
        assert [forward is not None for forward in held] == [False, True, False, False]
    assert not any("forward" in block.__dict__ for block in block_list(model, family))


def test_a_failure_restores_the_model() -> None:
    model = tiny("bert")
    with pytest.raises(ModelError, match=r"no blocks \[7\]"):
        outcomes(model, family_of(model), DATA, [frozenset([7])])
    model.classifier.forward = None
    with pytest.raises(TypeError):
        outcomes(model, family_of(model), DATA, SUBSETS)
    assert not any("forward" in block.__dict__ for block in block_list(model, family_of(model)))
