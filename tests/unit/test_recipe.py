"""Recipes: what is read, what is refused, and how clearly."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from lwc.core.errors import RecipeError
from lwc.recipe import Classification, Fused, Recipe
from lwc.recipe.file import load_recipe, parse_recipe
from lwc.recipe.variants import unfit_variants

MINIMAL = """\
schema_version: 1
name: tiny
model: {kind: config, blocks: 4, hidden: 16, heads: 2}
target: {ratio: 2.5x, of: blocks}
"""


def refuse(text: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "r.yaml", overrides)
    assert caught.value.exit_code == 2
    return [line.strip() for line in caught.value.message.splitlines()[1:]]


def test_minimal_recipe_gets_defaults() -> None:
    recipe = parse_recipe(MINIMAL, "r.yaml")
    assert recipe.target.ratio == 2.5
    assert recipe.data.text_fields == ("body",), "titles leak the label: never a default"
    assert [m.method for m in recipe.score.methods] == ["block_influence", "fisher", "taylor", "ablation"]


@pytest.mark.parametrize("written", ["2.5", "2.5x", '"2.5x"', "2.5×", "'2.5'"])
def test_ratio_spellings(written: str) -> None:
    assert parse_recipe(MINIMAL.replace("2.5x", written), "r").target.ratio == 2.5


def test_ratio_needs_its_base_and_at_least_one() -> None:
    assert refuse(MINIMAL.replace(", of: blocks", "")) == ["line 4: target.of: required, but not given"]
    assert "target.ratio" in refuse(MINIMAL.replace("2.5x", "0.9x"))[0]


@pytest.mark.parametrize(("written", "value"), [("1e-5", 1e-5), ("2E-5", 2e-5), ("0.00002", 2e-5), ("2.e-5", 2e-5)])
def test_scientific_notation_is_a_number(written: str, value: float) -> None:
    assert parse_recipe(MINIMAL + f"train: {{learning_rate: {written}}}\n", "r").train.learning_rate == value


def test_yaml_1_1_surprises_stay_text() -> None:
    names = "data: {source: {kind: amazon-sample}, labels: {scheme: column, names: [no, yes, on, 017, 12:30]}}\n"
    assert parse_recipe(MINIMAL + names.replace("017", '"017"'), "r").data.labels.names == (
        "no", "yes", "on", "017", "12:30",
    )  # fmt: skip
    assert parse_recipe(MINIMAL + names, "r").data.labels.names == ("no", "yes", "on", "017", "12:30")


def test_duplicate_keys_are_refused_with_both_lines() -> None:
    assert refuse(MINIMAL + "name: other\n") == ["line 5: name: key given twice (first on line 2)"]


def test_one_mistake_is_one_error() -> None:
    assert refuse(MINIMAL + "train: {lerning_rate: 1e-4}\n") == [
        "line 5: train.lerning_rate: unknown key; did you mean 'learning_rate'?"
    ]
    assert refuse(MINIMAL.replace("model:", "modle:")) == ["line 3: modle: unknown key; did you mean 'model'?"]
    assert refuse(MINIMAL + "select: {strategy: racing, keep_frist: 1}\n") == [
        "line 5: select.keep_frist: unknown key; did you mean 'keep_first'?"
    ]
    (problem,) = refuse(MINIMAL + "score: {methods: [{method: fischer}]}\n")
    assert problem.startswith("line 5: score.methods.0:")
    assert problem.endswith("did you mean 'fisher'?")


def test_a_checkpoint_every_no_step_is_one_problem() -> None:
    (problem,) = refuse(MINIMAL, "train.checkpoint_every=0")
    assert problem.startswith("--set: train.checkpoint_every: Input should be greater than or equal to 1")


def test_all_problems_come_in_one_go() -> None:
    problems = refuse(MINIMAL + "sede: 1\ntrain: {epochs: 0}\ngates: [{metric: A b, op: '>=', value: 1}]\n")
    assert [p.split(":")[1].strip() for p in problems] == ["sede", "train.epochs", "gates.0.metric"]


def test_overrides() -> None:
    assert parse_recipe(MINIMAL, "r", ["train.epochs=1", "target.ratio=3x"]).train.epochs == 1
    assert refuse(MINIMAL, "trian.epochs=1")[0].startswith("--set: trian: unknown key")
    assert refuse(MINIMAL, "train.epochs=x")[0].startswith("--set: train.epochs:")
    with pytest.raises(RecipeError, match=r"not of the form path\.to\.key=value"):
        parse_recipe(MINIMAL, "r", ["train.epochs"])


@pytest.mark.parametrize("name", ["../evil", "/etc/x", "a/b", "", ".hidden", "a\\b", "x" * 65])
def test_a_name_cannot_leave_its_folder(name: str) -> None:
    assert any("name" in problem for problem in refuse(MINIMAL.replace("name: tiny", f"name: {json.dumps(name)}")))


def test_missing_and_broken_files(tmp_path: Path) -> None:
    (tmp_path / "amazon.yaml").write_text(MINIMAL)
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "amazn.yaml")
    assert "did you mean" in caught.value.hint
    with pytest.raises(RecipeError, match=r"r\.yaml, line 2: not valid YAML"):
        parse_recipe("a: [1,\nb: }", "r.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(RecipeError, match="cannot be read as UTF-8"):
        load_recipe(tmp_path / "latin.yaml")


def test_recipes_are_frozen() -> None:
    recipe = parse_recipe(MINIMAL, "r")
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem, "the run folder is named after the recipe: keep it the file's name"
    assert recipe.gates, "a shipped recipe decides something"
    jsonschema.validate(recipe.model_dump(mode="json"), Recipe.model_json_schema())


@pytest.mark.parametrize(
    "addition",
    ["train: {epochs: .inf}\n", "gates: [{metric: a, op: '<=', value: .nan}]\n", "x: !!int abc\n", "x: &a [*a]\n"],
)
def test_values_that_json_or_yaml_cannot_carry_are_refused(addition: str) -> None:
    with pytest.raises(RecipeError):
        parse_recipe(MINIMAL + addition, "r.yaml")


def test_control_characters_are_an_error_of_the_recipe() -> None:
    with pytest.raises(RecipeError, match="not valid YAML"):
        parse_recipe("a: \x07", "r.yaml")


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("select: {strategy: bean}", "beam"),
        ("select: {keep_frist: 1}", "did you mean 'keep_first'?"),
        ("select: {rounds: 3}", "select.strategy: required, but not given; one of iterated"),
        ("task: {min_history: 4}", "task.kind: required, but not given; one of next_item"),
        ("data: {source: {paths: [a.csv]}}", "data.source.kind: required, but not given; one of mcauley, table"),
        ("score: {methods: [{permutations: 4}]}", "one of mutual_information, shap"),
    ],
)
def test_a_section_without_its_tag_is_told_which_ones_fit(section: str, told: str) -> None:
    (problem,) = refuse(f"{MINIMAL}{section}\n")
    assert told in problem
    assert "discriminator" not in problem


def test_a_section_without_its_tag_is_the_default_one() -> None:
    recipe = parse_recipe(MINIMAL + "select: {keep_first: 1}\ntask: {}\nsweep: {ratios: [2], select: [{}]}\n", "r.yaml")
    assert (recipe.select, recipe.task) == (Fused(keep_first=1), Classification())
    assert recipe.sweep is not None
    assert recipe.sweep.select == (Fused(),)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ("score: {methods: [{method: llm_expert, base_url: 'http://x', model: m}]}", "reads the scores of other"),
        (
            "score: {methods: [{method: shap, weight: 0}, {method: fisher}]}\nselect: {strategy: single, method: shap}",
            "'shap' has weight 0",
        ),
        ("select: {keep_first: 1, keep_last: 1}", "keep 2 of 4 blocks, 2.5x of blocks leaves room for 1"),
        ("target: {ratio: 1.2, of: params}\nselect: {keep_first: 2, keep_last: 2}", "keep 4 of 4 blocks"),
        ("target: {ratio: 5, of: blocks}", "4 blocks allow at most 4"),
        ('data: {labels: {scheme: column, names: ["a\\nb", c]}}', "contains a line break"),
        ("data: {labels: {scheme: column, names: [a, b, a]}}", "lists 'a' twice"),
        ("verify: {rate: 2, seconds: 10}", "gives 20 requests in 10 s, verify.min_requests is 50"),
        (
            "model: {kind: config, norm: post, max_length: 32}\nexport: {latency_shapes: [{batch: 1, length: 64}]}",
            "export.latency_shapes go up to 64 tokens, model.max_length is 32",
        ),
    ],
)  # fmt: skip
def test_what_no_run_can_do_is_refused_before_any(sections: str, told: str) -> None:
    given = {line.partition(":")[0] for line in sections.splitlines()}
    kept = "".join(line for line in MINIMAL.splitlines(True) if line.partition(":")[0] not in given)
    (problem,) = refuse(f"{kept}{sections}\n")
    assert told in problem


def test_as_many_blocks_as_the_target_leaves_may_be_named() -> None:
    text = MINIMAL.replace("2.5x", "2x") + "select: {keep_first: 1, keep_last: 1}\n"
    assert parse_recipe(text, "r.yaml").select.ends(4) == {0, 3}


def test_the_sweep_is_checked_with_the_recipe() -> None:
    sweep = "sweep: {ratios: [1, 2, 2, 9], select: [{}, {strategy: single, method: shap}]}\n"
    with pytest.raises(RecipeError) as caught:
        parse_recipe(MINIMAL + sweep, "r.yaml", checks=[unfit_variants])
    told = caught.value.message
    assert "line 5: sweep.ratios.0: 1x removes nothing" in told
    assert "line 5: sweep.ratios.2: gives tiny-2x-fused twice" in told
    assert "sweep.ratios.3" not in told, "the strategies are listed, and each has its place"
    assert "sweep.select.0: 9x with fused: target.ratio is 9, but 4 blocks allow at most 4" in told
    assert "sweep.select.1: 2x with single: select.method 'shap' is not one of" in told


MERGED = (
    MINIMAL
    + """\
