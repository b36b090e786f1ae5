"""Measured search over subsets of blocks: greedy and beam."""

from __future__ import annotations

from collections.abc import Sequence

from lwc.recipe import Beam, Greedy
from lwc.selection.choice import Choice, Losses, Subset


def greedily(losses: Losses, removable: Sequence[int], count: int) -> Subset:
    """``count`` blocks, one at a time, each time the one whose loss *with those already gone* is lowest."""
    gone: Subset = frozenset()
    while len(gone) < count:
        wider = [gone | {block} for block in removable if block not in gone]
        found = losses(wider)
        gone = min(wider, key=lambda subset: (found[subset], sorted(subset)))
    return gone


def greedy(config: Greedy, choice: Choice) -> Subset:
    """See `greedily`."""
    return greedily(choice.losses, choice.removable, choice.count)


def best_subsets(choice: Choice, width: int, contiguous: bool) -> list[tuple[Subset, float]]:
    """The subsets that a beam of this width ends with, lowest loss first; every span where spans are asked for.

    From the ``width`` best subsets of k blocks come all those of k + 1. Width 1 is `greedy`.
    """
    if choice.count == 0:
        return [(frozenset(), choice.losses([frozenset()])[frozenset()])]
    if contiguous:
        found = choice.losses(choice.spans())
        return sorted(found.items(), key=lambda item: (item[1], sorted(item[0])))
    level: list[tuple[Subset, float]] = [(frozenset(), 0.0)]
    for _ in range(choice.count):
        wider = {gone | {block} for gone, _ in level for block in choice.removable if block not in gone}
        losses = choice.losses(wider)
        level = sorted(((one, losses[one]) for one in wider), key=lambda item: (item[1], sorted(item[0])))[:width]
    return level


def beam(config: Beam, choice: Choice) -> Subset:
    """The best subset of a beam search; the search's last level is noted."""
    found = best_subsets(choice, config.width, config.contiguous)
    choice.notes["beam"] = [{"removed": sorted(subset), "loss": loss} for subset, loss in found[: config.width]]
    return found[0][0]
