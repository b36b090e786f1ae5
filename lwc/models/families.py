"""FAMILIES: where the blocks of each model type live, one row a type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lwc.errors import ModelError


def _tensor(hidden: Tensor) -> Any:
    return hidden


def _one_tuple(hidden: Tensor) -> Any:
    return (hidden,)


def _pair(hidden: Tensor) -> Any:
    return (hidden, None)


@dataclass(frozen=True)
class Family:
    """How to find, count and skip the blocks of a model type.

    ``blocks`` is a dotted path from the task model's base model; ``depth_field`` the config field that counts
    blocks; ``per_block_fields`` config lists with one entry a block; ``protected`` blocks that carry a role
    and cannot go; ``convolution_field`` the config field of a convolution that the encoder runs after block 0,
    which protects block 0 where it is set; ``as_output`` wraps hidden states (B, T, D) the way a block of this type
    returns them.
    """

    model_type: str
    blocks: str
    depth_field: str = "num_hidden_layers"
    per_block_fields: tuple[str, ...] = ()
    protected: tuple[int, ...] = ()
    as_output: Callable[[Tensor], Any] = _tensor
    convolution_field: str | None = None


FAMILIES: dict[str, Family] = {
    row.model_type: row
    for row in (
        Family("bert", "encoder.layer"),
        Family("roberta", "encoder.layer"),
        Family("xlm-roberta", "encoder.layer"),
        Family("electra", "encoder.layer"),
        Family("distilbert", "transformer.layer", depth_field="n_layers"),
        Family("mpnet", "encoder.layer", as_output=_one_tuple),
        Family("deberta-v2", "encoder.layer", as_output=_pair, convolution_field="conv_kernel_size"),
        # Block 0 has no attention norm: the embedding norm stands in its place.
        Family("modernbert", "layers", per_block_fields=("layer_types",), protected=(0,)),
    )
}

REFUSED = {"albert": "all its blocks share one set of weights, so that removing one removes nothing"}


def family_of(model: nn.Module) -> Family:
    """The family row of a model.

    Raises:
        ModelError: the model type is not in the table, or its blocks cannot be removed one by one.
    """
    model_type = str(getattr(getattr(model, "config", None), "model_type", "unknown"))
    if model_type in REFUSED:
        raise ModelError(f"model type {model_type!r}: {REFUSED[model_type]}", "use another family")
    family = FAMILIES.get(model_type)
    if family is None:
        raise ModelError(
            f"model type {model_type!r} is not supported; supported: {', '.join(sorted(FAMILIES))}",
            f"add a row to FAMILIES in lwc/models/families.py: Family({model_type!r}, '<path to its block list>')",
        )
    if getattr(getattr(model, "config", None), family.convolution_field or "", 0):
        # The encoder applies its convolution after the first block, whichever that is.
        return replace(family, protected=tuple(sorted({0, *family.protected})))
    return family


def block_list(model: nn.Module, family: Family) -> nn.ModuleList:
    """The model's blocks in order."""
    node: Any = getattr(model, "base_model", model)
    for part in family.blocks.split("."):
        node = getattr(node, part, None)
        if node is None:
            raise ModelError(
                f"{family.model_type}: no {family.blocks!r} in {type(model).__name__}", "fix the family row"
            )
    if not isinstance(node, nn.ModuleList):
        raise ModelError(f"{family.model_type}: {family.blocks!r} is no ModuleList", "fix the family row")
    return node


def hidden_states(output: Any) -> Tensor:
    """The (B, T, D) hidden states in whatever a block returns."""
    hidden = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(hidden, torch.Tensor):
        raise ModelError(f"a block returned {type(hidden).__name__}, not a tensor", "fix the family row")
    return hidden
