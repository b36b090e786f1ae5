"""The score stage: run the recipe's methods on the calibration batches and fuse them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch

from lwc.errors import DataError
from lwc.importance.fusion import fuse, kendall_tau
from lwc.importance.registry import SCORERS
from lwc.importance.types import LayerImportance
from lwc.models.batches import Batch
from lwc.models.families import Family, block_list
from lwc.recipe import Score


def score_blocks(
    model: Any,
    family: Family,
    batches: Sequence[Batch],
    config: Score,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Content of ``importance.json``: every method's raw scores, the fusion, Kendall τ, and what was left out.

    Raises:
        DataError: the calibration set is empty or has rows of one class only, or no method tells the blocks apart.
    """
    if not batches:
        raise DataError("the calibration set is empty", "raise data.calibration")
    labels = torch.cat([batch.labels for batch in batches])
    if len(set(labels.tolist())) < 2:
        raise DataError(
            f"all {len(labels)} calibration rows have one label: loss and gradients would measure a constant answer",
            "raise data.calibration, or balance the data",
        )
    results: dict[str, LayerImportance] = {}
    for method in config.methods:
        if progress is not None:
            progress(f"{method.method} ({len(results) + 1}/{len(config.methods)})")
        results[method.method] = SCORERS[method.method](model, family, batches, method)
    scores = {name: result.scores for name, result in results.items()}
    weights: dict[str, float] = {method.method: method.weight for method in config.methods}
    try:
        fusion = fuse(scores, weights)
    except ValueError as error:
        raise DataError(f"the blocks cannot be ranked: {error}", "use more methods or more calibration rows") from error
    names, matrix = kendall_tau(scores)
    return {
        "blocks": len(block_list(model, family)),
        "examples": len(labels),
        "methods": {name: {**_finite(asdict(result)), "weight": weights[name]} for name, result in results.items()},
        "excluded": fusion.excluded,
        "fused": {"scores": list(fusion.scores), "ranking": list(fusion.ranking), "method": config.fusion},
        "kendall_tau": {"names": names, "matrix": matrix},
    }


def _finite(value: Any) -> Any:
    """Numbers as JSON has them: what is not finite becomes null (and its method is excluded by name)."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
