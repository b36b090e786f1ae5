"""The select stage: target and strategy to the list of blocks that stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lwc.core.progress import Say
from lwc.importance.contents import Importance
from lwc.importance.resampling import Rows
from lwc.models.batches import Batch
from lwc.models.families import Family, family_of
from lwc.models.forward.pieces import part_of, pieces_of
from lwc.models.forward.prefix import outcomes
from lwc.models.forward.undisturbed import undisturbed
from lwc.models.surgery import parameter_counts
from lwc.models.types import Model
from lwc.recipe import Recipe, Strategy, Target
from lwc.selection.choice import AfterRecovery, Choice, Chooser, Losses, Subset
from lwc.selection.plan import CutPlan, check_counts, plan_of_counts
from lwc.selection.target import ratios


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


def plan_cut(
    model: Model, family: Family, target: Target, settings: Strategy, trimmed: int = 0, keep: int | None = None
) -> CutPlan:
    """`plan_of_counts` of a model."""
    return plan_of_counts(parameter_counts(model, family), family.protected, target, settings, trimmed, keep)


def check_target(recipe: Recipe, model: Model) -> None:
    """`check_counts` of a model."""
    family = family_of(model)
    check_counts(recipe, parameter_counts(model, family), family.protected)


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
    importance: Importance | None,
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
