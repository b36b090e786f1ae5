"""Contents of the files of training and selection, as the report repeats them."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypeAlias

from pydantic import Field
from typing_extensions import TypedDict

from lwc.core.marks import Keyed, Number, Share, Sometimes, When
from lwc.report.export_contents import ShapeTimes

# train and recover: metrics.json, and selection.json between them

InTraining: TypeAlias = Annotated[dict[str, float], Keyed("figures in training"), Sometimes()]


class Trimmed(TypedDict):
    """What trimming the vocabulary did."""

    before: int
    after: int
    coverage_of_validation: Annotated[Share, Field(description="share of validation texts that are read as before")]


class Trained(TypedDict, total=False):
    """What training did."""

    steps: int
    validation: Annotated[InTraining, Field(description="at the step that was kept")]
    best_step: int
    history: Annotated[
        list[Annotated[dict[str, float], Keyed("figures in training")]], Field(description="one entry an evaluation")
    ]
    seconds: float
    resumed_from: int
    skipped: Annotated[bool, Sometimes(), Field(description="true: the checkpoint is the base as it is")]
    n_train: int
    truncated: Annotated[int, Sometimes(), Field(description="train texts that were cut")]
    warnings: Annotated[list[str], Sometimes(), Field(description="what to know about the checkpoint it started from")]
    items: Annotated[int, When("histories"), Sometimes()]
    items_trained: Annotated[int, When("histories"), Sometimes()]


class Recovered(Trained, total=False):
    """What recovery did."""

    matched_teacher_blocks: list[int]
    vocabulary: Annotated[Trimmed | None, When("trimmed vocabulary")]


class DepthTimes(TypedDict):
    """A depth that a target of latency was measured at."""

    blocks: int
    ratio: float
    shapes: list[ShapeTimes]


class AskedRatio(TypedDict):
    """The recipe's target."""

    ratio: float
    of: str


PlannedRatios: TypeAlias = dict[Literal["blocks", "params", "size"], float]
"""What removing the blocks gives by count."""


class Selection(TypedDict):
    """Block numbers of the uncut model."""

    strategy: str
    blocks_before: int
    kept: Annotated[list[int], Keyed("blocks"), Sometimes()]
    removed: Annotated[list[int], Keyed("blocks"), Sometimes()]
    required: NotRequired[Annotated[list[int], Keyed("blocks"), Sometimes()]]
    weights: NotRequired[str]
    target: NotRequired[AskedRatio]
    ratios: NotRequired[PlannedRatios]
    params_before: NotRequired[int]
    params_after: NotRequired[int]
    latency: NotRequired[Annotated[list[DepthTimes], When("latency target")]]
    beam: NotRequired[Annotated[list[BeamSubset], When("beam", "racing")]]
    race: NotRequired[Annotated[list[Heat], When("racing")]]
    rounds: NotRequired[Annotated[list[Removed], When("iterated")]]


class Removed(TypedDict):
    """A set of blocks."""

    removed: list[int]


class BeamSubset(Removed):
    """A set of blocks, and the loss with them bypassed."""

    loss: float


class Candidate(Removed):
    """A set of blocks, and how far its model was from the teacher; None where training diverged."""

    distance: Number


class Heat(TypedDict):
    """One round of a race."""

    steps: int
    distances: list[Candidate]
