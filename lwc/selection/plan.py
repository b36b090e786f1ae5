"""What a cut is asked for: how many blocks stay, which must, and whether that can be. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lwc.core.errors import TargetError
from lwc.models.counts import ParameterCounts
from lwc.recipe import Named, Recipe, Strategy, Target
from lwc.selection.choice import free_spans
from lwc.selection.target import blocks_to_keep, ratios


@dataclass(frozen=True)
class CutPlan:
    """What is asked of a model: how many blocks stay (``keep``), which must (``required``), and who chooses the rest.

    ``trimmed``: parameters that vocabulary trimming will take.
    """

    target: Target
    settings: Strategy
    counts: ParameterCounts
    keep: int
    required: frozenset[int]
    trimmed: int

    @property
    def total(self) -> int:
        """Blocks of the model as it is."""
        return len(self.counts.per_block)


def required_blocks(
    total: int, protected: Sequence[int], settings: Strategy, keep: int, target: Target
) -> frozenset[int]:
    """Blocks that must stay.

    Raises:
        TargetError: they are more than the target leaves room for.
    """
    required = frozenset(protected) | settings.ends(total)
    if len(required) > keep:
        raise TargetError(
            f"blocks {sorted(required)} must stay, but {target.ratio:g}x of {target.of} "
            f"leaves room for {keep} of {total}",
            "lower the ratio, or select.keep_first / select.keep_last",
        )
    return required


def plan_of_counts(
    counts: ParameterCounts,
    must_stay: Sequence[int],
    target: Target,
    settings: Strategy,
    trimmed: int | None = 0,
    keep: int | None = None,
) -> CutPlan:
    """Work out the cut of a model with these parameters, whose type cannot lose the blocks ``must_stay``.

    ``keep`` is given where it was measured (a target of latency); ``trimmed`` is None while it is not known how many
    parameters the vocabulary will give.

    Raises:
        TargetError: the target cannot be reached, or the constraints keep more blocks than it allows; the named blocks
            cannot be removed, or do not reach the target.
    """
    total = len(counts.per_block)
    protected = [block for block in must_stay if block < total]
    if isinstance(settings, Named):
        keep = _named(settings, target, counts, protected, trimmed)
    elif keep is None:
        keep = blocks_to_keep(target, counts, protected, trimmed or 0)
    required = required_blocks(total, protected, settings, keep, target)
    if getattr(settings, "contiguous", False):
        free_spans(total, total - keep, required)
    return CutPlan(target, settings, counts, keep, required, trimmed or 0)


def _named(
    settings: Named, target: Target, counts: ParameterCounts, protected: Sequence[int], trimmed: int | None
) -> int:
    """How many blocks stay where the recipe names those that go."""
    total = len(counts.per_block)
    fault = settings.fault(total)
    fixed = sorted(set(protected) & set(settings.blocks))
    if fault or fixed:
        raise TargetError(
            fault or f"select.blocks removes block {fixed[0]}, which this model type cannot lose", "name other blocks"
        )
    kept = [block for block in range(total) if block not in settings.blocks]
    if target.of == "latency" or (trimmed is None and target.of != "blocks"):
        return len(kept)  # measured once it is exported, or known once the data are read
    reached = ratios(counts, kept, trimmed or 0)[target.of]
    if not target.reached(reached):
        raise TargetError(
            f"without blocks {sorted(settings.blocks)}, {target.of} is {reached:.3g}x, not {target.ratio:g}x",
            "leave out the target, or name more blocks",
        )
    return len(kept)


def check_counts(recipe: Recipe, counts: ParameterCounts, must_stay: Sequence[int]) -> None:
    """Raise `TargetError` where no choice of blocks reaches the recipe's target.

    One of latency, or one that a trimmed vocabulary may reach, must be measured first.
    """
    target, select = recipe.target, recipe.select
    trimmed = None if recipe.vocabulary.trim else 0
    if target.of == "latency":
        plan_of_counts(counts, must_stay, target, select, trimmed, len(counts.per_block) - (target.ratio > 1))
    elif isinstance(select, Named) or target.of == "blocks" or trimmed is not None:
        plan_of_counts(counts, must_stay, target, select, trimmed)
