"""Angular distance against its formula, token by token, and of spans."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from grid import families
from tiny_models import tiny, tokens

from lwc.importance.angular_distance import angles, angular_distance
from lwc.models.batches import batches
from lwc.models.families import FAMILIES, block_list, family_of, hidden_states
from lwc.recipe import AngularDistance

BLOCKS = 4
ENCODED = tokens(7)
DATA = batches(ENCODED, np.arange(7) % 3, 3, length_bucketed=True, seed=None)


def literal(model: Any) -> np.ndarray:
    """(L, L): one text at a time without padding, one token at a time, arccos of the cosine."""
    found, count = np.zeros((BLOCKS, BLOCKS)), 0
    for text in ENCODED.ids:
        pairs: list[tuple[torch.Tensor, torch.Tensor]] = []

        def keep(_: Any, args: Any, output: Any, pairs: list[Any] = pairs) -> None:
            pairs.append((args[0][0].double(), hidden_states(output)[0].double()))

        handles = [block.register_forward_hook(keep) for block in block_list(model, family_of(model))]
        with torch.no_grad():
            model(input_ids=torch.tensor([text]))
        for handle in handles:
            handle.remove()
        for first in range(BLOCKS):
            for last in range(first, BLOCKS):
                for x, y in zip(pairs[first][0], pairs[last][1], strict=True):
                    found[first, last] += math.acos(float(x @ y / (x.norm() * y.norm()))) / math.pi
        count += len(text)
    return found / count


@pytest.mark.parametrize("model_type", families(sorted(FAMILIES)))
def test_blocks_and_spans_are_the_formula(model_type: str) -> None:
    model = tiny(model_type, blocks=BLOCKS)
    want = literal(model)
    result = angular_distance(model, family_of(model), DATA, AngularDistance(method="angular_distance"))
    np.testing.assert_allclose(result.scores, want.diagonal(), rtol=1e-4)
    assert list(result.details) == ["span_1", "span_2", "span_3", "span_4"]
    for length in range(1, BLOCKS + 1):
        found = result.details[f"span_{length}"]
        assert len(found) == BLOCKS
        np.testing.assert_allclose(found[: BLOCKS - length + 1], want.diagonal(length - 1), rtol=1e-4)
        assert all(math.isnan(value) for value in found[BLOCKS - length + 1 :]), "no span starts so late"


def test_known_angles() -> None:
    before = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 0.0], [3.0, 4.0]]])
    right = torch.tensor([[[0.0, 5.0], [0.0, 1.0], [1.0, 0.0], [-4.0, 3.0]]])
    assert float(angles(before, right)) == pytest.approx(4 * 0.5)
    assert float(angles(before[:, :2], -before[:, :2])) == pytest.approx(2 * 1.0)
    assert float(angles(before, before)) == 0.0, "a zero vector that stays is no turn"


def test_a_small_turn_is_not_lost_in_rounding() -> None:
    turn = 1e-5
    before = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    after = torch.tensor([[[math.cos(turn), math.sin(turn)]]], dtype=torch.float64)
    assert float(angles(before, after)) == pytest.approx(turn / math.pi, rel=1e-5)


def test_spans_see_what_blocks_undo() -> None:
    """Two turns may add up or cancel; a triangle inequality holds either way."""
    model = tiny("modernbert", blocks=BLOCKS)
    details = angular_distance(model, family_of(model), DATA, AngularDistance(method="angular_distance")).details
    for first in range(BLOCKS - 1):
        together = details["span_1"][first] + details["span_1"][first + 1]
        assert 0 < details["span_2"][first] <= together + 1e-12
