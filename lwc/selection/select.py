"""The select stage: target and strategy to the list of blocks that stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lwc.errors import TargetError
from lwc.models.batches import Batch
from lwc.models.families import Family
from lwc.models.surgery import parameter_counts
from lwc.recipe import Select, Target
from lwc.selection.strategies import STRATEGIES, Choice
from lwc.selection.target import blocks_to_keep, ratios


def select_blocks(
    model: Any,
    family: Family,
    batches: Sequence[Batch],
    importance: Mapping[str, Any],
    target: Target,
    config: Select,
) -> dict[str, Any]:
    """Content of ``selection.json``: blocks kept and removed, and the ratios that this gives.

    Raises:
        TargetError: the target cannot be reached, or the constraints keep more blocks than it allows.
    """
    counts = parameter_counts(model, family)
    total = len(counts.per_block)
    protected = [block for block in family.protected if block < total]
    keep = blocks_to_keep(target, counts, protected)
    required = frozenset(
        [*protected, *range(min(config.keep_first, total)), *range(max(0, total - config.keep_last), total)]
    )
    if len(required) > keep:
        raise TargetError(
            f"blocks {sorted(required)} must stay, but {target.ratio:g}x of {target.of} "
            f"leaves room for {keep} of {total}",
            "lower the ratio, or select.keep_first / select.keep_last",
        )
    kept = STRATEGIES[config.strategy](Choice(importance, keep, required, model, family, batches))
    removed = [block for block in range(total) if block not in kept]
    return {
        "strategy": config.strategy,
        "target": {"ratio": target.ratio, "of": target.of},
        "blocks_before": total,
        "kept": kept,
        "removed": removed,
        "ratios": ratios(counts, kept),
        "params_before": counts.total,
        "params_after": counts.without(removed),
    }
