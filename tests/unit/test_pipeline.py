"""The line of stages: hits, misses with the reason, resuming, and nothing cached that failed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch

from lwc.cli.terminal import plan_lines
from lwc.core.errors import LwcError, ModelError, RecipeError
from lwc.core.store import MANIFEST, STORE_FOLDER, Store, read_json
from lwc.pipeline import run as pipeline
from lwc.pipeline.destination import check_destination
from lwc.pipeline.stages import STAGES, Stage, StageContext, check_stage
from lwc.recipe import Recipe
from lwc.recipe.file import parse_recipe

TEXT = """\
schema_version: 1
name: tiny
model: {kind: config}
target: {ratio: 2, of: blocks}
gates: [{metric: retention.accuracy, op: ">=", value: 0.99}]
"""


def recipe(*overrides: str) -> Recipe:
    return parse_recipe(TEXT, "tiny.yaml", overrides)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line of three stages that write what they were made from; returns the log of what ran."""
    ran: list[str] = []

    def writes(name: str) -> Callable[[StageContext], None]:
        def function(context: StageContext) -> None:
            ran.append(name)
            made = [str(getattr(context.recipe, name if name != "verify" else "seed"))]
            made += [(path / "made").read_text() for path in context.inputs.values()]
            (context.out / "made").write_text("\n".join(made))

        return function

    stages = (
        Stage("data", 1, (), ("data",), writes("data")),
        Stage("train", 1, ("data",), ("train",), writes("train")),
        Stage("verify", 1, ("train",), (), writes("verify"), cached=False),
    )
    monkeypatch.setattr(pipeline, "STAGES", stages)
    return ran


def silent(kind: str, stage: str, text: str) -> None:
    pass


def test_second_run_reuses_all_but_what_is_measured_anew(tmp_path: Path, line: list[str]) -> None:
    pipeline.run(recipe(), tmp_path, silent)
    assert line == ["data", "train", "verify"]
    results = pipeline.run(recipe(), tmp_path, silent)
    assert line[3:] == ["verify"]
    assert [results[name].hit for name in ("data", "train", "verify")] == [True, True, False]


def test_a_gate_retrains_nothing(tmp_path: Path, line: list[str]) -> None:
    pipeline.run(recipe(), tmp_path, silent)
    plans = pipeline.plan(recipe("gates.0.value=0.5"), tmp_path)
    assert [p.hit for p in plans] == [True, True, False]


def test_a_change_reruns_from_there_and_says_why(tmp_path: Path, line: list[str]) -> None:
    assert pipeline.plan(recipe(), tmp_path)[0].reason == "never run"
    pipeline.run(recipe(), tmp_path, silent)
    changed = pipeline.plan(recipe("train.epochs=7"), tmp_path)
    assert [p.hit for p in changed] == [True, False, False]
    assert changed[1].reason == "train.epochs: 1.0 → 7.0"
    assert changed[2].reason == "train runs first"
    del line[:]
    pipeline.run(recipe("train.epochs=7"), tmp_path, silent)
    assert line == ["train", "verify"]
    del line[:]
    pipeline.run(recipe(), tmp_path, silent)
    assert line == ["verify"], "going back to the old settings finds the old results"


