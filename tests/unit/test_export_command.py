"""``lwc export``: which run it takes, what it writes, and the command it gives where there is no GPU."""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto
from tiny_models import tiny
from typer.testing import CliRunner

from lwc.cli.main import app
from lwc.core.errors import MissingDependency, ModelError, RecipeError
from lwc.core.store import Store, file_digest, key_of, write_json
from lwc.export import engine
from lwc.export.engine import Classifier
from lwc.export.onnx import export_onnx
from lwc.export.session import cpu_session
from lwc.export.session import run as run_session
from lwc.export.stamp import Gpu, read_stamp
from lwc.models.load import save_checkpoint
from lwc.models.tokenizer import train_wordpiece
from lwc.pipeline import export_plan as exporting
from lwc.pipeline.export_plan import FinishedRun, export_plan, find_run, profiles_of
from lwc.pipeline.stages import STAGES
from lwc.recipe import Recipe
from lwc.recipe.file import parse_recipe
from lwc.serving.checks.run import Machine, inspect_repository
from lwc.serving.triton.config import parse

rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed (lwc[tensorrt-rtx])"
)
TEXTS = ["a good thing that works", "a bad broken thing"] * 8
RECIPE = """\
schema_version: 1
name: small
model: {kind: config, blocks: 4, hidden: 16, heads: 2, max_length: 32}
target: {ratio: 2x, of: blocks}
package: {max_batch_size: 16, targets: [cpu, tensorrt]}
export:
  tensorrt:
    precision: fp32
    profiles:
      - {min: {batch: 1, length: 1}, opt: {batch: 8, length: 8}, max: {batch: 8, length: 16}}
      - {min: {batch: 1, length: 17}, opt: {batch: 2, length: 32}, max: {batch: 8, length: 32}}
"""
LOG = """\
[04/07/2025-23:59:33] [I] Selected Device: NVIDIA L4
[04/07/2025-23:59:33] [I] Compute Capability: 8.9
[04/07/2025-23:59:33] [I] TensorRT version: 10.9.0
&&&& PASSED TensorRT.trtexec [TensorRT v100900] [b34] # trtexec --onnx=/out/model.onnx
Driver: 550.54.15
"""


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return parse_recipe(RECIPE, "small.yaml")


@pytest.fixture(scope="module")
def run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """What the stages up to export leave, in a store, with their record and a report."""
    runs = tmp_path_factory.mktemp("runs")
    tokenizer = train_wordpiece(TEXTS, 60, 32)
    names = {0: "bad", 1: "good"}
    model = tiny("bert", blocks=1, pad_token_id=0, num_labels=2, id2label=names, label2id={"bad": 0, "good": 1})
    store, folder = Store(runs / ".store"), runs / "small"
    folder.mkdir()
    record: dict[str, Any] = {}
    for stage in ("data", "recover", "export"):
        record[stage] = {"stage": stage, "cpu": "another machine's"}
        with store.build(stage, key_of(record[stage])) as (out, _):
            if stage == "data":
                for split in ("calibration", "test"):
                    rows = {"id": range(len(TEXTS)), "text": TEXTS, "label": [0, 1] * 8}
                    pd.DataFrame(rows).to_parquet(out / f"{split}.parquet")
            elif stage == "recover":
                save_checkpoint(model, tokenizer, out / "model")
            else:
                (out / "compressed").mkdir()
                export_onnx(model, tokenizer, out / "compressed" / "model.onnx")
            store.commit(stage, key_of(record[stage]), record[stage], 1.0)
    write_json(folder / "stages.json", record)
    report = {"recipe": {"resolved": recipe.model_dump(mode="json")}, "verdict": {"passed": True}}
    write_json(folder / "report.json", report)
    return find_run(folder, Path("elsewhere"))


def test_a_run_is_found_by_its_folder_also_on_another_machine(run: FinishedRun, recipe: Recipe) -> None:
    assert run.recipe == recipe
    assert sorted(run.stages) == ["data", "export", "recover"]
    assert (run.checkpoint / "config.json").is_file()


def test_a_run_that_has_not_come_so_far_is_refused(run: FinishedRun, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="not the folder of a finished run"):
        find_run(tmp_path, tmp_path)
    (tmp_path / "small.yaml").write_text(RECIPE)
    with pytest.raises(RecipeError, match="small: stage data has not run"):
        find_run(tmp_path / "small.yaml", tmp_path / "runs")


