"""How far to trust the scores: scored again on other draws of the data, and compared with models really cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lwc.core.arrays import Array
from lwc.core.marks import LEVEL, Interval
from lwc.importance.contents import AgainstCutModels, Comparison, Correlation, Resampled, Stable
from lwc.importance.fusion import fuse, predicted_damage, usable
from lwc.importance.learned import removed_sums
from lwc.importance.resampling import Rows
from lwc.importance.statistics import bootstrap_interval, compare_predictions, rank_stability
from lwc.importance.subsets import CutModel
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


def resampled(
    scored: Scored,
    rows: Rows,
    settings: Trust,
    seed: int,
    rescore: Rescore,
    progress: Callable[[str], None] = lambda _: None,
) -> Resampled:
    """``intervals`` of each block and ``stability`` of each ranking, by method and for the fusion.

    Every method is scored again on ``settings.resamples`` bootstrap draws of the calibration set (within each class),
    and on ``settings.seeds`` random halves of it. Methods that ``rescore`` leaves out (the answers of a language model
    are no measurement of the data) have no interval of their own and stay as they are in the fusion.
    """

    def drawn(draw: Callable[[int], list[Batch]], what: str, count: int) -> tuple[dict[str, Array], Array]:
        """Scores (R, L) on every draw, of each method that is scored again, and of the fusion."""
        methods: dict[str, list[Sequence[float]]] = {}
        fused = []
        for number in range(count):
            progress(f"{what} ({number + 1}/{count})")
            scores = rescore(draw(seed + number))
            for name, values in scores.items():
                methods.setdefault(name, []).append(values)
            fused.append(scored.fused(scores))
        return {name: np.asarray(values, dtype=np.float64) for name, values in methods.items()}, np.asarray(fused)

    again, fused_again = drawn(rows.bootstrap, "resample", settings.resamples)
    halves, fused_halves = drawn(rows.part, "half", settings.seeds)

    def stability(resamples: Array, parts: Array) -> Stable:
        return {"resamples": rank_stability(resamples), "halves": rank_stability(parts)}

    names = [name for name in scored.scores if name in again]
    return {
        "intervals": {
            "level": LEVEL,
            "kind": f"score ± t × standard deviation over {settings.resamples} bootstrap draws of the calibration set",
            "methods": {name: bootstrap_interval(scored.scores[name], again[name]) for name in names},
            "fused": bootstrap_interval(scored.fused({}), fused_again),
        },
        "stability": {
            "resamples": settings.resamples,
            "seeds": settings.seeds,
            "methods": {name: stability(again[name], halves[name]) for name in names},
            "fused": stability(fused_again, fused_halves),
        },
        "not_rescored": [name for name in scored.scores if name not in again],
    }


def against_cut_models(scored: Scored, split: str, settings: Trust, seed: int) -> AgainstCutModels:
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
    fused: Array = np.zeros(0)
    if removed:
        fused = predicted_damage(scored.scores, scored.weights, scored.fusion, scored.targets())

    def compared(losses: Sequence[float]) -> Comparison | None:
        return compare_predictions(predicted, fused, sizes, losses, settings.bootstrap, seed) if losses else None

    correlation: Correlation = {"before_recovery": compared(before), "after_recovery": compared(after)}
    judged = "after recovery" if correlation["after_recovery"] else "before recovery"
    found = correlation["after_recovery"] or correlation["before_recovery"]
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


def _verdict(fusion: str, found: Comparison | None, judged: str, split: str, count: int) -> str:
    """In one or two sentences, whether fusing was worth it; both numbers are in it."""
    if found is None:
        return f"Only {count} cut models exist for this model: how well the scores predict their loss is not measured."
    best, beats = found["best_single"], found["fusion_beats_best_single"]
    if best is None or beats is None:
        return "Scores or losses of the cut models are constant: how well the scores predict is not measured."

    def told(value: Interval) -> str:
        return f"{value['value']:.2f} ({value['low']:.2f} to {value['high']:.2f})"

    difference = found["difference"]
    low, high = (difference["low"], difference["high"]) if difference else (None, None)
    sure = low is not None and high is not None and (low > 0 or high < 0)
    doubt = "" if sure else ", a difference within chance"
    end = f"The fusion is better{doubt}." if beats else f"The fusion is not better than the best single method{doubt}."
    return (
        f"The loss of {count} cut models ({split} split, {judged}) is predicted with a rank "
        f"correlation of {told(found['fused'])} by the fusion ({fusion}) and {told(found['methods'][best])} by the "
        f"best single method ({best}). {end}"
    )
