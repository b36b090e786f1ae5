"""The content of ``importance.json``, of which the report repeats all. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypeAlias

from pydantic import Field
from typing_extensions import TypedDict

from lwc.core.marks import Interval, Intervals, Keyed, Number, Sometimes, When

Bands: TypeAlias = Annotated[list[list[Number]], Keyed("blocks")]


class MethodScores(TypedDict, total=False):
    """One method's raw scores, one a block. Where a score is not finite it is null, and the method excluded."""

    method: str
    scores: Annotated[list[Number], Keyed("blocks")]
    unit: str
    weight: float
    seconds: float
    details: Annotated[dict[str, list[Number]], Sometimes(), Field(description="further figures a block")]
    reasons: list[str]
    usage: Annotated[dict[str, int], When()]  # tokens that an LLM expert took: never a metric of a gate


class LearnedFit(TypedDict):
    """The fit of a learned fusion. ``held_out_r2``: 1 is perfect, 0 or less no better than predicting the mean loss."""

    subsets: int
    folds: int
    ridge: float
    held_out_rmse: float
    held_out_r2: Number


class FusedScores(TypedDict):
    """The methods as one ranking."""

    scores: Annotated[list[float], Keyed("blocks")]
    ranking: Annotated[list[int], Keyed("blocks"), Field(description="block numbers, most important first")]
    method: NotRequired[str]
    unit: NotRequired[str]
    weights: NotRequired[Annotated[dict[str, float], Keyed("methods"), Sometimes(), Field(description="as used")]]
    learned: NotRequired[Annotated[LearnedFit | None, When("learned fusion")]]


class KendallTau(TypedDict):
    """Agreement of the rankings of every pair of methods."""

    names: list[str]
    matrix: Annotated[list[Annotated[list[Number], Keyed("pairs of methods")]], Keyed("pairs of methods"), Sometimes()]


class ScoreIntervals(TypedDict):
    """(low, high) of each block's score."""

    level: float
    kind: str
    methods: Annotated[dict[str, Bands], Keyed("methods"), Sometimes()]
    fused: Bands


Stable: TypeAlias = dict[Literal["resamples", "halves"], Number]
"""Mean Kendall τ between rankings on other draws of the calibration set."""


class Stability(TypedDict):
    """How far each ranking depends on the calibration rows."""

    resamples: int
    seeds: int
    methods: Annotated[dict[str, Stable], Keyed("methods"), Sometimes()]
    fused: Stable


class Resampled(TypedDict):
    """How far the scores depend on the rows that were drawn."""

    intervals: ScoreIntervals
    stability: Stability
    not_rescored: list[str]


class CutModels(TypedDict):
    """The models that were really cut: blocks, loss without them, and the loss after a short recovery."""

    split: str
    removed: list[list[int]]
    loss: list[float]
    recovered: Annotated[list[float] | None, When("recovered cut models")]


class Predicted(TypedDict):
    """Damage that the scores predict for each cut model."""

    methods: Annotated[dict[str, list[float]], Keyed("methods"), Sometimes()]
    fused: list[float]
    cross_validated: bool


class Comparison(TypedDict):
    """Spearman's ρ of predicted damage and measured loss of cut models."""

    methods: Annotated[Intervals, Keyed("methods"), Sometimes()]
    fused: Interval
    size_only: Annotated[Number, Sometimes(), Field(description="what counting the removed blocks would predict")]
    best_single: str | None
    difference: Annotated[Interval | None, Sometimes()]
    fusion_beats_best_single: Annotated[bool | None, Sometimes()]


class Correlation(TypedDict):
    """Predicted damage against the loss before and after recovery, each where it was measured."""

    before_recovery: Annotated[Comparison | None, Sometimes()]
    after_recovery: Annotated[Comparison | None, When("recovered cut models"), Sometimes()]


class AgainstCutModels(TypedDict):
    """How well the scores predict the loss of models that were really cut."""

    cut_models: CutModels
    predicted: Predicted
    correlation: Correlation
    best_single: str | None
    fusion_beats_best_single: Annotated[bool | None, Sometimes()]
    verdict: str


class TrustFigures(Resampled, AgainstCutModels):
    """How far to believe the scores."""


class Importance(TypedDict):
    """Per block, higher = keep, raw units."""

    blocks: int
    examples: NotRequired[int]
    methods: Annotated[dict[str, MethodScores], Keyed("methods"), Sometimes()]
    fused: FusedScores
    excluded: NotRequired[Annotated[dict[str, str], Field(description="why a method is not in the fusion")]]
    kendall_tau: NotRequired[KendallTau | None]
    trust: NotRequired[Annotated[TrustFigures | None, When("trust")]]
