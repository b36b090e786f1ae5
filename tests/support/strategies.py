"""Strategies by name, as a recipe gives them."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from lwc.models.families import family_of
from lwc.recipe import Select
from lwc.selection.select import plan_cut, select_blocks

_ADAPTER: TypeAdapter[Any] = TypeAdapter(Select)
# All but `iterated`, which recovers between removals and has tests of its own.
NAMES = ["beam", "drop_bottom", "drop_even", "drop_top", "fused", "greedy", "racing", "random", "single"]


def chosen(strategy: str = "fused", **options: Any) -> Any:
    """The select section of a recipe."""
    if strategy == "single":
        options = {"method": "fisher", **options}
    return _ADAPTER.validate_python({"strategy": strategy, **options})


def selection(
    model: Any, data: Any, importance: dict[str, Any], target: Any, settings: Any, recovered: Any = None
) -> dict[str, Any]:
    """Content of ``selection.json``."""
    family = family_of(model)
    return select_blocks(model, family, data, importance, plan_cut(model, family, target, settings), recovered)