def test_a_stage_says_what_it_is_for_and_why_again_only_if_it_ran_before(
    tmp_path: Path, line: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = [replace(stage, purpose=lambda recipe, inputs: f"trains on {sorted(inputs)}") for stage in pipeline.STAGES]
    monkeypatch.setattr(pipeline, "STAGES", tuple(told))

    def said(*overrides: str) -> list[tuple[str, str]]:
        events: list[tuple[str, str]] = []
        pipeline.run(recipe(*overrides), tmp_path, lambda kind, stage, text: events.append((kind, text)))
        return [event for event in events if event[0] in ("start", "hit")]

    assert said() == [
        ("start", "trains on []"), ("start", "trains on ['data']"), ("start", "trains on ['data', 'train']"),
    ]  # fmt: skip
    again = said("train.epochs=7")
    assert again[0][0] == "hit"
    assert again[1:] == [
        ("start", "trains on ['data'] (train.epochs: 1.0 → 7.0)"),
        ("start", "trains on ['data', 'train'] (measured anew in every run)"),
    ]


def test_the_plan_has_the_words_of_the_run_and_promises_nothing(
    tmp_path: Path, line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*overrides: str) -> list[str]:
        plan_lines(pipeline.plan(recipe(*overrides), tmp_path))
        return capsys.readouterr().err.splitlines()

    assert said()[-1] == "3 of 3 stages would run"
    assert "never run" not in "".join(said())
    pipeline.run(recipe(), tmp_path, silent)
    data, train, _, last = said("train.epochs=7")
    assert data == "= data      reused, took 0.0 s when made"
    assert train == "… train      (train.epochs: 1.0 → 7.0)"
    assert last == "2 of 3 stages would run, if train gives another result"
    assert said()[-1] == "1 of 3 stages would run"


def test_data_that_moved_and_are_the_same_retrain_nothing(tmp_path: Path) -> None:
    lines = [f"review {n} says {'good' if n % 2 else 'bad'} things {n * 7919},{n % 2}" for n in range(60)]
    keys, digests = [], []
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "r.csv").write_text("\n".join(["text,kind", *lines]))
        table = f"{{kind: table, paths: [{tmp_path / folder / 'r.csv'}], columns: {{label: kind}}}}"
        asked = recipe(f"data.source={table}", "data.labels.scheme=column", "data.near_duplicate_threshold=1")
        data = pipeline.run(asked, tmp_path / "runs", silent, "data")["data"]
        assert not data.hit
        assert str(tmp_path / folder) in (data.path / "source.json").read_text(), "the account says where they were"
        digests.append(read_json(data.path / MANIFEST)["digest"])
        keys.append(next(plan.key for plan in pipeline.plan(asked, tmp_path / "runs") if plan.stage.name == "train"))
    assert digests[0] == digests[1]
    assert keys[0] == keys[1] is not None


