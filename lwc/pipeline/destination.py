"""Where a run publishes its repositories, and whether it may."""

from __future__ import annotations

import os
from pathlib import Path

from lwc.core.errors import RecipeError
from lwc.recipe import Recipe

# Written with every repository.
_README = "README.md"


def check_destination(destination: Path, other: str = "name another --triton-models folder") -> None:
    """Refuse to replace a folder that holds anything but Triton models. ``other`` says how to choose another one.

    Raises:
        RecipeError: something else lies there, or nothing can be written there.
    """
    nearest = next(path for path in (destination, *destination.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        problem = "cannot be written to" if nearest.is_dir() else "is a file"
        raise RecipeError(f"{destination}: {nearest} {problem}", other)
    others = [path.name for path in destination.glob("*") if not (path / "config.pbtxt").is_file()]
    strange = [name for name in others if name != _README]
    if strange:
        raise RecipeError(
            f"{destination}: holds {strange[0]!r}, which is not a Triton model and would be overwritten",
            f"move it away, or {other}",
        )


def destinations(recipe: Recipe, models: Path) -> dict[str, Path]:
    """The destination of each repository of the package stage, by its folder there."""
    places = {"repository": models / recipe.name}
    if "gpu" in recipe.package.targets:
        places["repository-gpu"] = models / f"{recipe.name}-gpu"
    return places
