"""How far to believe the scores: scored again on other draws of the data, and held against models really cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lwc.core.arrays import Array
from lwc.importance.fusion import fuse, predicted_damage, usable
from lwc.importance.learned import removed_sums
from lwc.importance.resampling import Rows
from lwc.importance.statistics import bootstrap_interval, compare_predictions, rank_stability
from lwc.importance.subsets import CutModel
from lwc.metrics.classification import LEVEL
from lwc.models.batches import Batch
from lwc.recipe import Trust

Rescore = Callable[[Sequence[Batch]], dict[str, Sequence[float]]]
"""Batches → scores of every method that is scored again."""


@dataclass(frozen=True)
class Scored:
    """What was scored: raw scores and weights by method, how they are fused, and the losses that a fusion learns on."""

    scores: Mapping[str, Sequence[float]]
    weights: Mapping[str, float]
    fusion: str
    cut: Sequence[CutModel]

    def targets(self) -> list[tuple[frozenset[int], float]]:
        """What ``learned`` is fitted on: losses after recovery where they were measured, else before."""
        return [(one.removed, one.loss if one.recovered is None else one.recovered) for one in self.cut]

    def fused(self, scores: Mapping[str, Sequence[float]]) -> tuple[float, ...]:
        """These scores in place of the original ones, fused the same way; a method that has none keeps its own."""
        return fuse({**self.scores, **scores}, self.weights, self.fusion, self.targets()).scores


def _draws(
    scored: Scored,
    draw: Callable[[int], list[Batch]],
    seeds: Sequence[int],
    rescore: Rescore,
    say: Callable[[int], None],
) -> dict[str, Array]:
    """Scores (R, L) of each method, and of the fusion under ``""``, on every draw of the calibration set."""
    found: dict[str, list[Sequence[float]]] = {}
    for number, seed in enumerate(seeds, start=1):
        say(number)
        scores = rescore(draw(seed))
        for name, values in {**scores, "": scored.fused(scores)}.items():
            found.setdefault(name, []).append(values)
    return {name: np.asarray(values, dtype=np.float64) for name, values in found.items()}


def resampled(
    scored: Scored,
    batches: Sequence[Batch],
    pad_id: int | None,
    config: Trust,
    seed: int,
    rescore: Rescore,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """``intervals`` of each block and ``stability`` of each ranking, by method and for the fusion.

    Every method is scored again on ``config.resamples`` bootstrap draws of the calibration set (within each class), and
    on ``config.seeds`` random halves of it. Methods that ``rescore`` leaves out (the answers of a language model are no
    measurement of the data) have no interval of their own and stay as they are in the fusion.
    """
    rows = Rows(batches, pad_id)

    def say(what: str, count: int) -> Callable[[int], None]:
        return lambda number: progress(f"{what} ({number}/{count})") if progress is not None else None

    again = _draws(
        scored, rows.bootstrap, [seed + i for i in range(config.resamples)], rescore, say("resample", config.resamples)
    )
    halves = _draws(scored, rows.part, [seed + i for i in range(config.seeds)], rescore, say("half", config.seeds))
    fused = scored.fused({})
    own = {"": fused, **{name: scored.scores[name] for name in scored.scores if name in again}}
    intervals = {name: bootstrap_interval(values, again[name]) for name, values in own.items()}
    stability = {
        name: {"resamples": rank_stability(again[name]), "halves": rank_stability(halves[name])} for name in own
    }
    return {
        "intervals": {
            "level": LEVEL,
            "kind": f"score ± t × standard deviation over {config.resamples} bootstrap draws of the calibration set",
            "methods": {name: value for name, value in intervals.items() if name},
            "fused": intervals[""],
        },
        "stability": {
            "resamples": config.resamples,
            "seeds": config.seeds,
            "methods": {name: value for name, value in stability.items() if name},
            "fused": stability[""],
        },
        "not_rescored": [name for name in scored.scores if name not in again],
    }


def against_cut_models(scored: Scored, split: str, config: Trust, seed: int) -> dict[str, Any]:
    """``cut_models`` (what was measured), ``predicted`` damage, its ``correlation`` with the loss, and the verdict.

    Damage is predicted before recovery and without looking: the sum of a method's scores of the removed blocks. For a
    learned fusion it comes from weights fitted on other cut models (see `fusion.predicted_damage`).
    """
    good, _ = usable(scored.scores)
    removed = [sorted(one.removed) for one in scored.cut]
    sizes = [len(blocks) for blocks in removed]
    before = [one.loss for one in scored.cut]
    after = [one.recovered for one in scored.cut if one.recovered is not None]
    predicted = {name: removed_sums(values[None], removed)[:, 0] for name, values in good.items()} if removed else {}
    correlation: dict[str, Any] = {"before_recovery": None, "after_recovery": None}
    fused: Array = np.zeros(0)
    if removed:
        fused = predicted_damage(scored.scores, scored.weights, scored.fusion, scored.targets())
        for name, losses in (("before_recovery", before), ("after_recovery", after)):
            correlation[name] = compare_predictions(predicted, fused, sizes, losses, config.bootstrap, seed)
    judged = "after_recovery" if correlation["after_recovery"] else "before_recovery"
    found = correlation[judged]
    return {
        "cut_models": {"split": split, "removed": removed, "loss": before, "recovered": after or None},
        "predicted": {
            "methods": {name: values.tolist() for name, values in predicted.items()},
            "fused": fused.tolist(),
            "cross_validated": scored.fusion == "learned",
        },
        "correlation": correlation,
        "best_single": found["best_single"] if found else None,
        "fusion_beats_best_single": found["fusion_beats_best_single"] if found else None,
        "verdict": _verdict(scored.fusion, found, judged, split, len(removed)),
    }


def _verdict(fusion: str, found: Mapping[str, Any] | None, judged: str, split: str, count: int) -> str:
    """In one or two sentences, whether fusing was worth it; both numbers are in it."""
    if found is None:
        return f"Only {count} cut models exist for this model: how well the scores predict their loss is not measured."
    best, beats = found["best_single"], found["fusion_beats_best_single"]
    if best is None or beats is None:
        return "Scores or losses of the cut models are constant: how well the scores predict is not measured."

    def told(value: Mapping[str, float]) -> str:
        return f"{value['value']:.2f} ({value['low']:.2f} to {value['high']:.2f})"

    low, high = found["difference"]["low"], found["difference"]["high"]
    sure = low is not None and (low > 0 or high < 0)
    doubt = "" if sure else ", a difference within chance"
    end = f"The fusion is better{doubt}." if beats else f"The fusion is not better than the best single method{doubt}."
    return (
        f"The loss of {count} cut models ({split} split, {judged.replace('_', ' ')}) is predicted with a rank "
        f"correlation of {told(found['fused'])} by the fusion ({fusion}) and {told(found['methods'][best])} by the "
        f"best single method ({best}). {end}"
    )
