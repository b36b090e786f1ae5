"""What each stage is for, in half a line: with sizes where they are known, and those that the stage then has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lwc.pipeline.stages import STAGES
from lwc.recipe import Recipe
from lwc.recipe.file import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


def purpose(name: str, recipe: Recipe, inputs: dict[str, Path] | None = None) -> str:
    return next(stage.purpose(recipe, inputs or {}) for stage in STAGES if stage.name == name)


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    splits = {"train": {"rows": 3480}, "calibration": {"rows": 256}, "test": {"rows": 995}}
    (tmp_path / "quality.json").write_text(json.dumps({"splits": splits}))
    (tmp_path / "selection.json").write_text(json.dumps({"removed": [1, 2, 3, 4], "blocks_before": 6}))
    return {"data": tmp_path, "select": tmp_path}


def test_the_first_run_is_told_with_its_sizes(inputs: dict[str, Path]) -> None:
    recipe = load_recipe(RECIPES / "amazon_2.5x.yaml")
    assert purpose("train", recipe, inputs) == "fine-tunes the model on 3,480 train texts, 2 epochs"
    assert purpose("recover", recipe, inputs) == "the uncut model teaches the cut one, 763 steps"
    assert purpose("remove", recipe, inputs) == "writes the model without 4 of its 6 blocks"
    assert purpose("evaluate", recipe, inputs).endswith("on 995 test texts")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_stage_of_every_recipe_says_it_in_half_a_line_before_anything_is_known(
    path: Path, inputs: dict[str, Path]
) -> None:
    recipe = load_recipe(path)
    for stage in STAGES:
        for found in ({}, inputs):
            said = stage.purpose(recipe, found)
            assert 10 < len(said) <= 80, f"{stage.name}: {said}"
            assert "\n" not in said


def test_steps_are_not_told_where_they_are_not_known(inputs: dict[str, Path]) -> None:
    def recovery(name: str, **recover: Any) -> str:
        recipe = load_recipe(RECIPES / name)
        return purpose(
            "recover", recipe.model_copy(update={"recover": recipe.recover.model_copy(update=recover)}), inputs
        )

    further = load_recipe(RECIPES / "amazon_2.5x.yaml", ["recover.unlabelled={source: {kind: amazon-sample}}"])
    assert recovery("amazon_2.5x.yaml", unlabelled=further.recover.unlabelled).endswith("one, 7 epochs")
    assert recovery("llama_2.5x.yaml").endswith("one, 1 epoch"), "rows are slices, not texts"
    labels = {"logits_weight": 0.0, "hidden_weight": 0.0, "label_weight": 1.0}
    assert recovery("amazon_2.5x.yaml", **labels) == "the cut model learns from the labels, 763 steps"
