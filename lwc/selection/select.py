"""The select stage: target and strategy to the list of blocks that stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lwc.core.errors import TargetError
from lwc.core.progress import Say
from lwc.importance.contents import Importance
from lwc.importance.resampling import Rows
from lwc.models.batches import Batch
from lwc.models.families import Family, block_list, family_of
from lwc.models.forward.pieces import part_of, pieces_of
from lwc.models.forward.prefix import outcomes
from lwc.models.forward.undisturbed import undisturbed
from lwc.models.surgery import ParameterCounts, parameter_counts
from lwc.models.types import Model
from lwc.recipe import Named, Recipe, Strategy, Target
from lwc.selection.choice import AfterRecovery, Choice, Chooser, Losses, Subset, free_spans
from lwc.selection.target import blocks_to_keep, ratios


def measured(model: Model, family: Family, batches: Sequence[Batch], rows: int | None) -> Losses:
    """Subsets → loss in nats with these blocks bypassed, on so many calibration rows of all lengths (prefix reuse)."""
    if rows is not None and rows < sum(len(batch) for batch in batches):
        batches = Rows(batches, model.config.pad_token_id).of_all_lengths(rows)
    width = int(model.config.hidden_size)
    parts = [part_of(batch, piece) for batch in batches for piece in pieces_of(batch, width)]

    def losses(subsets: Iterable[Subset]) -> dict[Subset, float]:
        with undisturbed(model):
            return {gone: found.loss for gone, found in outcomes(model, family, parts, subsets).items()}

    return losses


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


def plan_cut(
    model: Model, family: Family, target: Target, settings: Strategy, trimmed: int = 0, keep: int | None = None
) -> CutPlan:
    """Work out the cut. ``keep`` is given where it was measured (a target of latency).

    Raises:
        TargetError: the target cannot be reached, or the constraints keep more blocks than it allows.
    """
    counts = parameter_counts(model, family)
    total = len(counts.per_block)
    protected = [block for block in family.protected if block < total]
    if isinstance(settings, Named):
        keep = _named(settings, target, counts, protected, trimmed)
    elif keep is None:
        keep = blocks_to_keep(target, counts, protected, trimmed)
    required = required_blocks(total, protected, settings, keep, target)
    if getattr(settings, "contiguous", False):
        free_spans(total, total - keep, required)
    return CutPlan(target, settings, counts, keep, required, trimmed)


def _named(settings: Named, target: Target, counts: ParameterCounts, protected: Sequence[int], trimmed: int) -> int:
    """How many blocks stay where the recipe names those that go."""
    total = len(counts.per_block)
    fault = settings.fault(total)
    fixed = sorted(set(protected) & set(settings.blocks))
    if fault or fixed:
        raise TargetError(
            fault or f"select.blocks removes block {fixed[0]}, which this model type cannot lose",
            "name other blocks; `lwc score` ranks them",
        )
    kept = [block for block in range(total) if block not in settings.blocks]
    if target.of != "latency" and not target.reached(ratios(counts, kept, trimmed)[target.of]):
        raise TargetError(
            f"without blocks {sorted(settings.blocks)}, {target.of} is {ratios(counts, kept, trimmed)[target.of]:.3g}x,"
            f" not {target.ratio:g}x",
            "leave out the target, or name more blocks",
        )
    return len(kept)


def check_target(recipe: Recipe, model: Model) -> None:
    """Raise `TargetError` where no choice of blocks reaches the target.

    One of latency, or one that a trimmed vocabulary may reach, must be measured first.
    """
    target, family = recipe.target, family_of(model)
    if target.of == "latency":
        fewer = len(block_list(model, family)) - (target.ratio > 1)
        plan_cut(model, family, target, recipe.select, keep=fewer)
    elif target.of == "blocks" or not recipe.vocabulary.trim:
        plan_cut(model, family, target, recipe.select)


def describe(kept: Sequence[int], plan: CutPlan) -> dict[str, Any]:
    """Content of ``selection.json``: blocks kept and removed, and the ratios that this gives."""
    removed = [block for block in range(plan.total) if block not in kept]
    return {
        "strategy": plan.settings.strategy,
        "weights": plan.settings.weights,
        "target": {"ratio": plan.target.ratio, "of": plan.target.of},
        "blocks_before": plan.total,
        "kept": list(kept),
        "removed": removed,
        "required": sorted(plan.required),
        "ratios": ratios(plan.counts, kept, plan.trimmed),
        "params_before": plan.counts.total,
        "params_after": plan.counts.without(removed) - plan.trimmed,
    }


def select_blocks(
    model: Model,
    family: Family,
    batches: Sequence[Batch],
    importance: Importance,
    plan: CutPlan,
    recovered: AfterRecovery | None = None,
    seed: int = 0,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Choose by the strategy of the plan; content of ``selection.json``. Some strategies need ``recovered``."""
    losses = measured(model, family, batches, getattr(plan.settings, "rows", None))
    choice = Choice(importance, plan.total, plan.keep, plan.required, losses, recovered, seed, say=say)
    choose: Chooser[Strategy] = plan.settings.load()
    removed = choose(plan.settings, choice)
    kept = [block for block in range(choice.total) if block not in removed]
    return {**describe(kept, plan), **choice.notes}
