"""Ablation importance: what the model loses when one block is truly bypassed."""

from __future__ import annotations

from collections.abc import Sequence

from lwc.importance.types import LayerImportance, scorer
from lwc.models.batches import Batch
from lwc.models.families import Family, block_list
from lwc.models.forward.pieces import part_of, pieces_of
from lwc.models.forward.prefix import outcomes
from lwc.models.types import Model
from lwc.recipe import Ablation


@scorer
def ablation(model: Model, family: Family, batches: Sequence[Batch], settings: Ablation) -> LayerImportance:
    """Mean loss with block l bypassed minus that of the whole model, in nats for a classifier or language model.

    Bypass is the identity on the residual stream (Michel et al. 2019 and Sajjad et al. 2023 drop whole layers this
    way). Loss, not accuracy, is the score: a bypass may shift the bias of every answer and leave the knowledge whole.
    ``details`` holds the drop in accuracy. A negative score means that the model does better without the block.
    Blocks before the bypassed one are computed once for all (``prefix``): n(n + 1)/2 block passes, not n²,
    on pieces of batches that fit a processor's cache.
    """
    whole: frozenset[int] = frozenset()
    alone = [frozenset([index]) for index in range(len(block_list(model, family)))]
    width = int(model.config.hidden_size)
    parts = [part_of(batch, rows) for batch in batches for rows in pieces_of(batch, width)]
    found = outcomes(model, family, parts, [whole, *alone])
    scores = tuple(found[gone].loss - found[whole].loss for gone in alone)
    drops = [found[whole].accuracy - found[gone].accuracy for gone in alone]
    return LayerImportance("ablation", scores, "nats", details={"accuracy_drop": drops})
