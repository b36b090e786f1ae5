"""The select stage: target and strategy to the list of blocks that stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lwc.core.errors import TargetError
from lwc.importance.resampling import Rows
from lwc.models.batches import Batch
from lwc.models.families import Family, family_of
from lwc.models.forward.pieces import part_of, pieces_of
from lwc.models.forward.prefix import outcomes
from lwc.models.forward.undisturbed import undisturbed
from lwc.models.surgery import ParameterCounts, parameter_counts
from lwc.models.types import Model
from lwc.recipe import Recipe, Select, Target
from lwc.selection.choice import AfterRecovery, Choice, Subset
from lwc.selection.strategies import STRATEGIES
from lwc.selection.target import blocks_to_keep, ratios


def measured(model: Model, family: Family, batches: Sequence[Batch], rows: int | None) -> Any:
    """Subsets → loss in nats with these blocks bypassed, on so many calibration rows of all lengths (prefix reuse)."""
    if rows is not None and rows < sum(len(batch) for batch in batches):
        batches = Rows(batches, model.config.pad_token_id).of_all_lengths(rows)
    width = int(model.config.hidden_size)
    parts = [part_of(batch, piece) for batch in batches for piece in pieces_of(batch, width)]

    def losses(subsets: Iterable[Subset]) -> dict[Subset, float]:
        with undisturbed(model):
            return {gone: found.loss for gone, found in outcomes(model, family, parts, subsets).items()}

    return losses


def required_blocks(total: int, protected: Sequence[int], config: Select, keep: int, target: Target) -> frozenset[int]:
    """Blocks that must stay.

    Raises:
        TargetError: they are more than the target leaves room for.
    """
    required = frozenset(
        [*protected, *range(min(config.keep_first, total)), *range(max(0, total - config.keep_last), total)]
    )
    if len(required) > keep:
        raise TargetError(
            f"blocks {sorted(required)} must stay, but {target.ratio:g}x of {target.of} "
            f"leaves room for {keep} of {total}",
            "lower the ratio, or select.keep_first / select.keep_last",
        )
    return required


def plan_cut(
    model: Model, family: Family, target: Target, config: Select, trimmed: int = 0, keep: int | None = None
) -> tuple[ParameterCounts, int, frozenset[int]]:
    """(parameter counts, how many blocks stay, which must). ``trimmed``: parameters that vocabulary trimming takes.

    ``keep`` is given where it was measured (a target of latency).
    """
    counts = parameter_counts(model, family)
    total = len(counts.per_block)
    protected = [block for block in family.protected if block < total]
    if keep is None:
        keep = blocks_to_keep(target, counts, protected, trimmed)
    return counts, keep, required_blocks(total, protected, config, keep, target)


def check_target(recipe: Recipe, model: Model) -> None:
    """Raise `TargetError` where no choice of blocks reaches the target; one that must be measured first passes."""
    target = recipe.target
    if target.of != "latency" and (target.of == "blocks" or not recipe.vocabulary.trim):
        plan_cut(model, family_of(model), target, recipe.select)


def describe(
    kept: Sequence[int], counts: ParameterCounts, target: Target, config: Select, trimmed: int = 0
) -> dict[str, Any]:
    """Content of ``selection.json``: blocks kept and removed, and the ratios that this gives."""
    removed = [block for block in range(len(counts.per_block)) if block not in kept]
    return {
        "strategy": config.strategy,
        "weights": config.weights,
        "target": {"ratio": target.ratio, "of": target.of},
        "blocks_before": len(counts.per_block),
        "kept": list(kept),
        "removed": removed,
        "ratios": ratios(counts, kept, trimmed),
        "params_before": counts.total,
        "params_after": counts.without(removed) - trimmed,
    }


def select_blocks(
    model: Model,
    family: Family,
    batches: Sequence[Batch],
    importance: Mapping[str, Any],
    target: Target,
    config: Select,
    *,
    recovered: AfterRecovery | None = None,
    trimmed: int = 0,
    keep: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Choose by the recipe's strategy; content of ``selection.json``.

    Args:
        recovered: how far a cut model is from the teacher after recovery, for strategies that need it.
        trimmed: parameters that vocabulary trimming will take.
        keep: how many blocks stay, where that was measured (a target of latency).
        seed: of random draws.

    Raises:
        TargetError: the target cannot be reached, or the constraints keep more blocks than it allows.
    """
    counts, keep, required = plan_cut(model, family, target, config, trimmed, keep)
    losses = measured(model, family, batches, getattr(config, "rows", None))
    choice = Choice(importance, len(counts.per_block), keep, required, losses, recovered, seed)
    removed = STRATEGIES[type(config)](config, choice)
    kept = [block for block in range(choice.total) if block not in removed]
    return {**describe(kept, counts, target, config, trimmed), **choice.notes}
