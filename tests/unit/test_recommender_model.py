"""The view of a stock GPT-2 that everything else reads as a classifier, and the losses of its training."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from histories import recipe

from lwc.importance.score import score_blocks
from lwc.models.batches import Batch, batches, pad
from lwc.models.families import family_of
from lwc.models.surgery import bypass, remove_blocks
from lwc.recipe import (
    Ablation,
    AngularDistance,
    BlockInfluence,
    EmpiricalFisher,
    FromConfig,
    Score,
    Shap,
    Taylor,
)
from lwc.tasks.next_item.histories import Catalogue
from lwc.tasks.next_item.losses import full_softmax, sampled_softmax
from lwc.tasks.next_item.model import NextItemView, build, encoded, load
from lwc.tasks.next_item.rows import answers, train_rows
from lwc.tasks.next_item.task import TASK

SHAPE = FromConfig(kind="config", blocks=4, hidden=16, heads=2, dropout=0.0, max_length=12)
ITEMS = 30
HISTORIES = [[3, 4, 5], [1], [9, 8, 7, 6, 5, 4], [0, 29], [2, 2, 2, 2]]


@pytest.fixture
def view() -> NextItemView:
    made = build(SHAPE, ITEMS, seed=1)
    with torch.no_grad():  # the small start of a GPT-2 hardly tells items apart
        for parameter in made.parameters():
            parameter.mul_(4.0) if parameter.ndim == 2 else None
    return made


def in_batches(size: int = 2) -> list[Batch]:
    labels = np.array([(sum(history) * 7) % ITEMS for history in HISTORIES])
    return batches(encoded(HISTORIES, 12), labels, size, length_bucketed=True, seed=None)


def test_answers_are_the_stock_models_last_logits_whatever_the_padding(view: NextItemView) -> None:
    found = answers(view, HISTORIES, ITEMS, 12)
    for history, row in zip(HISTORIES, found, strict=True):
        ids = torch.tensor([[item + 1 for item in history]])
        with torch.no_grad():
            alone = view.model(input_ids=ids).logits[0, -1, 1:]
        np.testing.assert_allclose(row, alone.numpy(), atol=1e-5)
    assert len({row.argmax() for row in found}) > 1


def test_an_empty_history_ranks_as_the_popularity_list_does(view: NextItemView) -> None:
    found = answers(view, [[], [1, 2]], ITEMS, 12)
    assert (found[0] == 0).all()
    assert found[1].std() > 0
    with pytest.raises(ValueError, match="empty"):
        encoded([[]], 12)


def test_only_the_last_items_of_a_long_history_are_read(view: NextItemView) -> None:
    long = [n % ITEMS for n in range(40)]
    np.testing.assert_allclose(answers(view, [long], ITEMS, 12), answers(view, [long[-12:]], ITEMS, 12))


def test_the_checkpoint_loads_without_lwc_and_gives_the_same_logits(view: NextItemView, tmp_path: Path) -> None:
    smaller = remove_blocks(view, family_of(view), [1, 3])
    smaller.save_pretrained(tmp_path, safe_serialization=True)
    code = (
        "import sys, torch; sys.modules['lwc'] = None\n"
        "from transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r}).eval()\n"
        "assert type(model).__name__ == 'GPT2LMHeadModel' and len(model.transformer.h) == 2\n"
        "print(model(input_ids=torch.tensor([[4, 5, 6]])).logits[0, -1, 1:].tolist())\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    loaded = answers(load(tmp_path), [[3, 4, 5]], ITEMS, 12)[0]
    np.testing.assert_allclose(eval(done.stdout), answers(smaller, [[3, 4, 5]], ITEMS, 12)[0], atol=1e-5)
    np.testing.assert_allclose(loaded, answers(smaller, [[3, 4, 5]], ITEMS, 12)[0], atol=1e-6)


def test_removing_blocks_is_bypassing_them(view: NextItemView) -> None:
    family = family_of(view)
    with bypass(view, family, [0, 2]):
        expected = answers(view, HISTORIES, ITEMS, 12)
    found = answers(remove_blocks(view, family, [0, 2]), HISTORIES, ITEMS, 12)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not np.allclose(found, answers(view, HISTORIES, ITEMS, 12))


def test_a_block_that_is_the_identity_scores_lowest_under_every_method(view: NextItemView) -> None:
    dead = view.model.transformer.h[2]
    with torch.no_grad():
        for layer in (dead.attn.c_proj, dead.mlp.c_proj):
            layer.weight.zero_()
            layer.bias.zero_()
    methods = (
        BlockInfluence(method="block_influence"), EmpiricalFisher(method="fisher"), Taylor(method="taylor"),
        Ablation(method="ablation"), AngularDistance(method="angular_distance"), Shap(method="shap", exact=True),
    )  # fmt: skip
    found = score_blocks(view, family_of(view), in_batches(), Score(methods=methods))
    for name, result in found["methods"].items():
        assert result["scores"][2] == pytest.approx(0.0, abs=1e-6), name
        assert sum(abs(score) > 1e-6 for score in result["scores"]) == 3, name
    again = score_blocks(view, family_of(view), in_batches(5), Score(methods=methods))
    for name, result in found["methods"].items():
        assert result["scores"] == pytest.approx(again["methods"][name]["scores"], rel=1e-3, abs=1e-6), name


def test_training_asks_at_every_place_and_only_at_real_ones(view: NextItemView) -> None:
    rows = encoded([[3, 4, 5, 6], [7, 8]], 13)
    batch = pad(rows, [0, 1], None)
    inputs = TASK.inputs(batch)
    assert inputs["positions"].tolist() == [[True] * 3, [True, False, False]]
    items = Catalogue(tuple(map(str, range(ITEMS))), (1,) * ITEMS)
    output = view(**inputs)
    assert len(TASK.logits(view, output, items)) == 4, "one answer a real position"
    found = TASK.loss(recipe(Path("shop.csv")), items, view, output, batch)
    losses = []
    for history in ([3, 4, 5, 6], [7, 8]):
        for end in range(1, len(history)):
            logits = torch.from_numpy(answers(view, [history[:end]], ITEMS, 12))
            losses.append(float(functional.cross_entropy(logits, torch.tensor([history[end]]))))
    assert float(found.detach()) == pytest.approx(np.mean(losses), abs=1e-5)


def test_every_place_of_a_long_history_is_asked_once() -> None:
    history = list(range(23))
    rows = train_rows([history, [5], [1, 2]], 8)
    asked = [token - 1 for ids in rows.ids for token in ids[1:]]
    assert sorted(asked) == sorted([*history[1:], 2])
    assert max(map(len, rows.ids)) == 9


def test_sampled_softmax_nears_the_full_one_from_below(view: NextItemView) -> None:
    torch.manual_seed(0)
    hidden, targets = torch.randn(64, 16) * 2, torch.randint(ITEMS, (64,))
    full = float(full_softmax(view, hidden, targets, ITEMS))
    few, many = (
        float(np.mean([float(sampled_softmax(view, hidden, targets, negatives, ITEMS)) for _ in range(repeats)]))
        for negatives, repeats in ((4, 400), (20_000, 3))
    )
    assert many == pytest.approx(full, rel=0.03)
    assert few < full
    assert abs(few - full) > abs(many - full)
    assert math.isfinite(few)
