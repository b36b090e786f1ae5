"""Contents of the files that stages write, as the report repeats them: ``selection.json``, ``export.json``, …"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypeAlias

from pydantic import Field
from typing_extensions import TypedDict

from lwc.core.marks import Intervals, Keyed, Most, Number, Share, Sometimes, When

Retention: TypeAlias = Annotated[
    Intervals,
    Keyed("retained"),
    Most(10.0),
    Field(
        description="how much of the base is left on the same test rows, 1 = all, paired resamples: compressed / base,"
        " or base / compressed where lower is better"
    ),
]

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
    n_train: int
    truncated: Annotated[int, Sometimes(), Field(description="train texts that were cut")]
    warnings: Annotated[list[str], Sometimes(), Field(description="what to know about the checkpoint it started from")]
    items: Annotated[int, When("histories"), Sometimes()]
    items_trained: Annotated[int, When("histories"), Sometimes()]


class Recovered(Trained, total=False):
    """What recovery did."""

    matched_teacher_blocks: list[int]
    vocabulary: Annotated[Trimmed | None, When("trimmed vocabulary")]


Spread: TypeAlias = dict[Literal["base", "compressed"], float]
"""Interquartile range ÷ median of each model's times."""


class ShapeTimes(TypedDict):
    """Median ms of both models at one batch × length."""

    batch: int
    length: int
    base_ms: float
    compressed_ms: float
    ratio: float
    spread: NotRequired[Spread]


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


# export: export.json


class ExportedFile(TypedDict, total=False):
    """An ONNX file."""

    path: str
    bytes: int


class ParityCase(TypedDict):
    """One synthetic input."""

    batch: int
    length: int
    padding: str
    max_abs_diff: float


class OneParity(TypedDict):
    """PyTorch and ONNX Runtime on the same inputs, of one model."""

    max_abs_diff: float
    label_agreement: Share
    texts: int
    repeatable: bool
    tolerance: float
    passed: bool
    cases: list[ParityCase]


class Parity(TypedDict, total=False):
    """PyTorch and ONNX Runtime on the same inputs: the worse of base and compressed."""

    max_abs_diff: Number
    label_agreement: Share
    tolerance: Number
    passed: bool
    base: OneParity
    compressed: OneParity


class Latency(TypedDict, total=False):
    """Exported pair on this machine, in turns; ``ratio`` is the geometric mean over the shapes."""

    ratio: float
    shapes: Annotated[list[ShapeTimes], Keyed("shapes")]
    repeats: int
    threads: int
    runtime: str


ExportedRatios: TypeAlias = dict[Literal["size", "latency"], float]
"""base / compressed, measured."""


class Int8(TypedDict, total=False):
    """The compressed model in int8, which is what CPUs serve; ratios and latency against its fp32 graph."""

    path: str
    mode: str
    agreement: Share
    max_abs_diff: float
    mean_abs_diff: float
    bytes: int
    quantized: Annotated[int, Field(description="operators in int8")]
    fallback: Annotated[list[str], Field(description="modules that stay in fp32")]
    rows: int
    depends_on_batch: Annotated[bool, Field(description="whether a row's answer changes with its batch")]
    test: Annotated[dict[str, float], Keyed("int8 figures")]
    answers: str
    retention: Retention
    latency: Latency
    ratios: ExportedRatios


class Fp16(TypedDict, total=False):
    """The compressed model in fp16, which is what GPUs serve."""

    path: str
    max_abs_diff: float
    mean_abs_diff: float
    agreement: Share
    bytes: int
    kept_fp32: list[str]
    positions_fp32: int
    rows: int


class RuntimeTimes(TypedDict):
    """Median ms of one file in both runtimes at one batch × length."""

    batch: int
    length: int
    onnxruntime_ms: float
    openvino_ms: float
    ratio: float


class OpenVino(TypedDict, total=False):
    """One file in ONNX Runtime and OpenVINO; ``ratio`` = ONNX Runtime ÷ OpenVINO."""

    ratio: float
    shapes: Annotated[list[RuntimeTimes], Keyed("shapes")]
    repeats: int
    threads: int
    max_abs_diff: float


class InOpenVino(TypedDict, total=False):
    """By precision of the file."""

    fp32: OpenVino
    int8: Annotated[OpenVino, When("int8")]


class Export(TypedDict, total=False):
    """``export.json`` as the stage wrote it."""

    files: dict[Literal["base", "compressed"], ExportedFile]
    parity: Parity
    latency: Latency
    ratios: ExportedRatios
    int8: Annotated[Int8, When("int8")]
    fp16: Annotated[Fp16, When("fp16")]
    openvino: Annotated[InOpenVino, When("openvino")]
    top_k: Annotated[int, When("histories")]