train: &opt {epochs: 3, learning_rate: 2e-3}
recover:
  epochs: 5
  <<: *opt
"""
)


def test_merge_keys_bring_what_a_section_does_not_have() -> None:
    recipe = parse_recipe(MERGED, "r.yaml", ["train.epochs=4"])
    assert (recipe.recover.epochs, recipe.recover.learning_rate) == (5, 2e-3)
    assert recipe.train.epochs == 4
    two = MERGED.replace("*opt", "[{warm: 0.5, epochs: 9}, *opt]")
    assert refuse(two) == ["line 8: recover.warm: unknown key; did you mean 'warmup'?"]


def test_a_merge_of_what_is_no_section_names_its_line() -> None:
    with pytest.raises(RecipeError, match="line 8: not valid YAML: << merges sections only"):
        parse_recipe(MERGED.replace("*opt", "4"), "r.yaml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_says_the_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(MINIMAL + "description: größer\n", encoding=encoding)
    assert load_recipe(path).description == "größer"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("train:", "train: empty: give it keys, or leave it out"),
        ("train: 3", "train: must be a section of keys and values (given: 3)"),
        ("verify: {protocols: http}", "verify.protocols: must be a list, such as [first, second] (given: 'http')"),
    ],
)
def test_a_section_or_list_of_another_kind_is_told_in_words(line: str, told: str) -> None:
    assert refuse(f"{MINIMAL}{line}\n") == [f"line 5: {told}"]


def test_one_path_needs_no_list() -> None:
    recipe = parse_recipe(f"{MINIMAL}data: {{source: {{kind: table, paths: a.csv}}}}\n", "r.yaml")
    assert recipe.data.source.model_dump()["paths"] == ("a.csv",)
