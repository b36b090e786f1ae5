"""What a run leaves behind its last stage: the model, the report, and a repository to deploy if the gates passed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from test_report import make_stages

from lwc.cli.run import _conclude
from lwc.core.errors import GATE_FAILED
from lwc.pipeline.publish import finish, rewrite
from lwc.pipeline.run import StageResult
from lwc.recipe import Recipe


def recipe(gate: float) -> Recipe:
    return Recipe.model_validate({
        "schema_version": 1, "name": "mine", "model": {"kind": "config"}, "target": {"ratio": 2, "of": "blocks"},
        "package": {"targets": ["cpu", "gpu"]},
        "gates": [{"metric": "ratios.blocks", "op": ">=", "value": gate}],
    })  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> dict[str, StageResult]:
    stages = tmp_path / "stages"
    made = make_stages(stages)
    for repository in ("repository", "repository-gpu"):
        (stages / "package" / repository / "mine").mkdir(parents=True)
        (stages / "package" / repository / "mine" / "config.pbtxt").write_text(f"# new, {repository}")
    model = stages / "recover" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text('{"architectures": ["BertForSequenceClassification"]}')
    (model / "model.safetensors").write_bytes(b"weights")
    for graph in ("base", "compressed"):
        (stages / "export" / graph).mkdir()
        (stages / "export" / graph / "model.onnx").write_bytes(b"graph")
    exported = json.loads((stages / "export" / "export.json").read_text())
    for graph, file in exported["files"].items():
        file["path"] = f"{graph}/model.onnx"
    (stages / "export" / "export.json").write_text(json.dumps(exported))
    return {name: StageResult(stages / name, 1.0, False) for name in (*made, "package", "recover")}


def reported(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "report.json").read_text())["artifacts"])


def test_failed_gates_leave_what_is_deployed_alone(tmp_path: Path, results: dict[str, StageResult]) -> None:
    folder, models = tmp_path / "runs" / "mine", tmp_path / "models"
    (models / "mine" / "mine").mkdir(parents=True)
    (models / "mine" / "mine" / "config.pbtxt").write_text("# in production")

    assert not finish(recipe(gate=3.0), results, folder, models)["verdict"]["passed"]
    assert reported(folder)["repositories"] == ["repository", "repository-gpu"]
    assert not reported(folder)["published"]
    assert (folder / "repository" / "mine" / "config.pbtxt").read_text() == "# new, repository"
    assert (models / "mine" / "mine" / "config.pbtxt").read_text() == "# in production"
    assert not (models / "mine-gpu").exists()

    assert finish(recipe(gate=2.0), results, folder, models)["verdict"]["passed"]
    assert reported(folder)["repositories"] == ["../../models/mine", "../../models/mine-gpu"]
    assert reported(folder)["published"]
    assert (models / "mine" / "mine" / "config.pbtxt").read_text() == "# new, repository"
    assert (models / "mine-gpu" / "mine" / "config.pbtxt").read_text() == "# new, repository-gpu"
    assert not list(folder.glob("repository*")), "one that was held back would pass for this run's"


def test_the_model_is_in_the_run_folder_and_the_report_names_everything(
    tmp_path: Path, results: dict[str, StageResult]
) -> None:
    folder, models, store = tmp_path / "runs" / "mine", tmp_path / "models", results["recover"].path / "model"
    report = finish(recipe(gate=2.0), results, folder, models)
    artifacts = reported(folder)
    assert artifacts == report["artifacts"]
    assert set(artifacts["onnx"]) == {"base", "compressed"}
    for name in (artifacts["model"], *artifacts["onnx"].values(), *artifacts["repositories"], *artifacts["report"]):
        assert (folder / name).exists(), name
    assert set(artifacts["report"]) == {path.name for path in folder.glob("report*")}
    assert "# mine" in (folder / "model" / "README.md").read_text()

    # What people do in that folder is theirs, and the next run's model takes its place.
    (folder / "model" / "model.safetensors").write_bytes(b"edited!")
    (folder / "model" / "notes.txt").write_text("a user's")
    assert (store / "model.safetensors").read_bytes() == b"weights"
    (store / "model.safetensors").write_bytes(b"another recipe's")
    finish(recipe(gate=2.0), results, folder, models)
    assert {path.name for path in (folder / "model").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert (folder / "model" / "model.safetensors").read_bytes() == b"another recipe's"


def test_a_report_that_is_written_again_names_only_repositories_of_this_run(
    tmp_path: Path, results: dict[str, StageResult]
) -> None:
    folder, models = tmp_path / "runs" / "mine", tmp_path / "models"
    finish(recipe(gate=2.0), results, folder, models)
    # The gate was changed since: the verdict is another, and what is deployed is still there.
    assert not rewrite(recipe(gate=3.0), results, folder, models)["verdict"]["passed"]
    assert (reported(folder)["repositories"], reported(folder)["published"]) == (
        ["../../models/mine", "../../models/mine-gpu"], True
    )  # fmt: skip
    assert "Do not deploy" in (folder / "model" / "README.md").read_text(), "the card says what the report says"
    for place in ("mine", "mine-gpu"):
        (models / place / "mine" / "config.pbtxt").write_text("# another run's")
    rewrite(recipe(gate=2.0), results, folder, models)
    assert (reported(folder)["repositories"], reported(folder)["published"]) == ([], False)


def ended(report: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    with pytest.raises(typer.Exit) as end:
        _conclude(report, folder, {}, False)
    return end.value.exit_code, capsys.readouterr().err.splitlines()


def test_after_a_failed_gate_the_end_says_where_it_lies_and_how_to_see_it_served(
    tmp_path: Path, results: dict[str, StageResult], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, models = Path("runs/mine"), Path("models")
    code, lines = ended(finish(recipe(gate=3.0), results, folder, models), folder, capsys)
    assert code == GATE_FAILED
    (failed,) = [line for line in lines if "ratios.blocks" in line]
    assert failed == "FAIL ratios.blocks is 2, must be >= 3: short by 1"
    assert lines[lines.index(failed) + 1].startswith("Do not deploy: 1 of ")
    assert lines[-4:] == [
        "model       runs/mine/model (Hugging Face folder with its model card)",
        "report      runs/mine/report.html",
        "repository  not published: runs/mine/repository, runs/mine/repository-gpu",
        "next        lwc serve runs/mine/repository    # see it served",
    ]
    code, lines = ended(finish(recipe(gate=2.0), results, folder, models), folder, capsys)
    assert code == 0
    assert lines[-3:] == [
        "repository  models/mine, models/mine-gpu",
        "next        lwc serve models/mine",
        "            lwc push runs/mine USER/NAME",
    ]
