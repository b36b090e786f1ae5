"""The score stage: run the recipe's methods on the calibration batches, fuse them, and say how far to trust them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from lwc.core.errors import DataError, RecipeError
from lwc.core.progress import Say
from lwc.importance.contents import Importance, TrustFigures
from lwc.importance.fusion import fuse, kendall_tau
from lwc.importance.methods import run_methods, run_on_scores
from lwc.importance.resampling import Rows
from lwc.importance.subsets import CutModel, Recover, measure, random_subsets
from lwc.importance.trust import Scored, against_cut_models, resampled
from lwc.models.batches import Batch
from lwc.models.families import Family, block_list
from lwc.models.types import Model
from lwc.recipe import Score, Trust


@dataclass(frozen=True)
class Trial:
    """How models are cut to test the scores against (``trust``, or a learned fusion).

    Args:
        held_out: batches that their loss is measured on; without them it is measured on the calibration batches that
            the scores come from, and ``importance.json`` says so.
        recover: removed blocks → loss on those batches after ``trust.recovery_steps`` steps of recovery.
        removed: how many blocks the cut models lack, best as many as the target removes; half of them by default.
    """

    held_out: Sequence[Batch] | None = None
    recover: Recover | None = None
    removed: int | None = None


def score_blocks(
    model: Model,
    family: Family,
    batches: Sequence[Batch],
    settings: Score,
    progress: Say = lambda _: None,
    trial: Trial = Trial(),
    seed: int = 0,
) -> Importance:
    """Content of ``importance.json``: every method's raw scores, the fusion, Kendall τ, what was left out, and trust.

    ``seed`` is that of the cut models and of every draw.

    Raises:
        DataError: the calibration set is empty or has rows of one class only, or no method tells the blocks apart.
        RecipeError: recovery of cut models is asked for and the trial cannot recover one.
        ExpertError: the recipe requires an LLM expert's answer, and there is none.
    """
    count = check_calibration(batches, settings)
    if settings.trust is not None and settings.trust.recovery_steps > 0 and trial.recover is None:
        raise RecipeError("score.trust.recovery_steps: nothing here can recover a cut model", "set it to 0")
    blocks = len(block_list(model, family))
    measured = run_methods(model, family, batches, settings.methods, progress)
    found, refused = run_on_scores(measured, blocks, settings.methods, progress)
    scores = {name: result.scores for name, result in found.items()}
    weights: dict[str, float] = {method.method: method.weight for method in settings.methods}
    learning = settings.fusion == "learned"
    asked = settings.trust or (Trust() if learning else None)
    cut_models: list[CutModel] = []
    if asked is not None:
        subsets = random_subsets(blocks, asked.subsets, seed, family.protected, trial.removed)
        again = trial.recover if asked.recovery_steps > 0 else None
        held_out = batches if trial.held_out is None else trial.held_out
        cut_models = measure(model, family, held_out, subsets, again, progress)
    scored = Scored(scores, weights, settings.fusion, cut_models)

    def rescore(drawn: Sequence[Batch]) -> dict[str, Sequence[float]]:
        return {name: result.scores for name, result in run_methods(model, family, drawn, settings.methods).items()}

    trust: TrustFigures | None = None
    try:
        fusion = fuse(scores, weights, settings.fusion, scored.targets())
        if settings.trust is not None:
            rows = Rows(batches, model.config.pad_token_id)
            split = "calibration" if trial.held_out is None else "validation"
            trust = {
                **resampled(scored, rows, settings.trust, seed, rescore, progress),
                **against_cut_models(scored, split, settings.trust, seed),
            }
    except ValueError as error:
        hint = "use fusion: mean_rank" if learning else "use more methods or more calibration rows"
        raise DataError(f"the blocks cannot be ranked: {error}", hint) from error
    names, matrix = kendall_tau(scores)
    content = {
        "blocks": blocks,
        "examples": count,
        "methods": {name: {**asdict(result), "weight": weights[name]} for name, result in found.items()},
        "excluded": {**fusion.excluded, **refused},
        "fused": {name: value for name, value in asdict(fusion).items() if name != "excluded"},
        "kendall_tau": {"names": names, "matrix": matrix},
        "trust": trust,
    }
    finite: Importance = _finite(content)
    return finite


def check_calibration(batches: Sequence[Batch], settings: Score) -> int:
    """The number of rows; raises `DataError` where blocks cannot be scored on them as the settings ask."""
    if not batches:
        raise DataError("the calibration set is empty", "raise data.calibration")
    count = sum(len(batch) for batch in batches)
    read = any(method.labels for method in settings.methods) or settings.trust or settings.fusion == "learned"
    if batches[0].labels.ndim > 1 or not read:  # tokens are their own labels
        return count
    if len(set(torch.cat([batch.labels for batch in batches]).tolist())) < 2:
        raise DataError(
            f"all {count} calibration rows have one label: loss and gradients would measure a constant answer",
            "raise data.calibration, or balance the data",
        )
    return count


def _finite(value: object) -> Any:
    """Numbers as JSON has them: what is not finite becomes null (and its method is excluded by name)."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
