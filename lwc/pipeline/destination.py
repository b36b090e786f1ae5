"""Where a run publishes its repositories, and whether it may."""

from __future__ import annotations

import os
from pathlib import Path

from lwc.core.errors import RecipeError
from lwc.recipe import Recipe


def check_destination(destination: Path, other: str = "name another --triton-models folder") -> None:
    """Refuse to replace a folder that holds anything but Triton models. ``other`` says how to choose another one.

    Raises:
        RecipeError: something else lies there, or nothing can be written there.
    """
    nearest = next(path for path in (destination, *destination.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        problem = "cannot be written to" if nearest.is_dir() else "is a file"
        raise RecipeError(f"{destination}: {nearest} {problem}", other)
    strange = [path.name for path in destination.glob("*") if not (_is_model(path) or _is_our_readme(path))]
    if strange:
        raise RecipeError(
            f"{destination}: holds {strange[0]!r}, which is not a Triton model and would be overwritten",
            f"move it away, or {other}",
        )


def _is_model(path: Path) -> bool:
    return (path / "config.pbtxt").is_file()


def _is_our_readme(path: Path) -> bool:
    """Whether this is the page that `lwc.serving.triton.readme` puts into a repository, not one that somebody wrote."""
    if path.name != "README.md" or not path.is_file():
        return False
    return "written by lwc" in path.read_text(encoding="utf-8", errors="replace")


def destinations(recipe: Recipe, models: Path) -> dict[str, Path]:
    """The destination of each repository of the package stage, by its folder there."""
    places = {"repository": models / recipe.name}
    if "gpu" in recipe.package.targets:
        places["repository-gpu"] = models / f"{recipe.name}-gpu"
    return places
