"""What only loading a checkpoint shows: what transformers found in it, and whether its weights are numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lwc.core.errors import LwcError, ModelError
from lwc.models.families import family_of
from lwc.models.saved import sizes
from lwc.models.types import Model


@contextmanager
def reading(folder: Path | str) -> Iterator[None]:
    """Any field of a config can be wrong in its own way, and what transformers then raises has no common type."""
    try:
        yield
    except (LwcError, MemoryError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, LookupError) else str(error)
        raise ModelError(
            f"{folder}: cannot be loaded: {reason}", "whole safetensors weights and their config.json are needed"
        ) from error


def check_loaded(
    place: Path | str, model: Model, info: Mapping[str, Any], may_start_random: frozenset[str] = frozenset()
) -> None:
    """Compare a model with what transformers found in its checkpoint: all of it, of these shapes, and numbers.

    ``may_start_random``: parts of the names of parameters that the checkpoint need not have.

    Raises:
        ModelError: weights are missing, have another shape, belong to blocks that the model does not have, or are NaN.
    """

    def needed(key: str) -> bool:
        return may_start_random.isdisjoint(key.split("."))

    absent = sorted(filter(needed, info["missing_keys"]))
    shapes = sorted((key, *sizes) for key, *sizes in info["mismatched_keys"] if needed(key))
    if absent:
        raise ModelError(
            f"{place}: {len(absent)} weights are not in the checkpoint, e.g. {absent[0]}",
            "name the checkpoint of this architecture",
        )
    if shapes:
        key, found, wanted = shapes[0]
        raise ModelError(
            f"{place}: {len(shapes)} weights have another shape than config.json says, "
            f"e.g. {key}: {sizes(found)}, not {sizes(wanted)}",
            "config.json and weights must be of the same model",
        )
    blocks = re.compile(rf"(^|\.){re.escape(family_of(model).blocks)}\.\d+\.")
    unused = sorted(filter(blocks.search, info["unexpected_keys"]))
    if unused:
        raise ModelError(
            f"{place}: the model uses none of {len(unused)} weights of blocks, e.g. {unused[0]}",
            "config.json and weights must be of the same model",
        )
    odd = [name for name, value in model.named_parameters() if not bool(torch.isfinite(value).all())]
    if odd:
        raise ModelError(
            f"{place}: {len(odd)} weights contain NaN or infinity, e.g. {odd[0]}", "save the model before it diverged"
        )