def test_other_profiles_make_no_stage_run_again() -> None:
    first, second = (
        parse_recipe(text.replace("of: blocks", "of: latency"), "r")
        for text in (RECIPE, RECIPE.replace("precision: fp32", "precision: fp16"))
    )
    assert first.export != second.export
    for stage in STAGES:
        assert stage.config(first) == stage.config(second)
        assert stage.external(first) == stage.external(second)


def test_without_profiles_the_recipe_gets_one_for_all_that_it_serves() -> None:
    (whole,) = profiles_of(parse_recipe(RECIPE.partition("export:")[0], "r"))
    assert (whole.min.batch, whole.min.length) == (1, 1)
    assert (whole.opt.batch, whole.opt.length) == (8, 16)
    assert (whole.max.batch, whole.max.length) == (16, 32)


def test_profiles_that_end_before_the_texts_do_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"profiles end at 32 tokens, model\.max_length is 64"):
        parse_recipe(RECIPE.replace("max_length: 32", "max_length: 64"), "r")


@rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_plan_comes_with_its_stamp_and_the_graph_it_was_built_from(
    run: FinishedRun, tmp_path: Path, precision: str
) -> None:
    told: list[str] = []
    stamp = export_plan(run, "tensorrt-rtx", precision, tmp_path, tmp_path / "models", False, told.append)
    graph = tmp_path / stamp["onnx"]["file"]
    types = {value.data_type for value in onnx.load(str(graph)).graph.initializer if len(value.dims) == 2}
    assert types == {TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT}
    assert stamp["onnx"]["sha256"] == file_digest(graph)
    assert stamp == read_stamp(tmp_path / "model.plan")
    assert (stamp["library"], stamp["precision"], stamp["gpu"]) == ("tensorrt-rtx", precision, "any")
    assert [one["input_ids"]["max"] for one in stamp["profiles"]] == [[8, 16], [8, 32]]
    assert stamp["parity"] is not None or any(f"the ONNX model {graph}" in line for line in told)
    assert not (tmp_path / "models").exists(), "Triton loads no plan of this library"


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "this_gpu", lambda: None)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_the_container_command_is_whole(run: FinishedRun, tmp_path: Path) -> None:
    out = tmp_path / "with space"
    with pytest.raises(MissingDependency) as caught:
        export_plan(run, "tensorrt", "fp32", out, tmp_path, False, print)
    assert caught.value.exit_code == 4
    assert str(out / "model.onnx") in caught.value.hint, "what to serve until then"
    (line,) = (line for line in caught.value.message.splitlines() if line.startswith("docker run"))
    words = shlex.split(line)
    assert f"--volume={out}:/out" in words
    assert "nvcr.io/nvidia/tensorrt:26.07-py3" in words
    script = words[-1]
    for part in (
        f"--onnx=/out/{(out / 'model.onnx').name}", "--saveEngine=/out/model.plan", "--noTF32",
        "--profile=0 --minShapes=input_ids:1x1,attention_mask:1x1",
        "--profile=1 --minShapes=input_ids:1x17,attention_mask:1x17 --optShapes=input_ids:2x32,attention_mask:2x32"
        " --maxShapes=input_ids:8x32,attention_mask:8x32",
    ):  # fmt: skip
        assert part in script
    assert (out / "model.onnx").is_file()
    stamping = shlex.split(caught.value.message.splitlines()[-1])
    assert stamping[:3] == ["lwc", "export", str(run.folder)]
    assert stamping[-1] == "--built"


