"""What a later stage would refuse is refused before the base is trained, and only where that stage is to run."""

from __future__ import annotations

import csv
import importlib.util
import shutil
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_models import tiny
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from lwc.cli.main import app
from lwc.core.errors import DataError, LwcError, MissingDependency, ModelError, TargetError
from lwc.models.families import FAMILIES
from lwc.models.tokenizer import train_wordpiece
from lwc.pipeline.before_training import BASE, SHAPE, outline
from lwc.pipeline.deep import validate_deeply
from lwc.pipeline.preflight import MACHINE, RECIPE, Check, Subject, run_checks
from lwc.pipeline.run import run
from lwc.pipeline.stages import stages_until
from lwc.recipe import Recipe
from lwc.recipe.file import parse_recipe
from lwc.tasks.task import task_of

TEXT = """\
schema_version: 1
name: small
data: {source: {kind: table, paths: [DATA], columns: {label: label}}, labels: {scheme: column}, calibration: 16}
model: {kind: config, blocks: 4, hidden: 16, heads: 2, vocab_size: 200, max_length: 16}
target: {ratio: 2, of: blocks}
export: {latency_shapes: [{batch: 1, length: 16}]}
"""
ALL = stages_until(None)
WORDS = {"bad": "broken awful refund never again", "good": "love great works fine daily"}


def silent(*_: str) -> None:
    pass


