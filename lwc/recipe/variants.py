"""The variants of a sweep: one recipe for each ratio and strategy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from lwc.core.errors import RecipeError
from lwc.recipe import Recipe, Select

Location = tuple[str | int, ...]


def _strategies(recipe: Recipe) -> Iterator[tuple[str, Select, Location]]:
    """(ending of the name, strategy, its place): no ending for one strategy, a number where two have the same name."""
    own = (recipe.sweep.select if recipe.sweep else ()) or (recipe.select,)
    often = Counter(choice.strategy for choice in own)
    seen: Counter[str] = Counter()
    for place, choice in enumerate(own):
        seen[choice.strategy] += 1
        index = f"-{seen[choice.strategy]}" if often[choice.strategy] > 1 else ""
        listed: Location = ("sweep", "select", place) if choice is not recipe.select else ("select",)
        yield (f"-{choice.strategy}{index}" if len(own) > 1 else ""), choice, listed


def _problem(item: Mapping[str, Any]) -> str:
    where = ".".join(map(str, item["loc"]))
    said = str(item["msg"]).removeprefix("Value error, ")
    return f"{where}: {said}" if where else said


def _made(recipe: Recipe) -> Iterator[tuple[Recipe | None, Location, str]]:
    """Each variant, or None, the place of its ratio or strategy, and why there is none."""
    names: set[str] = set()
    for number, ratio in enumerate(recipe.sweep.ratios if recipe.sweep else ()):
        at: Location = ("sweep", "ratios", number)
        if ratio <= 1:
            yield None, at, f"{ratio:g}x removes nothing: list ratios above 1"
            continue
        for ending, select, place in _strategies(recipe):
            name = f"{recipe.name}-{ratio:g}x{ending}"
            if name in names:
                yield None, at, f"gives {name} twice: list each ratio once, with at most six digits"
                break
            names.add(name)
            changes = {
                "name": name,
                "target": {"ratio": ratio, "of": recipe.target.of},
                "select": select.model_dump(),
                "sweep": None,
            }
            try:
                yield Recipe.model_validate({**recipe.model_dump(), **changes}), at, ""
            except ValidationError as error:
                told = "; ".join(map(_problem, error.errors()))
                yield None, at if len(place) == 1 else place, f"{ratio:g}x with {select.strategy}: {told}"


def unfit_variants(recipe: Recipe) -> list[tuple[Location, str]]:
    """Where a recipe's sweep asks for a variant that cannot be, and why."""
    return [(at, problem) for variant, at, problem in _made(recipe) if variant is None]


def variants(recipe: Recipe) -> list[Recipe]:
    """One recipe for each (ratio, strategy) of ``recipe.sweep``, in that order, without a sweep of its own.

    Raises:
        RecipeError: no sweep section, a ratio that is listed twice or removes nothing, or a variant that is no valid
            recipe.
    """
    if recipe.sweep is None:
        raise RecipeError(
            f"{recipe.name}: has no sweep section", "add one, e.g. `sweep: {ratios: [1.5x, 2x, 3x]}`, or use `lwc run`"
        )
    found: list[Recipe] = []
    for variant, at, problem in _made(recipe):
        if variant is None:
            raise RecipeError(
                f"{recipe.name}: {'.'.join(map(str, at))}: {problem}", "change sweep.ratios or sweep.select"
            )
        found.append(variant)
    return found
