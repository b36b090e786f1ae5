"""A linear start of recovery: the block before a gap takes over, in closed form, what the removed blocks did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted import with_identity
from test_train_and_recover import base, quiet, recipe_of  # noqa: F401 - base is a fixture
from tiny_models import OUTPUTS, tiny, tokens

from lwc.core.errors import ModelError
from lwc.models.batches import Batch, batches
from lwc.models.families import FAMILIES, block_list, family_of
from lwc.models.load import load_classifier, load_tokenizer, save_checkpoint
from lwc.models.surgery import remove_blocks
from lwc.training.distillation import matched_blocks
from lwc.training.linear_start import Ridge, start_linearly
from lwc.training.recovery import recover

# These norm what a block adds to the residual stream.
NORMED = {"gemma2", "gemma3_text"}


def call(model: Any, batch: Batch) -> None:
    model(**batch.inputs)


def groups(rows: int = 400, seed: int = 5) -> list[Batch]:
    return batches(tokens(rows, seed=seed), np.zeros(rows, dtype=np.int64), 50, length_bucketed=False, seed=None)


def started(model: Any, removed: list[int]) -> tuple[Any, list[dict[str, float]]]:
    family = family_of(model)
    count = len(block_list(model, family))
    kept = [block for block in range(count) if block not in removed]
    student = remove_blocks(model, family, removed)
    pairs = list(zip(kept, matched_blocks(kept, count), strict=True))
    return student, start_linearly(student, model, pairs, groups(), call, quiet)


def test_streamed_ridge_is_least_squares_of_all_rows_at_once() -> None:
    random = np.random.default_rng(0)
    inputs, targets = random.normal(size=(90, 7)), random.normal(size=(90, 3))
    ridge = Ridge(7, 3)
    for start in range(0, 90, 20):
        ridge.add(*(torch.from_numpy(one[start : start + 20]) for one in (inputs, targets)))
    plain = np.linalg.lstsq(inputs, targets, rcond=None)[0]
    np.testing.assert_allclose(ridge.solve(0.0), plain, atol=1e-12)
    penalty = 0.3 * np.square(inputs).sum() / 7
    more = np.concatenate([inputs, np.sqrt(penalty) * np.eye(7)]), np.concatenate([targets, np.zeros((7, 3))])
    np.testing.assert_allclose(ridge.solve(0.3), np.linalg.lstsq(*more, rcond=None)[0], atol=1e-12)


@pytest.mark.parametrize(("model_type", "left"), [("gpt2", 1e-4), ("phi", 1e-4), ("bert", 0.05), ("distilbert", 0.05)])
def test_a_removed_block_that_adds_a_constant_is_restored(model_type: str, left: float) -> None:
    """Exactly in a pre-norm model. In a post-norm one the constant comes after a norm, which no linear layer undoes."""
    model = with_identity(model_type, 2)
    last = block_list(model, family_of(model))[2].get_submodule(OUTPUTS[model_type][-1])
    with torch.no_grad():
        last.bias.normal_(generator=torch.Generator().manual_seed(1))
    student, [figures] = started(model, [2])
    assert (figures["block"], figures["teacher_block"]) == (1, 2)
    assert figures["before"] > 0.01
    assert figures["after"] < left * figures["before"]
    batch = groups(8, seed=9)[0]
    with torch.no_grad():
        apart, before = (
            float((one(**batch.inputs).logits - model(**batch.inputs).logits).abs().max())
            for one in (student, remove_blocks(model, family_of(model), [2]))
        )
    assert apart < before * left**0.5 * 2


@pytest.mark.parametrize("model_type", sorted(set(FAMILIES) - NORMED))
def test_every_family_comes_closer_and_keeps_its_parameters(model_type: str) -> None:
    model = tiny(model_type, blocks=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    student, figures = started(model, [2, 3])
    assert [one["teacher_block"] for one in figures] == [3], "blocks 0 and 1 stay, and 1 stands for 2 and 3"
    assert figures[0]["after"] < figures[0]["before"]
    cut = remove_blocks(model, family_of(model), [2, 3])
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, cut.state_dict()[name])}
    assert {name for name in changed if ".1." in name} == changed != set(), "only the block before the gap"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("model_type", sorted(NORMED))
def test_blocks_that_norm_what_they_add_are_refused(model_type: str) -> None:
    with pytest.raises(ModelError, match="does not know how a block") as caught:
        started(tiny(model_type, blocks=4), [2])
    assert "recover.start: cut" in caught.value.hint


def test_nothing_removed_is_nothing_changed() -> None:
    model = tiny("bert", blocks=3)
    student, figures = started(model, [])
    assert figures == []
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in student.state_dict().items())


def test_recovery_starts_there_and_says_how_near_it_is(base: tuple[Path, Path], tmp_path: Path) -> None:  # noqa: F811
    data, trained = base
    found = {}
    for start in ("cut", "linear"):
        recipe = recipe_of()
        recipe = recipe.model_copy(
            update={"recover": recipe.recover.model_copy(update={"start": start, "epochs": 0.01})}
        )
        stages = {"data": data, "train": trained, "remove": tmp_path / f"cut-{start}"}
        model = load_classifier(trained / "model")
        cut = remove_blocks(model, family_of(model), [1, 2])
        save_checkpoint(cut, load_tokenizer(trained / "model"), stages["remove"] / "model")
        out = tmp_path / start
        out.mkdir()
        recover(recipe, [0, 3], stages, out, tmp_path / f"scratch-{start}", quiet)
        found[start] = json.loads((out / "metrics.json").read_text())
    assert "start" not in found["cut"]
    [figures] = found["linear"]["start"]
    assert (figures["block"], figures["teacher_block"]) == (0, 2)
    assert figures["after"] < figures["before"]


def test_a_fit_that_comes_no_closer_is_dropped() -> None:
    model = with_identity("gpt2", 2)
    student, [figures] = started(model, [2])
    assert figures["after"] == figures["before"] == 0
    cut = remove_blocks(model, family_of(model), [2])
    assert all(torch.equal(value, cut.state_dict()[name]) for name, value in student.state_dict().items())