def write_rows(path: Path, names: Collection[str] = ("bad", "good"), repeat: bool = True) -> Path:
    """60 rows in turns; every word of its own where nothing repeats."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for number in range(60):
            name = list(names)[number % len(names)]
            words = f"{list(WORDS.values())[number % 2]} item{number} and part{number}"
            rows.writerow([words if repeat else f"lone{number} word{number * 7919}", name])
    return path


def recipe(data: Path, *overrides: str) -> Recipe:
    return parse_recipe(TEXT.replace("DATA", str(data)), "small.yaml", overrides)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.csv")


@pytest.fixture(scope="module")
def data(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(recipe(rows), tmp_path_factory.mktemp("runs"), silent, until="data")["data"].path


def checked(checks: tuple[Check, ...], made: Recipe, data: Path, stages: Collection[str] = ALL) -> list[str]:
    said: list[str] = []
    base = task_of(made).start(made, data, lambda warning: None)
    run_checks(checks, Subject(made, stages, place=data, data=data, base=base), said.append)
    return said


@pytest.mark.parametrize(
    ("overrides", "needed_by", "error", "told"),
    [
        (["target={ratio: 40, of: params}"], "select", TargetError, "cannot be reached"),
        (["target={ratio: 3, of: params}", "vocabulary.trim=true"], "select", TargetError, "cannot be reached"),
        # ModernBERT's first block must stay, and so must the last.
        (["target.ratio=4", "select={keep_last: 1}"], "select", TargetError, r"blocks \[0, 3\] must stay"),
        (["recover.last_block=read"], "recover", ModelError, "other tokens than the first"),
        (["model.blocks=3", "score.fusion=learned"], "score", DataError, "at least 4 cut models, got 3"),
        (["model.blocks=11", "score.methods=[{method: shap, exact: true}]"], "score", ModelError, "exact Shapley"),
    ],
)
def test_what_the_base_cannot_do_is_told_before_it_is_trained(
    rows: Path, data: Path, overrides: list[str], needed_by: str, error: type[LwcError], told: str
) -> None:
    made = recipe(rows, *overrides)
    with pytest.raises(error, match=told) as caught:
        checked(BASE, made, data)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    checked(BASE, made, data, stages_until(ALL[ALL.index(needed_by) - 1]))


def test_a_sound_recipe_passes_and_says_what_was_checked(rows: Path, data: Path) -> None:
    levers = ("attention_weight=1", "start=linear", "last_block=read")
    made = recipe(
        rows,
        "model.norm=post",
        *(f"recover.{lever}" for lever in levers),
        "vocabulary.trim=true",
        "score={fusion: learned, methods: [{method: shap}]}",
    )
    assert checked(BASE, made, data) == [check.title for check in BASE]
    assert "attention maps" not in checked(BASE, recipe(rows), data), "nobody asked"


def test_a_model_without_attention_maps_is_told(rows: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recipe(rows, "recover.attention_weight=1")
    base = task_of(made).start(made, data, lambda warning: None)
    monkeypatch.setattr(base.model, "forward", lambda **_: SimpleNamespace(attentions=None))
    with pytest.raises(ModelError, match="does not return attention maps"):
        run_checks(BASE, Subject(made, ALL, place=data, data=data, base=base))


def test_a_disk_without_room_is_told(rows: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    with pytest.raises(LwcError, match=r"0\.0 MB free, this run writes at least"):
        checked(BASE, recipe(rows), data)


@pytest.mark.parametrize(
    ("names", "repeat", "until", "error", "told"),
    [
        (("bad\nvery", "good"), True, "package", ModelError, r"label 'bad\\nvery' contains a line break"),
        (("bad", "good"), False, "evaluate", DataError, "TF-IDF floor cannot be fitted"),
    ],
)
def test_data_that_a_later_stage_refuses_are_refused_after_the_data_stage(
    tmp_path: Path, names: tuple[str, ...], repeat: bool, until: str, error: type[LwcError], told: str
) -> None:
    made = recipe(write_rows(tmp_path / "rows.csv", names, repeat), "data.near_duplicate_threshold=1.0")
    ran: list[str] = []
    with pytest.raises(error, match=told):
        run(made, tmp_path / "runs", lambda kind, stage, text: ran.append(stage), until)
    assert set(ran) == {"data"}
    assert (tmp_path / "runs" / ".store" / "data").is_dir(), "it is kept"


@pytest.mark.parametrize("there", [True, False])
def test_unlabelled_texts_that_cannot_be_read_are_told_before_training(
    tmp_path: Path, rows: Path, data: Path, there: bool
) -> None:
    more = tmp_path / "more.csv"
    if there:
        more.write_text("review\nworks fine\n")
    made = recipe(rows, f"recover.unlabelled={{source: {{kind: table, paths: [{more}]}}}}")
    with pytest.raises(DataError, match="'text'" if there else "no such data file"):
        run_checks(RECIPE, Subject(made, ALL))
    run_checks(RECIPE, Subject(made, stages_until("select")))


def test_labels_matter_only_to_a_run_that_packages(tmp_path: Path) -> None:
    made = recipe(write_rows(tmp_path / "rows.csv", ("bad\nvery", "good")))
    found = run(made, tmp_path / "runs", silent, until="data")["data"].path
    task_of(made).check(made, found, stages_until("export"))


def checkpoint(folder: Path, model_type: str = "bert", pad: bool = True, **changes: Any) -> Path:
    """A whole checkpoint, whose weights nobody reads yet."""
    texts = [" ".join(WORDS.values())] * 5
    tokenizer = train_wordpiece(texts, 200, 40)
    model = tiny(model_type, vocab_size=len(tokenizer), **changes)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    if not pad:
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("overrides", "error", "told"),
    [
        (["model.max_length=64"], ModelError, "reads at most 40 tokens"),
        (["target.ratio=5"], TargetError, "5x of blocks cannot be reached"),
        (["select={keep_first: 2, keep_last: 1}"], TargetError, r"blocks \[0, 1, 3\] must stay"),
        (["select={keep_first: 2, keep_last: 2}", "target={ratio: 1.01, of: params}"], TargetError, "must stay"),
        (["select={keep_first: 3, keep_last: 1}", "target={ratio: 2, of: latency}"], TargetError, "room for 3 of 4"),
        (["export.latency_shapes=[{batch: 1, length: 64}]"], ModelError, "the model reads at most 40 tokens"),
    ],
)
def test_what_a_checkpoints_config_tells_is_told_before_the_data_are_read(
    tmp_path: Path, rows: Path, overrides: list[str], error: type[LwcError], told: str
) -> None:
    folder = checkpoint(tmp_path / "checkpoint")
    model = f"model={{kind: pretrained, source: {folder}, max_length: 16}}"
    with pytest.raises(error, match=told):
        run(recipe(rows, model, *overrides), tmp_path / "runs", silent)
    assert not (tmp_path / "runs" / ".store" / "data").exists()


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda folder: (folder / "config.json").write_text('{"model_type": "t5"}'), "model type 't5'"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"'), "not JSON"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
        (lambda folder: checkpoint(folder, pad=False), "no padding token"),
        (lambda folder: shutil.rmtree(folder), "no such folder"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_told_before_the_data_are_read(
    tmp_path: Path, rows: Path, break_it: Any, told: str
) -> None:
    folder = checkpoint(tmp_path / "checkpoint")
    break_it(folder)
    model = f"model={{kind: pretrained, source: {folder}, max_length: 16}}"
    with pytest.raises(ModelError, match=told) as caught:
        run(recipe(rows, model), tmp_path / "runs", silent)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "runs" / ".store" / "data").exists()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_is_outlined_without_weights(tmp_path: Path, rows: Path, model_type: str) -> None:
    folder = checkpoint(tmp_path / "checkpoint", model_type)
    made = recipe(rows, f"model={{kind: pretrained, source: {folder}, max_length: 16}}")
    base = outline(made)
    assert base is not None
    assert {parameter.device.type for parameter in base.model.parameters()} == {"meta"}
    run_checks(SHAPE, Subject(made, ALL, base=base))


EXPERT = "{method: llm_expert, base_url: 'http://127.0.0.1:9', model: m, api_key_env: LWC_TEST_KEY"


@pytest.mark.parametrize(
    ("overrides", "stage", "told"),
    [
        ([f"score.methods=[{{method: taylor}}, {EXPERT}, required: true}}]"], "score", "LWC_TEST_KEY is not set"),
        ([f"score.methods=[{{method: taylor, weight: 0}}, {EXPERT}}}]"], "score", "LWC_TEST_KEY is not set"),
        (
            [f"score.methods=[{{method: taylor}}, {EXPERT}}}]", "select={strategy: single, method: llm_expert}"],
            "score", "LWC_TEST_KEY is not set",
        ),
        (
            ["score.methods=[{method: llama_profile, source: 'package:no_such_lm'}]"], "score",
            "package:no_such_lm: not installed",
        ),
        (["task={kind: next_item}", "model={kind: config, max_length: 16}"], "evaluate", "need the package implicit"),
    ],
)  # fmt: skip
def test_what_is_missing_is_told_before_training_with_exit_4(
    rows: Path, overrides: list[str], stage: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LWC_TEST_KEY", raising=False)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "implicit" else find(name, *a))
    made = recipe(rows, *overrides)
    with pytest.raises(MissingDependency, match=told) as caught:
        run_checks(RECIPE, Subject(made, ALL))
    assert caught.value.exit_code == 4
    run_checks(RECIPE, Subject(made, stages_until(ALL[ALL.index(stage) - 1])))


def test_an_expert_that_may_be_left_out_needs_no_key(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LWC_TEST_KEY", raising=False)
    run_checks(RECIPE, Subject(recipe(rows, f"score.methods=[{{method: taylor}}, {EXPERT}}}]"), ALL))


def test_the_machine_is_checked_for_the_stages_that_run(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    made = recipe(rows, "export.openvino=true")
    for until, told in ((None, "packages that are not installed"), ("export", "OpenVINO is not installed")):
        with pytest.raises(MissingDependency, match=told):
            run_checks(MACHINE, Subject(made, stages_until(until), models=tmp_path))
    run_checks(MACHINE, Subject(made, stages_until("evaluate"), models=tmp_path))


def test_validate_deep_says_what_it_checked_and_what_not(rows: Path, tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(TEXT.replace("DATA", str(rows)))
    asked = ["validate", "--deep", str(file), "--runs", str(tmp_path / "runs"), "--until", "export"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.stderr
    assert "checked: the target, and the blocks that must stay" in done.stderr
    assert "not checked: the ONNX export" in done.stderr
    assert "serve" not in done.stderr, "nothing is packaged"
    assert not (tmp_path / "runs" / ".store" / "train").exists()
    profile = "score.methods=[{method: llama_profile, source: package:nope}]"
    refused = CliRunner().invoke(app, [*asked, "--set", profile])
    assert refused.exit_code == 4
    assert "package:nope: not installed" in refused.stderr


def test_validate_deep_looks_at_every_variant_of_a_sweep(rows: Path, tmp_path: Path) -> None:
    made = recipe(rows, "target={ratio: 1.1, of: params}", "sweep={ratios: [1.2, 30]}")
    with pytest.raises(TargetError, match="30x of params cannot be reached"):
        validate_deeply(made, tmp_path, tmp_path, "export", silent, silent)
