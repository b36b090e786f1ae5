"""Iterated removal: remove some blocks, recover, look again. For cuts so deep that one step loses the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lwc.models.batches import Batch
from lwc.models.families import Family
from lwc.models.surgery import remove_blocks
from lwc.models.types import Model
from lwc.recipe import Iterated
from lwc.selection.plan import CutPlan
from lwc.selection.search import greedily
from lwc.selection.select import measured

Heal = Callable[[Model, list[int], int], Model]
"""(cut model, the teacher's blocks it has, round) → the same model after a short recovery."""


@dataclass(frozen=True)
class Course:
    """Where the rounds led: the cut model, its blocks in the numbering of the uncut one, and each round's removals."""

    model: Model
    kept: list[int]
    rounds: list[dict[str, Any]]


def quotas(count: int, rounds: int) -> list[int]:
    """How many blocks go in each round: as even as can be, more in the first ones."""
    rounds = min(rounds, count) or 1
    return [count // rounds + (number < count % rounds) for number in range(rounds)]


def iterated(
    settings: Iterated, model: Model, family: Family, batches: Sequence[Batch], plan: CutPlan, heal: Heal
) -> Course:
    """Each round removes greedily, by the loss of the model *as it has recovered so far*, then heals it.

    Not healed after the last round: that is what the recover stage does, in full.
    """
    kept, student, rounds = list(range(plan.total)), model, []
    sizes = quotas(plan.total - plan.keep, settings.rounds)
    for number, take in enumerate(sizes, start=1):
        losses = measured(student, family, batches, settings.rows)
        free = [place for place, block in enumerate(kept) if block not in plan.required]
        gone = greedily(losses, free, take)
        rounds.append({"removed": [kept[place] for place in sorted(gone)]})
        student = remove_blocks(student, family, gone)
        kept = [block for place, block in enumerate(kept) if place not in gone]
        if number < len(sizes):
            student = heal(student, kept, number)
    return Course(student, kept, rounds)
