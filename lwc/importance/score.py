"""The score stage: run the recipe's methods on the calibration batches, fuse them, and say how far to trust them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lwc.core.errors import DataError, RecipeError
from lwc.importance.fusion import Fusion, fuse, kendall_tau
from lwc.importance.methods import run_methods, with_expert
from lwc.importance.subsets import CutModel, Recover, measure, random_subsets
from lwc.importance.trust import Scored, against_cut_models, resampled
from lwc.models.batches import Batch
from lwc.models.families import Family, block_list
from lwc.models.types import Model
from lwc.recipe import Score, Trust

Say = Callable[[str], None]


def score_blocks(
    model: Model,
    family: Family,
    batches: Sequence[Batch],
    config: Score,
    progress: Say | None = None,
    *,
    validation: Sequence[Batch] | None = None,
    recover: Recover | None = None,
    cut: int | None = None,
    seed: int = 0,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Content of ``importance.json``: every method's raw scores, the fusion, Kendall τ, what was left out, and trust.

    Args:
        validation: where the loss of cut models is measured (``config.trust``, or a learned fusion); without it they
            are measured on the calibration batches that the scores come from, and ``importance.json`` says so.
        recover: removed blocks → loss on that same split after ``config.trust.recovery_steps`` steps of recovery.
        cut: how many blocks the cut models lack, best as many as the target removes; half of them by default.
        seed: of the cut models and of every draw.
        cache: folder of an LLM expert's answers.

    Raises:
        DataError: the calibration set is empty or has rows of one class only, or no method tells the blocks apart.
        RecipeError: recovery of cut models is asked for and ``recover`` is not given.
        ExpertError: the recipe requires an LLM expert's answer, and there is none.
    """
    count = _checked(batches)
    if config.trust is not None and config.trust.recovery_steps > 0 and recover is None:
        raise RecipeError("score.trust.recovery_steps: nothing here can recover a cut model", "set it to 0")
    measured = run_methods(model, family, batches, config.methods, progress)
    results = with_expert(model, family, measured, config.methods, progress, cache)
    scores = {name: result.scores for name, result in results.found.items()}
    weights: dict[str, float] = {method.method: method.weight for method in config.methods}
    blocks = len(block_list(model, family))
    learning = config.fusion == "learned"
    asked = config.trust or (Trust() if learning else None)
    cut_models: list[CutModel] = []
    if asked is not None:
        subsets = random_subsets(blocks, asked.subsets, seed, family.protected, cut)
        again = recover if asked.recovery_steps > 0 else None
        cut_models = measure(model, family, batches if validation is None else validation, subsets, again, progress)
    scored = Scored(scores, weights, config.fusion, cut_models)
    trust: dict[str, Any] | None = None
    try:
        fusion = fuse(scores, weights, config.fusion, scored.targets())
        if config.trust is not None:
            trust = _trust(model, family, batches, config, scored, validation is not None, seed, progress)
    except ValueError as error:
        hint = "use fusion: mean_rank" if learning else "use more methods or more calibration rows"
        raise DataError(f"the blocks cannot be ranked: {error}", hint) from error
    names, matrix = kendall_tau(scores)
    content = {
        "blocks": blocks,
        "examples": count,
        "methods": {name: {**asdict(result), "weight": weights[name]} for name, result in results.found.items()},
        "excluded": {**fusion.excluded, **results.refused},
        "fused": _fused(fusion),
        "kendall_tau": {"names": names, "matrix": matrix},
        "trust": trust,
    }
    finite: dict[str, Any] = _finite(content)
    return finite


def _checked(batches: Sequence[Batch]) -> int:
    if not batches:
        raise DataError("the calibration set is empty", "raise data.calibration")
    if batches[0].labels.ndim > 1:  # tokens are their own labels
        return sum(len(batch) for batch in batches)
    labels = torch.cat([batch.labels for batch in batches])
    if len(set(labels.tolist())) < 2:
        raise DataError(
            f"all {len(labels)} calibration rows have one label: loss and gradients would measure a constant answer",
            "raise data.calibration, or balance the data",
        )
    return len(labels)


def _trust(
    model: Model,
    family: Family,
    batches: Sequence[Batch],
    config: Score,
    scored: Scored,
    held_out: bool,
    seed: int,
    progress: Say | None,
) -> dict[str, Any]:
    assert config.trust is not None

    def rescore(drawn: Sequence[Batch]) -> dict[str, Sequence[float]]:
        return {name: result.scores for name, result in run_methods(model, family, drawn, config.methods).items()}

    split = "validation" if held_out else "calibration"
    return {
        **resampled(scored, batches, model.config.pad_token_id, config.trust, seed, rescore, progress),
        **against_cut_models(scored, split, config.trust, seed),
    }


def _fused(fusion: Fusion) -> dict[str, Any]:
    return {
        "scores": list(fusion.scores),
        "ranking": list(fusion.ranking),
        "method": fusion.method,
        "unit": fusion.unit,
        "weights": fusion.weights,
        "learned": fusion.learned,
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
