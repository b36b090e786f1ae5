"""What a recipe asks of its checkpoint, judged from the checkpoint's files alone. Imports no torch."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path

from lwc.core.errors import LwcError, MissingDependency
from lwc.models.families import CLASSIFICATION
from lwc.models.saved import Saved
from lwc.models.source import PACKAGE, resolve_source
from lwc.recipe import Named, Pretrained, Recipe

Location = tuple[str | int, ...]


def unfit_checkpoint(recipe: Recipe) -> list[tuple[Location, str]]:
    """A missing or unusable checkpoint folder, blocks that it does not have, and a target that no cut of it reaches.

    Nothing is said of a hub id, of a package that is not installed here, or of latency, which must be measured.
    """
    source = recipe.model
    if not isinstance(source, Pretrained) or source.trust_remote_code or recipe.task.any_weights:
        return []
    try:
        place = resolve_source(source.source)
    except MissingDependency:
        return []
    except LwcError as error:
        return [(("model", "source"), f"{error.message}; {error.hint}")]
    if not (source.source.startswith(PACKAGE) or Path(place).is_dir()):
        return []  # a hub id
    saved = Saved(Path(place), CLASSIFICATION, None)
    try:
        blocks = saved.config.get(saved.family.depth_field)
    except (KeyError, LwcError) as error:
        told = error.message if isinstance(error, LwcError) else "config.json names no model_type"
        return [(("model", "source"), told)]
    if not isinstance(blocks, int):
        return []  # transformers has a default; --deep knows it
    try:
        recipe.check_blocks(blocks)
    except ValueError as error:
        return [(("select",) if isinstance(recipe.select, Named) else ("target", "ratio"), str(error))]
    most = _most(saved) if recipe.target.of in ("params", "size") and not recipe.vocabulary.trim else None
    if most is not None and not recipe.target.reached(most):
        return [(
            ("target", "ratio"),
            f"target.ratio is {recipe.target.ratio:g}, but with one of {blocks} blocks left {recipe.target.of} is at "
            f"most {most:.2f}x: ask for less, set `vocabulary: {{trim: true}}`, or count blocks (of: blocks)",
        )]  # fmt: skip
    return []


def _most(saved: Saved) -> float | None:
    """Parameters ÷ those with the dearest block alone; None where the weights cannot be read here."""
    try:
        sizes = {name: prod(weight.shape) for name, weight in saved.weights.items()}
    except (LwcError, OSError):
        return None
    of = re.compile(rf"(?:.*\.)?{re.escape(saved.family.blocks)}\.(\d+)\.")
    blocks: dict[str, int] = {}
    for name, size in sizes.items():
        match = of.match(name)
        if match is not None:
            blocks[match[1]] = blocks.get(match[1], 0) + size
    total = sum(sizes.values())
    return total / (total - sum(blocks.values()) + max(blocks.values())) if blocks else None
