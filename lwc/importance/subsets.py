"""Models that are really cut: which blocks, and the loss without them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from lwc.core.errors import DataError
from lwc.core.progress import Say, part
from lwc.models.batches import Batch
from lwc.models.families import Family
from lwc.models.forward.prefix import outcomes
from lwc.models.forward.undisturbed import undisturbed
from lwc.models.types import Model

Recover = Callable[[set[int], Say], float]
"""(removed blocks, progress) → loss in nats, on the split the cut models are measured on, after a short recovery."""


@dataclass(frozen=True)
class CutModel:
    """Removed blocks, mean cross-entropy in nats without them, and the same after recovery where that was measured."""

    removed: frozenset[int]
    loss: float
    recovered: float | None = None


def random_subsets(
    blocks: int, count: int, seed: int, protected: Collection[int] = (), size: int | None = None
) -> list[frozenset[int]]:
    """``count`` distinct random sets of blocks to remove, all of one size where there are enough of it.

    One size, since every method's predicted damage grows with the number of removed blocks, as the loss does: over
    mixed sizes any scores at all would seem to predict the loss. ``size`` is best the number that the target removes;
    by default it is half of the blocks. Where too few sets have that size, the nearest other sizes fill up, and where
    a model has fewer sets than ``count``, all of them are given. At least one block always stays.
    """
    removable = [block for block in range(blocks) if block not in set(protected)]
    most = min(len(removable), blocks - 1)
    if most < 1:
        return []
    first = min(max(1, size if size is not None else blocks // 2), most)
    random = np.random.default_rng(seed)
    found: list[frozenset[int]] = []
    for chosen in sorted(range(1, most + 1), key=lambda other: (abs(other - first), other)):
        if len(found) < count:
            found += _of_size(removable, chosen, count - len(found), random)
    return [found[int(index)] for index in random.permutation(len(found))]


def _of_size(removable: Sequence[int], size: int, count: int, random: np.random.Generator) -> list[frozenset[int]]:
    if math.comb(len(removable), size) <= 4 * count:
        every = [frozenset(chosen) for chosen in itertools.combinations(removable, size)]
        return [every[int(index)] for index in random.permutation(len(every))[:count]]
    found: dict[frozenset[int], None] = {}
    while len(found) < count:
        found[frozenset(int(block) for block in random.choice(removable, size, replace=False))] = None
    return list(found)


def measure(
    model: Model,
    family: Family,
    batches: Sequence[Batch],
    subsets: Sequence[frozenset[int]],
    recover: Recover | None = None,
    progress: Say = lambda _: None,
) -> list[CutModel]:
    """Loss of the model with each subset bypassed, and after ``recover`` where it is given. The model stays as it was.

    Raises:
        DataError: a loss is not finite.
    """
    progress(f"{len(subsets)} cut models")
    with undisturbed(model):
        losses = outcomes(model, family, batches, subsets)
    result = []
    for number, removed in enumerate(subsets, start=1):
        after = None
        if recover is not None:
            said = part(progress, f"cut model {number}/{len(subsets)}", number - 1, len(subsets))
            after = float(recover(set(removed), said))
        for value in (losses[removed].loss, after):
            if value is not None and not math.isfinite(value):
                raise DataError(
                    f"the loss of the model without blocks {sorted(removed)} is {value}",
                    "check for non-finite weights, or a recovery learning rate that is too high",
                )
        result.append(CutModel(removed, losses[removed].loss, after))
    return result
