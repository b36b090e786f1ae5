"""Content of ``importance.json``, as the report repeats it."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypeAlias

from pydantic import Field
from typing_extensions import TypedDict

from lwc.report.marks import Interval, Intervals, Keyed, Number, Sometimes, When

Scores: TypeAlias = Annotated[list[Number], Keyed("blocks")]
Bands: TypeAlias = Annotated[list[list[Number]], Keyed("blocks")]


class MethodScores(TypedDict, total=False):
    """One method's raw scores, one a block."""

    scores: Scores
    unit: str
    weight: float
    seconds: float
    details: Annotated[dict[str, list[Number]], Sometimes(), Field(description="further figures a block")]


class Learned(TypedDict):
    """What the fit of a learned fusion says of itself."""

    subsets: int
    folds: int
    ridge: float
    held_out_rmse: float
    held_out_r2: Number


class Fused(TypedDict):
    """The methods as one ranking."""

    scores: Scores
    ranking: Annotated[list[int], Keyed("blocks"), Field(description="block numbers, most important first")]
    method: NotRequired[str]
    unit: NotRequired[str]
    weights: NotRequired[Annotated[dict[str, float], Keyed("methods"), Sometimes(), Field(description="as used")]]
    learned: NotRequired[Annotated[Learned | None, When("learned fusion")]]


class KendallTau(TypedDict):
    """Agreement of the rankings of every pair of methods."""

    names: list[str]
    matrix: list[list[Number]]


class ScoreIntervals(TypedDict):
    """(low, high) of each block's score."""

    level: float
    kind: str
    methods: Annotated[dict[str, Bands], Keyed("methods"), Sometimes()]
    fused: Bands


class Stable(TypedDict):
    """Mean Kendall τ between rankings on other draws of the calibration set."""

    resamples: Number
    halves: Number


class Stability(TypedDict):
    """How far each ranking depends on the calibration rows."""

    resamples: int
    seeds: int
    methods: Annotated[dict[str, Stable], Keyed("methods"), Sometimes()]
    fused: Stable


class CutModels(TypedDict):
    """Models really cut, and their losses."""

    split: str
    removed: list[list[int]]
    loss: list[float]
    recovered: Annotated[list[float] | None, When("recovered cut models")]


class Predicted(TypedDict):
    """Damage that the scores predict for each cut model."""

    methods: Annotated[dict[str, list[float]], Keyed("methods"), Sometimes()]
    fused: list[float]
    cross_validated: bool


class Correlation(TypedDict):
    """Spearman's ρ of predicted damage and loss."""

    methods: Annotated[Intervals, Keyed("methods"), Sometimes()]
    fused: Interval
    size_only: Annotated[Number, Sometimes(), Field(description="what counting the removed blocks would predict")]
    best_single: str | None
    difference: Annotated[Interval | None, Sometimes()]
    fusion_beats_best_single: Annotated[bool | None, Sometimes()]


class Correlations(TypedDict):
    """With the losses before and after a short recovery."""

    before_recovery: Annotated[Correlation | None, Sometimes()]
    after_recovery: Annotated[Correlation | None, When("recovered cut models"), Sometimes()]


class Trust(TypedDict):
    """How far to believe the scores."""

    intervals: ScoreIntervals
    stability: Stability
    not_rescored: list[str]
    cut_models: CutModels
    predicted: Predicted
    correlation: Correlations
    best_single: str | None
    fusion_beats_best_single: Annotated[bool | None, Sometimes()]
    verdict: str


class Importance(TypedDict):
    """Per block, higher = keep, raw units."""

    blocks: int
    examples: NotRequired[int]
    methods: Annotated[dict[str, MethodScores], Keyed("methods"), Sometimes()]
    fused: Fused
    excluded: NotRequired[Annotated[dict[str, str], Field(description="why a method is not in the fusion")]]
    kendall_tau: NotRequired[KendallTau | None]
    trust: NotRequired[Annotated[Trust | None, When("trust")]]
