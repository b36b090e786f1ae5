"""What a scorer is, what it gives, and what is written of it all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import NotRequired, TypedDict, TypeVar

from lwc.metrics.classification import Estimate
from lwc.models.batches import Batch
from lwc.models.families import Family
from lwc.models.forward.undisturbed import undisturbed
from lwc.models.types import Model
from lwc.recipe import Method

S = TypeVar("S", bound=Method)


@dataclass(frozen=True)
class LayerImportance:
    """One score a block in the method's raw ``unit``; higher = keep. ``details`` are further figures a block.

    ``seconds`` is set by whoever runs the scorer.
    """

    method: str
    scores: tuple[float, ...]
    unit: str
    seconds: float = 0.0
    details: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """Why a method has no scores, and is left out of the fusion."""

    reason: str


Scorer = Callable[[Model, Family, Sequence[Batch], S], LayerImportance]
"""``(model, family, batches, settings) → LayerImportance``; leaves the model as it was."""

ScorerOfScores = Callable[[Mapping[str, Sequence[float]], int, S], LayerImportance | Refusal]
"""``(raw scores by method, number of blocks, settings)``, where the settings class says ``reads = "scores"``."""


def scorer(function: Scorer[S]) -> Scorer[S]:
    """Run a scorer on the undisturbed model."""

    @wraps(function)
    def run(model: Model, family: Family, batches: Sequence[Batch], settings: S) -> LayerImportance:
        with undisturbed(model):
            return function(model, family, batches, settings)

    return run


class MethodScores(TypedDict):
    """A `LayerImportance` in ``importance.json``. Where a score is not finite it is null, and the method excluded."""

    method: str
    scores: list[float]
    unit: str
    seconds: float
    details: dict[str, list[float]]
    weight: float
    reasons: NotRequired[list[str]]
    usage: NotRequired[dict[str, int]]


class LearnedFit(TypedDict):
    """The fit of a learned fusion. ``held_out_r2``: 1 is perfect, 0 or less no better than predicting the mean loss."""

    subsets: int
    folds: int
    ridge: float
    held_out_rmse: float
    held_out_r2: float | None


class FusedScores(TypedDict):
    """The fusion; ``ranking`` names the most important block first, ``weights`` are by method."""

    scores: list[float]
    ranking: list[int]
    method: str
    unit: str
    weights: dict[str, float]
    learned: LearnedFit | None


class Comparison(TypedDict):
    """Spearman's ρ of predicted damage and measured loss of cut models."""

    methods: dict[str, Estimate]
    fused: Estimate
    size_only: float | None
    best_single: str | None
    difference: Estimate | None
    fusion_beats_best_single: bool | None


class Intervals(TypedDict):
    """[low, high] of each block, by method and of the fusion."""

    level: float
    kind: str
    methods: dict[str, list[list[float]]]
    fused: list[list[float]]


class Stability(TypedDict):
    """Mean Kendall τ between rankings from ``resamples`` and from ``halves`` of the calibration set."""

    resamples: int
    seeds: int
    methods: dict[str, dict[str, float]]
    fused: dict[str, float]


class Resampled(TypedDict):
    """How far the scores depend on the rows that were drawn."""

    intervals: Intervals
    stability: Stability
    not_rescored: list[str]


class CutModels(TypedDict):
    """The models that were really cut: blocks, loss without them, and the loss after recovery."""

    split: str
    removed: list[list[int]]
    loss: list[float]
    recovered: list[float] | None


class Predicted(TypedDict):
    """Damage that the scores predict for each cut model."""

    methods: dict[str, list[float]]
    fused: list[float]
    cross_validated: bool


class Correlation(TypedDict):
    """Predicted damage against the loss before and after recovery, each where it was measured."""

    before_recovery: Comparison | None
    after_recovery: Comparison | None


class AgainstCutModels(TypedDict):
    """How well the scores predict the loss of models that were really cut."""

    cut_models: CutModels
    predicted: Predicted
    correlation: Correlation
    best_single: str | None
    fusion_beats_best_single: bool | None
    verdict: str


class TrustFigures(Resampled, AgainstCutModels):
    """How far to believe the scores."""


class Agreement(TypedDict):
    """Kendall τ of every two methods."""

    names: list[str]
    matrix: list[list[float | None]]


class Importance(TypedDict):
    """Content of ``importance.json``."""

    blocks: int
    examples: int
    methods: dict[str, MethodScores]
    excluded: dict[str, str]
    fused: FusedScores
    kendall_tau: Agreement
    trust: TrustFigures | None
