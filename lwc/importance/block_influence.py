"""Block influence (Men et al. 2024, ShortGPT, eq. 1): how much a block turns the hidden state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor

from lwc.core import distributed
from lwc.importance.types import LayerImportance, scorer
from lwc.models.batches import Batch
from lwc.models.families import Family, block_list
from lwc.models.forward.watch import watched
from lwc.models.types import Model
from lwc.recipe import BlockInfluence


def turn(before: Tensor, after: Tensor) -> Tensor:
    """1 − cos(h_in, h_out) of every token (B, T)."""
    # float64: 1 − cos of nearly equal vectors cancels most digits.
    found = 1 - functional.cosine_similarity(before.double(), after.double(), dim=-1)
    # Exactly 0 for the identity, also where the vector is 0 and its cosine has no meaning.
    return found.masked_fill((before == after).all(dim=-1), 0.0)


@scorer
@torch.inference_mode()
def block_influence(
    model: Model, family: Family, batches: Sequence[Batch], settings: BlockInfluence
) -> LayerImportance:
    """BI_l = 1 − E[cos(h_in, h_out)] over all real tokens, h of shape (B, T, D).

    Unit: 1 − cosine, 0 (identity) to 2. Padding does not count. Deviation: the mean is over tokens of the
    calibration set, each with the same weight, whatever batch it came in.
    """
    turned = [0.0] * len(block_list(model, family))

    def of(batch: Batch) -> list[float]:
        real = batch.mask.bool()

        def look(index: int, before: Tensor, after: Tensor) -> None:
            turned[index] = float(turn(before, after)[real].sum())

        with watched(model, family, look):
            model(**batch.inputs)
        return list(turned)

    found = distributed.spread(batches, of)
    tokens = sum(int(batch.mask.sum()) for batch in batches)
    sums = [sum(values) for values in zip(*found, strict=True)]
    # Rounding may leave −1e-17; a NaN stays one, so that the fusion leaves the method out by name.
    scores = tuple(0.0 if -1e-9 < total / tokens < 0 else total / tokens for total in sums)
    return LayerImportance("block_influence", scores, "1 − cos(h_in, h_out)")
