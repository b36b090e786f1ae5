"""Holds the list of what a recipe measures against a report that was really made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from lwc.recipe import Gate, Recipe
from lwc.report.content_types import StageName, StageTime
from lwc.report.gate_names import metrics, unmeasured
from lwc.report.gates import lookup

# For tests that make the stages themselves.
TIMES: dict[str, StageTime] = {name: {"seconds": 1.0, "hit": False} for name in get_args(StageName)}
# What was asked and decided, not measured.
_ASKED = ("schema_version", "recipe", "gates", "verdict", "artifacts", "task")


def _numbers(node: Any, path: str = "") -> Iterator[str]:
    if isinstance(node, Mapping):
        for name, item in node.items():
            yield from _numbers(item, f"{path}.{name}" if path else str(name))
    elif isinstance(node, list):
        for index, item in enumerate(node):
            yield from _numbers(item, f"{path}.{index}")
    elif isinstance(node, int | float):
        yield path


def differences(report: Mapping[str, Any], recipe: Recipe) -> tuple[list[str], list[str]]:
    """Figures of the report that a gate could not name, and names that a gate may use without a figure behind them."""
    found = [name for name in _numbers(report) if name.partition(".")[0] not in _ASKED]
    assert len(found) > 100, "the report holds next to nothing"
    gates = tuple(Gate.model_construct(metric=name, op=">", value=0.0, relative_to=None) for name in found)
    told = unmeasured(recipe.model_copy(update={"gates": gates}))
    refused = [found[int(place[1])] for place, _ in told]
    certain = [name for name, every_run in metrics(recipe).items() if every_run and not {"*", "#"} & set(name)]
    empty = [name for name in certain if lookup(report, name)[0] is None]
    return refused, empty
