"""Angular distance (Gromov et al. 2024, "The unreasonable ineffectiveness of the deeper layers", eq. 7)."""

from __future__ import annotations

import math
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
from lwc.recipe import AngularDistance


def angles(before: Tensor, after: Tensor) -> Tensor:
    """arccos(cos(h_in, h_out)) / π of every span, summed over tokens: (L, T, D), (L, T, D) → (L, L) in float64.

    Entry (l, m) is the span from the input of block l to the output of block m; below the diagonal it means nothing.
    A zero vector is at a right angle to everything but itself.
    """
    # float64: arccos near 1 halves the digits that its argument has.
    first, last = (functional.normalize(hidden.double(), dim=-1) for hidden in (before, after))
    cosine = torch.einsum("ltd,mtd->tlm", first, last).clamp(-1, 1)
    found = torch.arccos(cosine) / math.pi
    # Exactly 0 for the identity, where rounding leaves about 1e-8.
    for index in range(len(before)):
        same = (before[index] == after).all(dim=-1)
        found[:, index] = found[:, index].masked_fill(same.T, 0.0)
    return found.sum(dim=0)


@scorer
@torch.inference_mode()
def angular_distance(
    model: Model, family: Family, batches: Sequence[Batch], settings: AngularDistance
) -> LayerImportance:
    """E[arccos(cos(h_in, h_out))] / π over all real tokens, h of shape (B, T, D).

    Unit: half turns, 0 (identity) to 1 (opposite direction). ``details["span_k"][l]`` is the distance over the k blocks
    l … l+k−1, NaN where so many do not follow: the best span of k blocks to remove at once is where it is least.

    Deviation: Gromov et al. look at the last token of a causal model, where the whole text has been read. Here every
    token attends to every other one and the head reads the first or all of them, so that all real tokens count alike.
    Memory: the block inputs and outputs of one batch; spans are compared one example at a time.
    """
    count = len(block_list(model, family))

    def of(batch: Batch) -> list[Tensor]:
        seen: dict[int, tuple[Tensor, Tensor]] = {}
        with watched(model, family, lambda index, before, after: seen.update({index: (before, after)})):
            model(**batch.inputs)
        found = []
        for row, real in enumerate(batch.mask.bool()):
            before, after = (torch.stack([seen[i][side][row, real] for i in range(count)]) for side in (0, 1))
            found.append(angles(before, after).cpu())
        return found

    sums = torch.zeros(count, count, dtype=torch.float64)
    for rows in distributed.spread(batches, of):
        for row in rows:
            sums += row
    mean = sums / sum(int(batch.mask.sum()) for batch in batches)
    spans = {
        f"span_{length}": [*mean.diagonal(length - 1).tolist(), *[math.nan] * (length - 1)]
        for length in range(1, count + 1)
    }
    scores = tuple(mean.diagonal().tolist())
    return LayerImportance("angular_distance", scores, "arccos(cos(h_in, h_out)) / π", details=spans)
