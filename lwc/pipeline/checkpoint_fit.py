"""What a recipe asks of its checkpoint, judged from the checkpoint's files alone. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from lwc.core.errors import LwcError, MissingDependency, ModelError, TargetError
from lwc.models.counts import must_stay, saved_counts
from lwc.models.families import CAUSAL_LM, CLASSIFICATION
from lwc.models.saved import INDEX, WEIGHTS, Saved
from lwc.models.source import PACKAGE, resolve_folder, resolve_source
from lwc.recipe import Named, Pretrained, Recipe
from lwc.selection.plan import check_counts

Location = tuple[str | int, ...]
_SOURCE: Location = ("model", "source")


def unfit_checkpoint(recipe: Recipe) -> list[tuple[Location, str]]:
    """A missing or unusable checkpoint folder, blocks that it does not have, and a target that no cut of it reaches.

    Nothing is said of a hub id, of a package that is not installed here, of GGUF weights, or of latency, which must be
    measured.
    """
    source = recipe.model
    if not isinstance(source, Pretrained) or source.trust_remote_code:
        return []
    try:
        place = _folder(source.source, recipe.task.any_weights)
        if place is None:
            return []
        saved = Saved(place, CAUSAL_LM if recipe.task.any_weights else CLASSIFICATION)
        return _unfit(recipe, saved)
    except MissingDependency:
        return []
    except LwcError as error:
        return [(_SOURCE, f"{error.message}; {error.hint}" if error.hint else error.message)]


def _folder(source: str, any_weights: bool) -> Path | None:
    """Where the checkpoint is; None of a hub id, and of weights without a config.

    Raises:
        ModelError: no such folder, or no checkpoint in it.
        MissingDependency: the package is not installed.
    """
    place = Path(resolve_folder(source) if any_weights else resolve_source(source))
    if not place.is_dir():
        if any_weights:
            resolve_source(source)  # a path to nothing is told from a hub id
        _check_hub_id(source)
        return None
    if any_weights and source.startswith(PACKAGE):
        place = min((path.parent for path in place.rglob("config.json")), key=lambda one: len(one.parts), default=place)
    return None if any_weights and not (place / "config.json").is_file() else place


def _check_hub_id(source: str) -> None:
    """``models/mine`` may be a hub id or a folder: it is a missing folder where ``models`` is one here."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    owner = source.partition("/")[0]
    if "/" in source and Path(owner).is_dir() and not (cache / f"models--{source.replace('/', '--')}").is_dir():
        raise ModelError(f"{source}: no such folder, although {owner} is one", "give an existing folder")


def _unfit(recipe: Recipe, saved: Saved) -> list[tuple[Location, str]]:
    if not isinstance(saved.config.get("model_type"), str):
        raise ModelError(f"{saved.folder / 'config.json'} names no model_type", "copy the config.json of the model")
    total = saved.config.get(saved.family.depth_field)
    if not isinstance(total, int):
        return []  # transformers has a default; --deep knows it
    place: Location = ("select", "blocks") if isinstance(recipe.select, Named) else ("target", "ratio")
    try:
        recipe.check_blocks(total)
        if (saved.has(WEIGHTS) or saved.has(INDEX)) and saved.blocks:
            check_counts(recipe, saved_counts(saved), must_stay(saved))
    except ValueError as error:
        return [(place, str(error))]
    except TargetError as error:
        return [(place, f"{error.message}; {error.hint}")]
    return []