@pytest.mark.usefixtures("no_gpu")
def test_the_plan_of_the_container_is_stamped_and_becomes_a_repository(run: FinishedRun, tmp_path: Path) -> None:
    out, models = tmp_path / "out", tmp_path / "models"
    with pytest.raises(MissingDependency):
        export_plan(run, "tensorrt", "fp32", out, models, False, print)
    with pytest.raises(ModelError, match=r"model\.plan: missing"):
        export_plan(run, "tensorrt", "fp32", out, models, True, print)
    (out / "model.plan").write_bytes(b"built elsewhere")
    (out / "trtexec.log").write_text(f"{LOG}{'0' * 64}  /out/model.onnx\n")
    with pytest.raises(ModelError, match=r"trtexec\.log: of another file than model\.onnx"):
        export_plan(run, "tensorrt", "fp32", out, models, True, print)
    (out / "trtexec.log").write_text(f"{LOG}{file_digest(out / 'model.onnx')}  /out/model.onnx\n")
    (models / "small-tensorrt").mkdir(parents=True)
    (models / "small-tensorrt" / "notes.txt").write_text("mine")
    with pytest.raises(RecipeError, match=r"holds 'notes\.txt'"):
        export_plan(run, "tensorrt", "fp32", out, models, True, print)
    (models / "small-tensorrt" / "notes.txt").unlink()
    stamp = export_plan(run, "tensorrt", "fp32", out, models, True, print)
    assert (stamp["gpu"], stamp["tensorrt"], stamp["driver"]) == ("NVIDIA L4", "10.9.0", "550.54.15")

    repository = models / "small-tensorrt"
    assert not (run.folder / "repository-tensorrt").exists()
    here = Machine(gpus=1, gpu="NVIDIA L4", compute_capability="8.9", tensorrt="10.9.0")
    assert inspect_repository(repository, here) == []
    config = parse((repository / "small_tokens" / "config.pbtxt").read_text())
    assert config.platform == "tensorrt_plan"
    assert config.max_batch_size == 8, "the profiles', which is below the recipe's 16"
    assert list(config.instance_group[0].profile) == ["0", "1"]
    assert {(w.batch_size, w.inputs["input_ids"].dims[0]) for w in config.model_warmup} == {
        (8, 8), (8, 16), (2, 32), (8, 32),
    }  # fmt: skip
    (other,) = inspect_repository(repository, Machine(gpus=1, gpu="Tesla T4"))
    assert (other.severity, other.path) == ("error", "small_tokens/1/plan.json")
    assert "use the ONNX model" in other.hint
    assert [f.severity for f in inspect_repository(repository, Machine(gpus=0))] == ["error"]


@pytest.mark.usefixtures("no_gpu")
def test_the_plan_of_a_run_that_failed_its_gates_is_held_back(
    run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.passed
    report = json.loads((run.folder / "report.json").read_text())
    runs = shutil.copytree(run.folder.parent, tmp_path / "runs")
    write_json(runs / "small" / "report.json", {**report, "verdict": {"passed": False}})
    failed = find_run(runs / "small", tmp_path)
    out, models = tmp_path / "out", tmp_path / "models"
    with pytest.raises(MissingDependency):
        export_plan(failed, "tensorrt", "fp32", out, models, False, print)
    (out / "model.plan").write_bytes(b"built elsewhere")
    (out / "trtexec.log").write_text(f"{LOG}{file_digest(out / 'model.onnx')}  /out/model.onnx\n")
    export_plan(failed, "tensorrt", "fp32", out, models, True, print)
    assert not models.exists()
    assert (runs / "small" / "repository-tensorrt" / "small_tokens" / "config.pbtxt").is_file()
    assert "held back" in capsys.readouterr().out


def test_a_gpu_without_the_library_gets_the_same_command(
    run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is built with another library in silence."""
    monkeypatch.setattr(exporting, "this_gpu", lambda: Gpu("NVIDIA L4", "8.9", "550.54.15"))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependency, match="tensorrt cannot be loaded") as caught:
        export_plan(run, "tensorrt", "fp32", tmp_path, tmp_path, False, print)
    assert "docker run" in caught.value.message


@rtx
def test_an_engine_that_answers_otherwise_is_not_kept(
    run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = cpu_session(run.stages["export"] / "compressed" / "model.onnx", 1)

    def pretend(shift: float) -> None:
        """An engine whose answers are those of the ONNX model, moved."""
        classifier = Classifier("engine", lambda inputs: run_session(session, inputs) + np.float32(shift))
        monkeypatch.setattr(engine, "open_classifier", lambda plan, onnx, say: classifier)

    pretend(2e-3)
    with pytest.raises(ModelError, match=r"differ from the ONNX model's by 0\.002, 0\.001 is allowed"):
        export_plan(run, "tensorrt-rtx", "fp32", tmp_path, tmp_path, False, print)
    with pytest.raises(ModelError, match=r"plan\.json: missing"):
        read_stamp(tmp_path / "model.plan")
    pretend(5e-4)
    stamp = export_plan(run, "tensorrt-rtx", "fp32", tmp_path, tmp_path, False, print)
    assert stamp["parity"]["max_abs_diff"] == pytest.approx(5e-4, abs=1e-5)
    assert stamp["parity"]["rows"] == len(TEXTS)
    assert read_stamp(tmp_path / "model.plan") == stamp
    with pytest.raises(RecipeError, match="--built"):
        export_plan(run, "tensorrt-rtx", "fp32", tmp_path, tmp_path, True, print)


@rtx
def test_the_command_prints_the_stamp(run: FinishedRun, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["export", str(run.folder), "--to", "tensorrt-rtx", "--out", str(tmp_path), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["precision"] == "fp32"
    bad = CliRunner().invoke(app, ["export", str(run.folder), "--to", "tensorflow"])
    assert bad.exit_code == 2
