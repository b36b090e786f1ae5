"""`select: {blocks: [...]}`, and what `lwc validate` says of a checkpoint that cannot do what the recipe asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from strategies import chosen, selection
from tiny_models import tiny

from lwc.core.errors import RecipeError, TargetError
from lwc.models.families import family_of
from lwc.pipeline.checkpoint_fit import unfit_checkpoint
from lwc.recipe import Named, Recipe, Target
from lwc.recipe.file import parse_recipe
from lwc.selection.select import plan_cut


def recipe(**sections: Any) -> Recipe:
    text = json.dumps({"schema_version": 1, "name": "r", "model": {"kind": "config", "blocks": 4}, **sections})
    return parse_recipe(text, "r.yaml")


def test_blocks_alone_choose_the_strategy_and_are_the_target() -> None:
    found = recipe(select={"blocks": [1, 2]})
    assert isinstance(found.select, Named)
    assert found.target.ratio == 1.0
    assert recipe(select={"blocks": [1, 2]}, target={"ratio": 2, "of": "blocks"}).target.ratio == 2.0
    again = Recipe.model_validate(found.model_dump())
    assert again == found, "a variant of a sweep is made so"


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"select": {"blocks": [1, 4]}}, "names block 4, but the 4 blocks are 0 to 3"),
        ({"select": {"blocks": [0, 1, 2, 3]}}, "removes all 4 blocks"),
        ({"select": {"blocks": [1, 1]}}, "names a block twice"),
        ({"select": {"blocks": []}}, "select.blocks"),
        ({"select": {"blocks": [0], "keep_first": 1}}, "removes block 0, which keep_first"),
        ({"select": {"blocks": [1]}, "target": {"ratio": 2, "of": "blocks"}}, "leaves 3 of 4 blocks, 1.33x"),
        ({"select": {"keep_first": 1}}, "target"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(sections: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        recipe(**sections)


def test_just_these_blocks_go_whatever_the_scores_say() -> None:
    model = tiny("bert", blocks=4)
    importance = {"blocks": 4, "fused": {"ranking": [0, 2, 1, 3]}}
    settings = chosen("named", blocks=[2, 0])
    found = selection(model, [], importance, Target(ratio=1.0, of="blocks"), settings)
    assert found["removed"] == [0, 2]
    assert found["kept"] == [1, 3]
    assert found["ratios"]["blocks"] == 2.0


def test_a_block_that_a_family_needs_stays() -> None:
    model = tiny("modernbert", blocks=4)
    with pytest.raises(TargetError, match="block 0, which this model type cannot lose"):
        plan_cut(model, family_of(model), Target(ratio=1.0, of="blocks"), Named(strategy="named", blocks=(0, 1)))


def test_a_target_in_parameters_is_measured_on_the_named_blocks() -> None:
    model = tiny("bert", blocks=4)
    settings = Named(strategy="named", blocks=(1, 2))
    with pytest.raises(TargetError, match=r"without blocks \[1, 2\], params is 1\.\d+x, not 2x"):
        plan_cut(model, family_of(model), Target(ratio=2.0, of="params"), settings)
    assert plan_cut(model, family_of(model), Target(ratio=1.1, of="params"), settings).keep == 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("checkpoint")
    tiny("bert", blocks=4).save_pretrained(place)
    return place


def problems(source: object, **sections: Any) -> list[tuple[str, str]]:
    model = {"kind": "pretrained", "source": str(source)}
    sections = {"target": {"ratio": 2, "of": "blocks"}, **sections}
    return [(".".join(map(str, where)), said) for where, said in unfit_checkpoint(recipe(model=model, **sections))]


def test_a_checkpoint_that_is_there_and_can_do_it_has_no_problem(folder: Path) -> None:
    assert problems(folder) == []
    assert problems(folder, target={"ratio": 1.05, "of": "params"}) == []
    assert problems("someone/model-on-the-hub") == []
    assert problems("package:not_installed_here") == []


def test_a_missing_folder_and_one_without_a_checkpoint(tmp_path: Path) -> None:
    ((where, said),) = problems(tmp_path / "nothing")
    assert where == "model.source"
    assert "no such folder" in said
    ((where, said),) = problems(tmp_path)
    assert where == "model.source"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    ((where, said),) = problems(tmp_path)
    assert "two stacks" in said


def test_a_target_out_of_reach(folder: Path) -> None:
    ((where, said),) = problems(folder, target={"ratio": 5, "of": "blocks"})
    assert (where, "4 blocks allow at most 4" in said) == ("target.ratio", True)
    ((where, said),) = problems(folder, target={"ratio": 50, "of": "params"})
    assert where == "target.ratio"
    assert "with one of 4 blocks left params is at most 2." in said
    assert problems(folder, target={"ratio": 50, "of": "params"}, vocabulary={"trim": True}) == [], "only a run knows"
    assert problems(folder, target={"ratio": 50, "of": "latency"}) == []
    ((where, said),) = problems(folder, select={"blocks": [7]})
    assert (where, "names block 7" in said) == ("select", True)


def test_latency_is_timed_at_no_length_that_the_model_does_not_read() -> None:
    short = recipe(model={"kind": "config", "max_length": 10}, target={"ratio": 2, "of": "blocks"})
    assert [(one.batch, one.length) for one in short.export.latency_shapes] == [(1, 10), (8, 10)]
    own = {"latency_shapes": [{"batch": 2, "length": 8}]}
    kept = recipe(model={"kind": "config", "max_length": 10}, target={"ratio": 2, "of": "blocks"}, export=own)
    assert [(one.batch, one.length) for one in kept.export.latency_shapes] == [(2, 8)]
    usual = recipe(target={"ratio": 2, "of": "blocks"})
    assert [(one.batch, one.length) for one in usual.export.latency_shapes] == [(1, 64), (8, 64)]
