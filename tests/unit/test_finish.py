"""What a run leaves behind its last stage: a repository to deploy only where the gates passed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lwc.pipeline.publish import finish
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
    for repository in ("repository", "repository-gpu"):
        (stages / "package" / repository / "mine").mkdir(parents=True)
        (stages / "package" / repository / "mine" / "config.pbtxt").write_text(f"# new, {repository}")
    (stages / "verify").mkdir()
    (stages / "select").mkdir()
    ratios = {"blocks": 2.0, "params": 1.5, "size": 1.5}
    selection = {"strategy": "fused", "blocks_before": 4, "kept": [0, 1], "removed": [2, 3], "ratios": ratios}
    (stages / "select" / "selection.json").write_text(json.dumps(selection))
    return {name: StageResult(stages / name, 1.0, False) for name in ("select", "package", "verify")}


def test_failed_gates_leave_what_is_deployed_alone(tmp_path: Path, results: dict[str, StageResult]) -> None:
    folder, models = tmp_path / "runs" / "mine", tmp_path / "models"
    (models / "mine" / "mine").mkdir(parents=True)
    (models / "mine" / "mine" / "config.pbtxt").write_text("# in production")

    report, places = finish(recipe(gate=3.0), results, folder, models)
    assert not report["verdict"]["passed"]
    assert places == [folder / "repository", folder / "repository-gpu"]
    assert (folder / "repository" / "mine" / "config.pbtxt").read_text() == "# new, repository"
    assert (models / "mine" / "mine" / "config.pbtxt").read_text() == "# in production"
    assert not (models / "mine-gpu").exists()

    report, places = finish(recipe(gate=2.0), results, folder, models)
    assert report["verdict"]["passed"]
    assert places == [models / "mine", models / "mine-gpu"]
    assert (models / "mine" / "mine" / "config.pbtxt").read_text() == "# new, repository"
    assert (models / "mine-gpu" / "mine" / "config.pbtxt").read_text() == "# new, repository-gpu"
    assert not list(folder.glob("repository*")), "one that was held back would pass for this run's"
