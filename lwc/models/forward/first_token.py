"""A classifier that reads the first token needs no other one after the attention of its last block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from lwc.core.errors import ModelError
from lwc.models.families import block_list, family_of, pooling_of
from lwc.models.types import Model


def after_attention(model: Model) -> nn.Module:
    """The module of the last block in which no token sees another any more: it is given (B, T, D) tensors alone.

    Raises:
        ModelError: the model reads other tokens than the first, or lwc does not know such a module of its type.
    """
    family = family_of(model)
    if family.after_attention is None or pooling_of(model, family) != "first":
        raise ModelError(
            f"recover.last_block: read is not possible with model type {family.model_type!r}: its classifier reads "
            "other tokens than the first, or its blocks have no module of their own after the attention",
            "set recover.last_block: all",
        )
    return block_list(model, family)[-1].get_submodule(family.after_attention)


@contextmanager
def first_token_alone(*models: Model) -> Iterator[None]:
    """For a while, the last block of these models returns the first token alone, (B, 1, D). Answers are the same.

    Of the last block's 12 D² weights a token, ten are multiplied for one token instead of all.
    """

    def first(_module: nn.Module, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(state[:, :1] for state in states)

    with ExitStack() as stack:
        for model in models:
            stack.callback(after_attention(model).register_forward_pre_hook(first).remove)
        yield
