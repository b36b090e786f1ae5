"""Figures that a finished run of a shipped recipe measured, kept to decide its gates again without the run.

Record a run, from the root of the repository: ``python tests/support/recorded_gates.py runs/amazon_2.5x``
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lwc.recipe import Recipe
from lwc.recipe.file import load_recipe
from lwc.report.compare import differences

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
RECORDS = ROOT / "tests" / "measured"
# No figure depends on them.
_NO_EFFECT = ("gates", "name", "description", "sweep")


def settings_of(recipe: Path) -> str:
    """SHA-256 of the settings that figures depend on, as the file gives them."""
    found = {key: value for key, value in yaml.safe_load(recipe.read_text("utf-8")).items() if key not in _NO_EFFECT}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _figure(report: Any, path: str) -> Any:
    for part in path.split("."):
        report = report[int(part)] if isinstance(report, list) else report[part]
    return report


def figures_of(recipe: Recipe, report: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a report that the recipe's gates read: intervals whole, positions of a list as keys."""
    figures: dict[str, Any] = {}
    for name in (name for gate in recipe.gates for name in (gate.metric, gate.relative_to) if name is not None):
        *sections, key = name.split(".")
        place = figures
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = _figure(report, name)
    return figures


def record_of(run: Path, recipe: Path) -> dict[str, Any]:
    """The record of a finished run of a recipe file.

    Raises:
        ValueError: the run used other settings than the file has now.
    """
    loaded = load_recipe(recipe)
    report = json.loads((run / "report.json").read_text("utf-8"))
    both = [report["recipe"]["resolved"], loaded.model_dump(mode="json")]
    changed = [row["key"] for row in differences([{k: v for k, v in one.items() if k != "gates"} for one in both])]
    if changed:
        raise ValueError(f"{run} was not run with the settings of {recipe}: {', '.join(changed)} differ")
    machine = report["environment"]
    return {
        "command": f"lwc run recipes/{recipe.name}",
        "date": machine["date"][:10],
        "machine": f"{machine['cpu']}, {machine['cores']} cores",
        "n_test": report["data"]["n_test"],
        "settings_sha256": settings_of(recipe),
        "figures": figures_of(loaded, report),
    }


def write_record(run: Path) -> Path:
    """Write ``tests/measured/NAME.json`` of a run folder named after its recipe."""
    place = RECORDS / f"{run.resolve().name}.json"
    record = record_of(run, RECIPES / f"{run.resolve().name}.yaml")
    place.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return place


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        print(write_record(Path(folder)))
