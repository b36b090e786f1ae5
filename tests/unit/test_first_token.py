"""Where the classifier reads the first token, the last block computes it alone: cheaper, with the same answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from taught import live_teacher, recovery_loss
from tiny_models import tiny, tokens

from lwc.core.errors import ModelError
from lwc.models.batches import Batch, batches
from lwc.models.families import FAMILIES, family_of
from lwc.models.forward.first_token import first_token_alone
from lwc.models.surgery import remove_blocks
from lwc.recipe import Recovery
from lwc.training.teacher import BlockOutputs

NARROW = sorted(name for name, row in FAMILIES.items() if row.after_attention)


def batch() -> Batch:
    return batches(tokens(6), np.zeros(6, dtype=np.int64), 6, length_bucketed=False, seed=None)[0]


def gradients(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**inputs).logits.square().sum().backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("model_type", NARROW)
def test_answers_and_gradients_are_those_of_the_whole_block(model_type: str) -> None:
    model, inputs = tiny(model_type, blocks=2), batch().inputs
    whole, before = gradients(model, inputs), model(**inputs).logits
    with first_token_alone(model), BlockOutputs(model, [0, 1]) as capture:
        torch.testing.assert_close(model(**inputs).logits, before, atol=1e-5, rtol=1e-5)
        assert [state.shape[1] for state in capture.take()] == [inputs["input_ids"].shape[1], 1]
        alone = gradients(model, inputs)
    assert alone.keys() == whole.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(alone[name], gradient, atol=1e-4, rtol=1e-4)
    with BlockOutputs(model, [1]) as capture:
        model(**inputs)
        assert capture.take()[0].shape[1] > 1, "put back"


def test_the_bert_family_can() -> None:
    assert {"bert", "roberta", "xlm-roberta", "electra"} <= set(NARROW)


@pytest.mark.parametrize("model_type", ["modernbert", "gpt2", "distilbert"])
def test_others_are_refused(model_type: str) -> None:
    with pytest.raises(ModelError, match="last_block: read") as caught, first_token_alone(tiny(model_type)):
        pass
    assert "last_block: all" in caught.value.hint


def test_hidden_states_of_the_first_token_alone_are_compared() -> None:
    model, rows = tiny("bert", blocks=3), batch()
    cut = remove_blocks(model, family_of(model), [1]).train(False)
    settings = Recovery(logits_weight=0, hidden_weight=1, last_block="read")
    with first_token_alone(cut, model), BlockOutputs(cut, range(2)) as capture:
        loss = recovery_loss(cut, live_teacher(model, [1, 2]), settings, capture, rows)
    with BlockOutputs(cut, range(2)) as capture:
        cut(**rows.inputs)
        first, last = capture.take()
    wanted_first, wanted_last = live_teacher(model, [1, 2])(rows).hidden
    real = rows.mask.bool()
    apart = [
        ((mine - theirs) ** 2).sum() / (theirs**2).sum()
        for mine, theirs in ((first[real], wanted_first[real]), (last[:, 0], wanted_last[:, 0]))
    ]
    assert float(loss.detach()) == pytest.approx(float(sum(apart).detach()) / 2, rel=1e-4)


def test_whole_answers_cannot_be_stored_for_it() -> None:
    with pytest.raises(ValidationError, match="last_block: all"):
        Recovery(cache_teacher="always", last_block="read")
