"""`lwc.remove_blocks`: the same model with fewer blocks."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index
from typing import TYPE_CHECKING, cast

from lwc.api.models import ModelLike, model_of
from lwc.models.families import family_of
from lwc.models.surgery import remove_blocks as removed_from

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def remove_blocks(model: ModelLike, blocks: Iterable[int]) -> PreTrainedModel:
    """A copy of a model without some of its blocks (depth pruning; Sajjad et al. 2023).

    The result is an ordinary model of transformers: its config, per-block lists and layer numbers fit the blocks that
    are left, and a saved copy loads with ``from_pretrained`` where lwc is not installed. It usually answers badly until
    it has been recovered (`lwc.recover`).

    Args:
        model: a model of transformers, or a folder, hub id or `RecoveryResult`.
        blocks: numbers of the blocks to remove, from 0; those of `Importance.lowest`, for example.

    Raises:
        LwcError: a block does not exist or cannot be removed, or none would be left.
    """
    whole = model_of(model)
    smaller = removed_from(whole, family_of(whole), {index(block) for block in blocks})
    return cast("PreTrainedModel", smaller)
