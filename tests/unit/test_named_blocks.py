"""`select: {blocks: [...]}`, and what `lwc validate` says of a checkpoint that cannot do what the recipe asks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from strategies import chosen, selection
from tiny_models import tiny
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from lwc.core.errors import RecipeError, TargetError
from lwc.core.store import read_json
from lwc.models.counts import saved_counts
from lwc.models.families import CAUSAL_LM, CLASSIFICATION, family_of
from lwc.models.saved import Saved
from lwc.models.surgery import parameter_counts
from lwc.pipeline.checkpoint_fit import unfit_checkpoint
from lwc.pipeline.keys import searched_for_latency, select_needs
from lwc.pipeline.run import run
from lwc.recipe import FromConfig, Named, Recipe, Target
from lwc.recipe.file import parse_recipe
from lwc.report.build import build_report
from lwc.report.gate_names import metrics
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
        (
            {"score": {"methods": []}, "target": {"ratio": 2, "of": "blocks"}},
            "select.strategy fused goes by the scores",
        ),
        ({"score": {"methods": [], "trust": {}}, "select": {"blocks": [1]}}, "trust and fusion: learned need scores"),
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


def test_blocks_are_scored_only_if_asked_for() -> None:
    assert recipe(select={"blocks": [1]}).score.methods == ()
    assert len(recipe(select={"blocks": [1]}, score={}).score.methods) == 4
    assert len(recipe(target={"ratio": 2, "of": "blocks"}).score.methods) == 4
    baseline = recipe(target={"ratio": 2, "of": "blocks"}, select={"strategy": "drop_top"}, score={"methods": []})
    assert baseline.score.methods == (), "a strategy that reads no scores needs none either"
    assert "importance.fused.scores.0" not in metrics(recipe(select={"blocks": [1]}))
    assert "importance.fused.scores.0" in metrics(recipe(select={"blocks": [1]}, score={}))


def test_named_blocks_are_searched_for_no_latency() -> None:
    named = recipe(select={"blocks": [1]}, target={"ratio": 1.2, "of": "latency"})
    assert not searched_for_latency(named)
    assert searched_for_latency(recipe(target={"ratio": 1.2, "of": "latency"}))
    assert "export" not in select_needs(named)


SHOP = """\
schema_version: 1
name: named
data: {source: {kind: table, paths: [DATA], columns: {label: label}}, labels: {scheme: column}, calibration: 16}
model: {kind: config, norm: post, blocks: 3, hidden: 16, heads: 2, vocab_size: 200, max_length: 16}
train: {learning_rate: 1e-3}
select: {blocks: [0, 2]}
evaluate: {bootstrap: 100}
"""


def test_a_run_removes_the_named_blocks_and_reports_them_without_scores(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    words = {"bad": "broken awful refund", "good": "love great works"}
    lines = [f"{words[name]} item{row} part{row % 7},{name}" for row in range(40) for name in words]
    rows.write_text("text,label\n" + "\n".join(lines) + "\n")
    made = parse_recipe(SHOP.replace("DATA", str(rows)), "r.yaml")
    results = run(made, tmp_path / "runs", lambda *_: None, until="evaluate")
    assert not (results["score"].path / "importance.json").exists()
    assert read_json(results["select"].path / "selection.json")["removed"] == [0, 2]
    assert read_json(results["remove"].path / "model" / "config.json")["num_hidden_layers"] == 1
    report = build_report(made, {name: one.path for name, one in results.items()}, {}, {}, tmp_path / "out")
    assert report["importance"] is None
    assert report["verdict"]["removed"].startswith("Removed 2 of 3 blocks (0, 2)")
    page = (tmp_path / "out" / "report.md").read_text()
    assert "The recipe names the blocks to remove, so they were not scored" in page
    assert "No target was set" in page
    assert "1.00× in blocks, met" not in page
    assert "Target:" not in page


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
    assert problems("a-model-on-the-hub") == []
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


def test_a_relative_path_to_nothing_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    assert problems("models/mine") == []
    (tmp_path / "models").mkdir()
    assert problems("models/mine") == [
        ("model.source", "models/mine: no such folder, although models is one; give an existing folder")
    ]
    (tmp_path / "cache" / "models--models--mine").mkdir(parents=True)
    assert problems("models/mine") == [], "an organisation of that name, downloaded before"


LANGUAGE = {"task": {"kind": "causal_lm"}, "data": {"labels": {"scheme": "none"}}}


def test_a_language_models_folder_and_blocks_are_looked_at_too(tmp_path: Path) -> None:
    ((where, said),) = problems(tmp_path / "nothing", **LANGUAGE)
    assert (where, "no such folder" in said) == ("model.source", True)
    assert problems("someone/model-on-the-hub", **LANGUAGE) == []
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert problems(tmp_path, **LANGUAGE) == [], "weights without a config: --deep reads them"
    tiny("llama", blocks=4, task=AutoModelForCausalLM).save_pretrained(tmp_path / "lm")
    assert problems(tmp_path / "lm", **LANGUAGE) == []
    ((where, said),) = problems(tmp_path / "lm", **LANGUAGE, select={"blocks": [9]})
    assert (where, "names block 9" in said) == ("select.blocks", True)


@pytest.mark.parametrize(
    ("model_type", "task"),
    [("bert", CLASSIFICATION), ("modernbert", CLASSIFICATION), ("gpt2", CAUSAL_LM), ("llama", CAUSAL_LM)],
)
def test_headers_of_the_weights_count_what_the_model_counts(tmp_path: Path, model_type: str, task: str) -> None:
    kind = AutoModelForCausalLM if task == CAUSAL_LM else AutoModelForSequenceClassification
    model = tiny(model_type, blocks=3, task=kind)
    model.save_pretrained(tmp_path)
    assert saved_counts(Saved(tmp_path, task)) == parameter_counts(model, family_of(model))


def test_a_checkpoint_that_gets_a_new_head_is_counted_without_one(tmp_path: Path) -> None:
    model = tiny("bert", blocks=3)
    model.base_model.save_pretrained(tmp_path)
    found, whole = saved_counts(Saved(tmp_path, CLASSIFICATION)), parameter_counts(model, family_of(model))
    assert found.per_block == whole.per_block
    assert (
        whole.total - sum(p.numel() for p in model.bert.pooler.parameters())
        > found.total
        > 0.9 * (whole.total - sum(whole.per_block))
    ), "the fewest that it can have, so that nothing within reach is refused"


def test_a_block_that_the_type_needs_is_known_from_the_files(tmp_path: Path) -> None:
    tiny("modernbert", blocks=4).save_pretrained(tmp_path)
    ((_, said),) = problems(tmp_path, target={"ratio": 4, "of": "blocks"}, select={"keep_last": 1})
    assert "blocks [0, 3] must stay" in said
    ((_, said),) = problems(tmp_path, target={"ratio": 1, "of": "blocks"}, select={"blocks": [0]})
    assert "block 0, which this model type cannot lose" in said


def test_validate_looks_at_the_checkpoint_without_torch(folder: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    text = "schema_version: 1\nname: r\nmodel: {kind: pretrained, source: SOURCE}\nselect: {blocks: [1, 2]}\n"
    good.write_text(text.replace("SOURCE", str(folder)))
    bad.write_text(text.replace("SOURCE", str(tmp_path / "nothing")))
    script = (
        "import sys; from typer.testing import CliRunner; from lwc.cli.main import app\n"
        "result = CliRunner().invoke(app, ['validate', *sys.argv[1:]])\n"
        "assert 'torch' not in sys.modules\nprint(result.output, result.stderr); sys.exit(result.exit_code)"
    )
    found = subprocess.run([sys.executable, "-c", script, good, bad], capture_output=True, text=True, check=False)
    assert found.returncode == 2, found.stderr
    assert "ok (r, without blocks 1, 2)" in found.stdout
    assert "line 3: model.source" in found.stdout
    assert "no such folder" in found.stdout


def test_a_target_out_of_reach(folder: Path) -> None:
    ((where, said),) = problems(folder, target={"ratio": 5, "of": "blocks"})
    assert (where, "4 blocks allow at most 4" in said) == ("target.ratio", True)
    ((where, said),) = problems(folder, target={"ratio": 50, "of": "params"})
    assert where == "target.ratio"
    assert "cannot be reached by removing blocks: with 1 of 4 left it is 2." in said
    assert "vocabulary: {trim: true}" in said
    assert problems(folder, target={"ratio": 50, "of": "params"}, vocabulary={"trim": True}) == [], "only a run knows"
    assert problems(folder, target={"ratio": 50, "of": "latency"}) == []
    ((where, said),) = problems(folder, select={"blocks": [7]})
    assert (where, "names block 7" in said) == ("select.blocks", True)


def test_latency_is_timed_at_no_length_that_the_model_does_not_read() -> None:
    short = recipe(model={"kind": "config", "max_length": 10}, target={"ratio": 2, "of": "blocks"})
    assert [(one.batch, one.length) for one in short.export.latency_shapes] == [(1, 10), (8, 10)]
    own = {"latency_shapes": [{"batch": 2, "length": 8}]}
    kept = recipe(model={"kind": "config", "max_length": 10}, target={"ratio": 2, "of": "blocks"}, export=own)
    assert [(one.batch, one.length) for one in kept.export.latency_shapes] == [(2, 8)]
    model = FromConfig(kind="config", max_length=10)
    built = Recipe(schema_version=1, name="r", model=model, target=Target(ratio=2, of="blocks"))
    assert built.export.latency_shapes == short.export.latency_shapes, "also of sections that are built in Python"
    usual = recipe(target={"ratio": 2, "of": "blocks"})
    assert [(one.batch, one.length) for one in usual.export.latency_shapes] == [(1, 64), (8, 64)]