def test_a_failure_is_not_cached(tmp_path: Path, line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(context: StageContext) -> None:
        (context.out / "made").write_text("half")
        raise LwcError("disk full")

    broken = (pipeline.STAGES[0], Stage("train", 1, ("data",), ("train",), breaks), pipeline.STAGES[2])
    whole = pipeline.STAGES
    monkeypatch.setattr(pipeline, "STAGES", broken)
    with pytest.raises(LwcError, match="disk full"):
        pipeline.run(recipe(), tmp_path, silent)
    monkeypatch.setattr(pipeline, "STAGES", whole)
    pipeline.run(recipe(), tmp_path, silent)
    assert line == ["data", "train", "verify"], "data was kept, train ran again"


def test_a_gpu_without_room_is_told_with_what_to_lower(
    tmp_path: Path, line: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fills(context: StageContext) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 12.00 GiB.")

    broken = (pipeline.STAGES[0], Stage("train", 1, ("data",), ("train",), fills), pipeline.STAGES[2])
    monkeypatch.setattr(pipeline, "STAGES", broken)
    with pytest.raises(LwcError, match="train: out of GPU memory") as told:
        pipeline.run(recipe(), tmp_path, silent)
    assert told.value.hint == "lower train.batch_size, or model.max_length"


def test_a_full_disk_is_told_with_the_place(tmp_path: Path, line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fills(context: StageContext) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")  # as safetensors says it

    broken = (pipeline.STAGES[0], Stage("train", 1, ("data",), ("train",), fills), pipeline.STAGES[2])
    monkeypatch.setattr(pipeline, "STAGES", broken)
    with pytest.raises(LwcError, match=r"work/train-\w+: no space left") as told:
        pipeline.run(recipe(), tmp_path, silent)
    assert told.value.exit_code == 1
    assert "free some space" in told.value.hint


def test_a_run_says_whom_it_waits_for(tmp_path: Path, line: list[str]) -> None:
    key = pipeline.plan(recipe(), tmp_path)[0].key
    assert key is not None
    said: list[tuple[str, str]] = []
    waits = Event()

    def event(kind: str, stage: str, text: str) -> None:
        said.append((kind, text))
        if kind == "wait":
            waits.set()

    other = Thread(target=pipeline.run, args=(recipe(), tmp_path, event, "data"))
    with Store(tmp_path / STORE_FOLDER).build("data", key):
        other.start()
        assert waits.wait(30)
        assert line == []
    other.join(30)
    assert line == ["data"]
    (told,) = [text for kind, text in said if kind == "wait"]
    assert re.fullmatch(rf"waiting for another run of the same stage \(pid {os.getpid()}, since \d\d:\d\d\)", told)


def test_a_damaged_result_is_told_and_rebuilt(tmp_path: Path, line: list[str]) -> None:
    results = pipeline.run(recipe(), tmp_path, silent)
    (results["train"].path / "made").write_text("damaged")
    assert pipeline.plan(recipe(), tmp_path)[1].reason == "its result is gone or damaged"
    assert not pipeline.run(recipe(), tmp_path, silent)["train"].hit


def test_until(tmp_path: Path, line: list[str]) -> None:
    assert list(pipeline.run(recipe(), tmp_path, silent, until="train")) == ["data", "train"]
    with pytest.raises(RecipeError, match="no stage 'trian'") as caught:
        check_stage("trian")
    assert "train" in caught.value.hint


def test_every_stage_reads_only_what_stands_before_it() -> None:
    before: set[str] = set()
    for stage in STAGES:
        assert set(stage.inputs) <= before, stage.name
        assert set(stage.sections) <= set(Recipe.model_fields), stage.name
        assert "gates" not in stage.sections, "a gate must not retrain"
        before.add(stage.name)


def stage(name: str) -> Stage:
    return next(row for row in STAGES if row.name == name)


def test_what_a_result_depends_on_is_in_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def needs(name: str, *overrides: str) -> dict[str, str]:
        return stage(name).external(recipe(*overrides))

    trust = "score.trust={subsets: 20, recovery_steps: 5}"
    assert needs("score", trust) != needs("score", trust, "recover.learning_rate=1e-5"), "cut models are recovered"
    assert needs("score") == needs("score", "recover.learning_rate=1e-5")
    race = "select={strategy: racing}"
    more = "recover.unlabelled={source: {kind: amazon-sample}}"
    near = "data.near_duplicate_threshold=0.5"
    assert needs("select", race) != needs("select", race, "recover.learning_rate=1e-5")
    assert needs("recover", more) != needs("recover", more, near), "near duplicates are left out of further texts too"
    monkeypatch.setattr("lwc.pipeline.keys.cpu_limit", lambda: 64)
    before = needs("export")
    monkeypatch.setattr("lwc.pipeline.keys.cpu_limit", lambda: 1)
    assert needs("export") != before, "latency is of a machine"
    assert needs("train", "train.precision=fp32") != needs("train", "train.precision=bf16")
    monkeypatch.setenv("LWC_DATA_DIR", str(tmp_path))
    (tmp_path / "reviews").mkdir()
    hub = "data.source={kind: hub, id: reviews}"
    (tmp_path / "reviews" / "train.csv").write_text("a")
    first = needs("data", hub)
    (tmp_path / "reviews" / "train.csv").write_text("b")
    assert first != needs("data", hub), "the same name with new bytes is a miss"


def test_what_changes_no_result_is_in_no_key() -> None:
    def key(name: str, *overrides: str) -> tuple[Any, Any]:
        made = recipe(*overrides)
        return stage(name).config(made), stage(name).external(made)

    often = ("train.checkpoint_every=7", "recover.checkpoint_every=7")
    for row in STAGES:
        assert key(row.name) == key(row.name, *often), row.name
    race = "select={strategy: racing}"
    assert key("select", race) == key("select", race, "recover.epochs=9"), "a race has steps of its own"
    trust = "score.trust={subsets: 20, recovery_steps: 5}"
    assert key("score", trust) == key("score", trust, "recover.epochs=9", "select={strategy: drop_top}")
    assert key("score", trust) != key("score", trust, "select={strategy: fused, keep_first: 1}"), "other cuts"


def test_a_model_that_is_not_there_is_told_before_the_data_are_read(tmp_path: Path, line: list[str]) -> None:
    missing = recipe("model={kind: pretrained, source: ./nowhere}")
    with pytest.raises(ModelError, match="no such folder"):
        pipeline.run(missing, tmp_path, silent)
    assert line == []
    pipeline.run(missing, tmp_path, silent, until="data")
    assert line == ["data"], "the data alone need no model"


def test_where_nothing_can_be_written_is_told_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="file is a file"):
        check_destination(tmp_path / "file" / "tiny")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(RecipeError, match="cannot be written to"):
        check_destination(tmp_path / "models" / "tiny")


def test_only_triton_models_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "tiny" / "tiny").mkdir(parents=True)
    (tmp_path / "tiny" / "tiny" / "config.pbtxt").write_text("")
    (tmp_path / "tiny" / "README.md").write_text("This repository was written by lwc.")
    check_destination(tmp_path / "tiny")
    check_destination(tmp_path / "new")
    (tmp_path / "tiny" / "thesis.docx").write_text("years of work")
    with pytest.raises(RecipeError, match=r"thesis\.docx"):
        check_destination(tmp_path / "tiny")
