"""Target arithmetic: how many blocks may stay for a named ratio."""

from __future__ import annotations

import math
from collections.abc import Collection

from lwc.core.errors import TargetError
from lwc.models.counts import ParameterCounts
from lwc.recipe import Target


def ratios(counts: ParameterCounts, kept: Collection[int], trimmed: int = 0) -> dict[str, float]:
    """Blocks, params and size of the whole model ÷ those of the model with these blocks only.

    ``trimmed`` parameters more go with the vocabulary.
    """
    removed = set(range(len(counts.per_block))) - set(kept)
    left = counts.without(removed) - trimmed
    return {
        "blocks": len(counts.per_block) / len(kept),
        "params": counts.total / left,
        # Of the exported files, float32; their graphs take some kB more.
        "size": (counts.total + counts.tied) / (left + counts.tied),
    }


def _reach(counts: ParameterCounts, keep: int, of: str, protected: Collection[int], trimmed: int) -> float:
    """The ratio that keeping *any* ``keep`` blocks reaches at least: the protected and the dearest count as kept."""
    others = [index for index in range(len(counts.per_block)) if index not in protected]
    dearest = sorted(others, key=lambda index: -counts.per_block[index])[: keep - len(protected)]
    return ratios(counts, [*protected, *dearest], trimmed)[of]


def blocks_to_keep(target: Target, counts: ParameterCounts, protected: Collection[int] = (), trimmed: int = 0) -> int:
    """The most blocks that may stay so that the ratio is reached, whichever they are.

    Raises:
        TargetError: the ratio cannot be reached by removing blocks; says what can, and which lever is missing.
        ValueError: latency cannot be counted: see ``latency.blocks_for_latency``.
    """
    total = len(counts.per_block)
    if target.of == "latency":
        raise ValueError("latency is measured, not counted")
    protected = set(protected)
    least = max(1, len(protected))
    for keep in range(total, least - 1, -1):
        if target.reached(_reach(counts, keep, target.of, protected, trimmed)):
            return keep
    reachable = math.floor(_reach(counts, least, target.of, protected, trimmed) * 100) / 100
    blocks = sum(counts.per_block)
    lever = (
        f"; blocks hold {blocks / counts.total:.0%} of the parameters, so the missing lever is trimming the vocabulary"
        " (vocabulary: {trim: true})"
        if target.of in ("params", "size") and not trimmed
        else ""
    )
    role = f" (block {sorted(protected)} must stay)" if protected else ""
    raise TargetError(
        f"target {target.ratio:g}x of {target.of} cannot be reached by removing blocks: with {least} of {total}"
        f" left{role} it is {reachable:g}x{lever}",
        f"ask for at most {reachable:g}x of {target.of}, or name another base (of: blocks)",
    )
