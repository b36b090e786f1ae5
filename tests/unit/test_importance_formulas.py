"""Block influence and ablation against their formulas, one text at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from planted import SCORERS, config_for
from tiny_models import tiny, tokens

from lwc.models.batches import batches
from lwc.models.families import FAMILIES, block_list, family_of
from lwc.models.forward.predict import loss_and_accuracy
from lwc.models.surgery import remove_blocks

TYPES = sorted(FAMILIES)
ENCODED = tokens(9)
LABELS = np.array([0, 1, 2, 1, 0, 2, 0, 1, 1])
DATA = batches(ENCODED, LABELS, 4, length_bucketed=False, seed=None)


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
    np.testing.assert_allclose(
        SCORERS["block_influence"](model, family_of(model), DATA, config_for("block_influence")).scores,
        sums / count,
        rtol=1e-4,
    )


@pytest.mark.parametrize("model_type", TYPES)
def test_ablation_is_the_loss_of_the_model_with_the_block_removed(model_type: str) -> None:
    model = tiny(model_type, blocks=4)
    family = family_of(model)
    result = SCORERS["ablation"](model, family, DATA, config_for("ablation"))
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
