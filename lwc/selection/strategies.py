"""STRATEGIES: which blocks to keep, one row a strategy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lwc.importance.ablation import loss_and_accuracy
from lwc.importance.undisturbed import undisturbed
from lwc.models.batches import Batch
from lwc.models.families import Family
from lwc.models.surgery import bypass


@dataclass(frozen=True)
class Choice:
    """What a strategy may look at: scores, how many to keep, which must stay, and the model with its batches."""

    importance: Mapping[str, Any]
    keep: int
    required: frozenset[int]
    model: Any
    family: Family
    batches: Sequence[Batch]


Strategy = Callable[[Choice], list[int]]


def fused(choice: Choice) -> list[int]:
    """The blocks that must stay, then the highest of the fused ranking."""
    ranking = [block for block in choice.importance["fused"]["ranking"] if block not in choice.required]
    return sorted([*choice.required, *ranking[: choice.keep - len(choice.required)]])


def greedy(choice: Choice) -> list[int]:
    """Remove one block at a time: each time the one whose loss *with those already gone* is lowest."""
    kept = list(range(int(choice.importance["blocks"])))
    while len(kept) > choice.keep:
        removable = [block for block in kept if block not in choice.required]
        gone = set(range(int(choice.importance["blocks"]))) - set(kept)
        losses = {block: _loss(choice, gone | {block}) for block in removable}
        kept.remove(min(losses, key=lambda block: (losses[block], block)))
    return kept


def _loss(choice: Choice, gone: Collection[int]) -> float:
    with undisturbed(choice.model), bypass(choice.model, choice.family, gone):
        return loss_and_accuracy(choice.model, choice.batches)[0]


STRATEGIES: dict[str, Strategy] = {"fused": fused, "greedy": greedy}
