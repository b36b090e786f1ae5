"""Every shipped recipe passes its gates on figures that were measured, and asks only what its test split can decide.

A record in ``tests/measured/`` has the figures, with command, date and machine, or the reason why there are none.
`recorded_gates` writes one from a finished run.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from planted_runs import make_run, wrong
from recorded_gates import RECIPES, RECORDS, record_of, settings_of

from lwc.recipe import Recipe
from lwc.recipe.file import load_recipe
from lwc.report.gate_names import CHECKS, figures
from lwc.report.gates import decide

SHIPPED = sorted(RECIPES.glob("*.yaml"))
HOW = "run the recipe, then `python tests/support/recorded_gates.py runs/NAME`"


def failures(recipe: Recipe, record: dict[str, Any]) -> list[str]:
    """Reasons of the gates that fail on a record; a gate may miss a figure only if the record says why."""
    without = record.get("not_recorded", {})
    unknown = set(without) - {gate.metric for gate in recipe.gates}
    decided = decide([gate for gate in recipe.gates if gate.metric not in without], record["figures"])
    return [gate["reason"] for gate in decided if not gate["passed"]] + [f"no gate on {name}" for name in unknown]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_passes_its_gates_on_what_was_measured(path: Path) -> None:
    place = RECORDS / f"{path.stem}.json"
    assert place.is_file(), f"no record: {HOW}"
    record = json.loads(place.read_text("utf-8"))
    if "not_run" in record:
        pytest.skip(record["not_run"])
    assert {"command", "date", "machine"} <= set(record)
    assert record["settings_sha256"] == settings_of(path), f"measured with other settings: {HOW}"
    assert failures(load_recipe(path, (), CHECKS), record) == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_asks_only_what_its_test_split_can_decide(path: Path) -> None:
    recipe = load_recipe(path)
    known = figures(recipe)
    by_value = [gate.metric for gate in recipe.gates if gate.at == "value" and gate.relative_to is None]
    assert [metric for metric in by_value if metric in known and known[metric].interval] == []


def test_every_record_is_of_a_shipped_recipe() -> None:
    assert {place.stem for place in RECORDS.iterdir()} == {path.stem for path in SHIPPED}


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, Path, dict[str, Any]]:
    """A recipe file, the folder of its run, and the record."""
    settings = {
        "schema_version": 1, "name": "one", "model": {"kind": "config"}, "target": {"ratio": 2.0, "of": "blocks"},
        "gates": [{"metric": "retention.accuracy", "op": ">=", "value": 0.9, "at": "low"},
                  {"metric": "latency.shapes.0.ratio", "op": ">=", "value": 1.5},
                  {"metric": "ratios.size", "op": ">=", "value": 0.7, "relative_to": "ratios.latency"}],
    }  # fmt: skip
    recipe = tmp_path / "one.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    run = make_run(tmp_path / "runs", "one", wrong(*range(10)), gates=settings["gates"])
    return recipe, run, json.loads(json.dumps(record_of(run, recipe)))


def test_a_record_decides_the_gates_as_the_run_did(recorded: tuple[Path, Path, dict[str, Any]]) -> None:
    recipe, run, record = recorded
    report = json.loads((run / "report.json").read_text("utf-8"))
    decided = decide(load_recipe(recipe).gates, record["figures"])
    assert [one["value"] for one in decided] == [one["value"] for one in report["gates"]]
    assert [one["threshold"] for one in decided] == [one["threshold"] for one in report["gates"]]
    assert failures(load_recipe(recipe), record) == []
    assert record["settings_sha256"] == settings_of(recipe)


def test_a_stricter_gate_a_missing_figure_and_other_settings_are_noticed(
    recorded: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    recipe, run, record = recorded
    assert len(failures(load_recipe(recipe, ["gates.0.value=1.2"]), record)) == 1
    del record["figures"]["ratios"]
    assert failures(load_recipe(recipe), record) == ["the report has no ratios"]
    assert failures(load_recipe(recipe), {**record, "not_recorded": {"ratios.size": "not kept"}}) == []
    assert failures(load_recipe(recipe), {**record, "not_recorded": {"ratios.sise": "", "ratios.size": ""}}) != []
    changed = Path(shutil.copy(recipe, tmp_path / "changed.yaml"))
    changed.write_text(changed.read_text().replace("ratio: 2.0", "ratio: 3.0"))
    assert settings_of(changed) != record["settings_sha256"]
    with pytest.raises(ValueError, match=r"target\.ratio"):
        record_of(run, changed)
