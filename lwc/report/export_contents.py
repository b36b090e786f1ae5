"""Contents of ``export.json``, as the report repeats them, and what of it is served."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypeAlias

from pydantic import Field
from typing_extensions import TypedDict

from lwc.core.marks import Keyed, Number, Share, Sometimes, When
from lwc.report.quality_contents import Measured, Retention

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


Waited: TypeAlias = Annotated[
    Share, Sometimes(), Field(description="share of their time in which this process's threads had no core to run on")
]


class ExportedFile(TypedDict, total=False):
    """An ONNX file."""

    path: str
    bytes: int
    params: Annotated[int, Field(description="parameters of the checkpoint it was exported from")]


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
    waited: Waited
    repeats: int
    threads: int
    runtime: str


ExportedRatios: TypeAlias = dict[Literal["size", "latency"], float]
"""base / compressed, measured."""


class OnValidation(TypedDict):
    """Accuracy of the fp32 and the int8 graph on the validation split."""

    rows: int
    accuracy_fp32: Share
    accuracy_int8: Share


class Int8(TypedDict, total=False):
    """The compressed model in int8, if that is what CPUs serve; ratios and latency against its fp32 graph."""

    path: str
    mode: str
    agreement: Share
    max_abs_diff: float
    mean_abs_diff: float
    bytes: int
    quantized: Annotated[int, Field(description="operators in int8")]
    fallback: Annotated[list[str], Field(description="modules that stay in fp32")]
    rows: int
    validation: OnValidation
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
    int8: Annotated[OpenVino, When("int8"), Sometimes()]


class Export(TypedDict, total=False):
    """``export.json`` as the stage wrote it, without what is served."""

    files: dict[Literal["base", "compressed"], ExportedFile]
    parity: Parity
    latency: Latency
    ratios: ExportedRatios
    int8: Annotated[Int8, When("int8"), Sometimes()]
    fp16: Annotated[Fp16, When("fp16")]
    openvino: Annotated[InOpenVino, When("openvino")]
    top_k: Annotated[int, When("histories")]


# What is served: `served` of export.json, with what other stages measured of the same graph


class ServedTimes(TypedDict):
    """Median ms of a call at one batch × length: the uncut model in PyTorch and ONNX Runtime, and the served graph."""

    batch: int
    length: int
    eager_ms: float
    base_ms: float
    served_ms: float
    ratio: Annotated[float, Field(description="base_ms ÷ served_ms")]
    ratio_eager: Annotated[float, Field(description="eager_ms ÷ served_ms")]
    spread: Annotated[
        dict[Literal["eager", "base", "served"], float], Field(description="interquartile range ÷ median of each")
    ]


class ServedLatency(TypedDict):
    """Timed in one run, in turns, on this machine; ratios are the geometric mean over the shapes."""

    ratio: float
    ratio_eager: float
    shapes: Annotated[list[ServedTimes], Keyed("shapes")]
    waited: Waited
    threads: int
    repeats: int


ServedRatio: TypeAlias = Literal["blocks", "params", "size", "latency", "latency_eager"]
ServedRatios: TypeAlias = dict[ServedRatio, Number]
"""Uncut model in fp32 ÷ what is served. ``latency``: both in ONNX Runtime. ``latency_eager``: the uncut one in PyTorch
eager."""
Side: TypeAlias = Literal["base", "served"]


class AsServed(TypedDict):
    """The graph that CPUs serve: int8 if the recipe asks for it and it is not refused, else fp32."""

    precision: Literal["int8", "fp32"]
    why: Annotated[str, Field(description="why it is fp32 though the recipe asks for int8; otherwise empty")]
    path: Annotated[str, Field(description="the ONNX file, in the folder of the export stage")]
    params: dict[Side, int]
    bytes: dict[Side, int]
    ratios: ServedRatios
    latency: ServedLatency
    quality: Measured | None
    retention: Retention | None
