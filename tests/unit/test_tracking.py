"""A run in MLflow and TensorBoard, on local files: what is there afterwards, also of a run that failed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lwc.core.errors import MISSING, Diverged, LwcError, MissingDependency
from lwc.pipeline import tracking
from lwc.pipeline.preflight import MACHINE, Subject, run_checks
from lwc.recipe import Recipe

mlflow = pytest.importorskip("mlflow")
events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

HISTORY = [{"step": 5, "train_loss": 0.7, "accuracy": 0.6}, {"step": 10, "train_loss": 0.4, "accuracy": 0.8}]


def recipe(*trackers: str) -> Recipe:
    return Recipe.model_validate({
        "schema_version": 1, "name": "mine", "model": {"kind": "config"}, "target": {"ratio": 2, "of": "blocks"},
        "tracking": trackers,
    })  # fmt: skip


@pytest.fixture(autouse=True)
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose train stage is finished and whose score stage is not."""
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "metrics.json").write_text(json.dumps({"history": HISTORY}))
    done = SimpleNamespace(path=tmp_path / "train", seconds=12.5)
    stages = [SimpleNamespace(stage=SimpleNamespace(name="train"), artifact=done),
              SimpleNamespace(stage=SimpleNamespace(name="score"), artifact=None)]  # fmt: skip
    monkeypatch.setattr(tracking, "plan", lambda recipe, runs: stages)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    mlflow.set_tracking_uri(None)


def report(passed: bool) -> Any:
    return {
        "verdict": {"passed": passed},
        "ratios": {"blocks": 2.0},
        "served": {"retention": {"accuracy": {"value": 0.97, "low": 0.95}}, "precision": "int8"},
        "gates": [{"metric": "ratios.blocks", "passed": passed}],
    }


def only_run() -> Any:
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    return run


def test_a_run_is_whole_in_mlflow(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("<html>")
    with tracking.tracked(recipe("mlflow"), tmp_path / "runs") as run:
        run.report, run.files = report(passed=True), [page]
    found = only_run()
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "mine"
    assert found.data.params["target.ratio"] == "2.0"
    metrics = found.data.metrics
    assert metrics["served.retention.accuracy.low"] == 0.95
    assert metrics["gates/ratios.blocks"] == 1.0
    assert metrics["seconds/train"] == 12.5
    client = mlflow.tracking.MlflowClient()
    curve = client.get_metric_history(found.info.run_id, "train/accuracy")
    assert [(point.step, point.value) for point in curve] == [(5, 0.6), (10, 0.8)]
    assert [entry.path for entry in client.list_artifacts(found.info.run_id)] == ["report.html"]


def test_a_failed_gate_and_an_error_are_marked_failed(tmp_path: Path) -> None:
    with tracking.tracked(recipe("mlflow"), tmp_path) as run:
        run.report = report(passed=False)
    found = only_run()
    assert found.info.status == "FAILED"
    assert found.data.metrics["gates/ratios.blocks"] == 0.0
    mlflow.delete_run(found.info.run_id)

    with pytest.raises(Diverged), tracking.tracked(recipe("mlflow"), tmp_path):
        raise Diverged("the loss is nan", "lower the rate")
    found = only_run()
    assert found.info.status == "FAILED"
    assert found.data.metrics["train/accuracy"] == 0.8, "what was finished is there"


def test_tensorboard_has_the_curves_and_the_report(tmp_path: Path) -> None:
    text = tmp_path / "report.md"
    text.write_text("# Deploy")
    with tracking.tracked(recipe("tensorboard"), tmp_path / "runs") as run:
        run.report, run.files = report(passed=True), [text]
    found = events.EventAccumulator(str(tmp_path / "runs" / "mine" / "tensorboard")).Reload()
    assert [(event.step, round(event.value, 3)) for event in found.Scalars("train/accuracy")] == [(5, 0.6), (10, 0.8)]
    assert found.Scalars("failed")[0].value == 0.0
    assert found.Tensors("report/text_summary")[0].tensor_proto.string_val == [b"# Deploy"]


def test_a_tracker_that_cannot_be_written_to_is_one_error_that_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(LwcError, match="tracking: mlflow"), tracking.tracked(recipe("mlflow"), tmp_path) as run:
        run.report = report(passed=True)
    with pytest.raises(Diverged) as caught, tracking.tracked(recipe("mlflow"), tmp_path):
        raise Diverged("the loss is nan", "lower the rate")
    assert "tracking: mlflow" in caught.value.__notes__[0]


def test_a_missing_tracker_is_named_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="tracking: wandb is not installed") as caught:
        run_checks(MACHINE, Subject(recipe("wandb"), ["data"]))
    assert caught.value.exit_code == MISSING
    assert caught.value.hint == "pip install 'lwc[wandb]'"


def test_without_trackers_nothing_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_write", lambda *_: pytest.fail("no tracker was asked for"))
    with tracking.tracked(recipe(), tmp_path):
        pass
