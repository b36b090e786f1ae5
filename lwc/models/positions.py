"""How many tokens a model reads."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lwc.core.errors import ModelError
from lwc.models.types import Config, Model
from lwc.recipe import Shape

# These number positions from ``pad_token_id + 1``.
_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")
_TABLES = ("position_embeddings", "wpe")


def positions(config: Config) -> int | None:
    """The longest text, in tokens, that a model of this config reads. None: no limit."""
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None or not getattr(config, "position_biased_input", True):
        return None
    return int(limit) - ((config.pad_token_id or 0) + 1 if config.model_type in _FROM_PADDING else 0)


def check_shapes(model: Model, shapes: Sequence[Shape]) -> None:
    """Raise `ModelError` where latency is to be measured on longer texts than the model has positions for.

    Rotary and relative positions are computed, for any length.
    """
    table = any(
        isinstance(module, nn.Embedding) and name.split(".")[-1] in _TABLES for name, module in model.named_modules()
    )
    limit, longest = positions(model.config), max(shapes, key=lambda shape: shape.length)
    if table and limit is not None and longest.length > limit:
        raise ModelError(
            f"export.latency_shapes has {longest.batch}×{longest.length}, the model reads at most {limit} tokens",
            f"name shapes of the texts you serve, e.g. latency_shapes: [{{batch: 1, length: {limit}}}]",
        )
