"""Which blocks of a model a cut one consists of, found by their weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lwc.core.errors import ModelError
from lwc.models.families import block_list, family_of
from lwc.models.types import Model

# Entries of a weight that are compared, evenly spaced: all of them would take minutes in a large model.
_ENTRIES = 4096
# Distances are 0 for equal weights and about 1 for unrelated ones; recovery moves blocks by some hundredths.
_RELATED = 0.25


def kept_blocks(student: Model, teacher: Model) -> list[int]:
    """For each block of ``student``, in order, the block of ``teacher`` that it was.

    The order-preserving assignment with the least distance between weights: exact for blocks that are untouched, and
    the same after some training. A checkpoint therefore needs no record of the cut.

    Raises:
        ModelError: the models do not belong together, or a block resembles none of the teacher's.
    """
    mine, theirs = (block_list(model, family_of(model)) for model in (student, teacher))
    if len(mine) > len(theirs):
        raise ModelError(
            f"the student has {len(mine)} blocks, the teacher {len(theirs)}", "swap them: the uncut model teaches"
        )
    samples = [[_sample(block) for block in blocks] for blocks in (mine, theirs)]
    shapes = [[{name: value.shape for name, value in one.items()} for one in side] for side in samples]
    if shapes[0][0] != shapes[1][0]:
        raise ModelError(
            f"the blocks of {student.config.model_type} and {teacher.config.model_type} have different weights",
            "the teacher must be the model that the student was cut from",
        )
    distances = [[_distance(one, other) for other in samples[1]] for one in samples[0]]
    kept = _assigned(distances)
    strange = [block for block, origin in enumerate(kept) if distances[block][origin] > _RELATED]
    if strange:
        raise ModelError(
            f"block {strange[0]} of the student resembles no block of the teacher",
            "the teacher must be the model that the student was cut from; if it is, name the kept blocks with kept=[…]",
        )
    return kept


def _sample(block: nn.Module) -> dict[str, Tensor]:
    """Evenly spaced entries of each matrix of a block, by name. Gains of norms are alike in all blocks."""
    found = {}
    for name, weight in block.named_parameters():
        if weight.ndim >= 2:
            flat = weight.detach().reshape(-1)
            found[name] = flat[:: max(1, flat.numel() // _ENTRIES)].to("cpu", torch.float32)
    return found


def _distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Mean over the weights of |a − b|² ÷ (|a|² + |b|²)."""
    each = []
    for name, value in one.items():
        size = float((value**2).sum() + (other[name] ** 2).sum())
        each.append(float(((value - other[name]) ** 2).sum()) / size if size else 0.0)
    return sum(each) / len(each)


def _assigned(distances: Sequence[Sequence[float]]) -> list[int]:
    """Increasing columns, one a row, with the least sum of distances; of equal ones the first."""
    columns = len(distances[0])
    best: list[tuple[float, list[int]]] = [(0.0, [])] * (columns + 1)
    for row in distances:
        # best[c]: this row and those before it, in columns below c.
        following: list[tuple[float, list[int]]] = [(float("inf"), [])]
        for column, distance in enumerate(row):
            total, chosen = best[column]
            here = (total + distance, [*chosen, column])
            following.append(here if here[0] < following[-1][0] else following[-1])
        best = following
    return best[-1][1]
