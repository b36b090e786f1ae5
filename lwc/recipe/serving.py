"""Sections about evaluation, export and serving."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Annotated, Literal

from pydantic import Field, model_validator

from lwc.recipe.base import Fraction, Positive, Section


class Evaluate(Section):
    """How the test split is read."""

    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = Field(
        default=2000, description="bootstrap resamples of the 95% intervals"
    )
    batch_size: Positive = Field(default=32, description="rows that are evaluated at once")


class Shape(Section):
    """The shape of an input."""

    batch: Positive = Field(description="texts")
    length: Positive = Field(description="tokens of each text")


class Int8(Section):
    """Eight-bit weights and activations for the CPU; operators that change answers stay in fp32."""

    mode: Literal["dynamic", "static"] = Field(
        default="dynamic",
        description="ranges of activations: measured for each batch (dynamic), or once on calibration rows (static)",
    )
    min_agreement: Annotated[float, Field(ge=0.5, le=1.0)] = Field(
        default=0.985, description="share of calibration labels to keep; below it, operators fall back to fp32"
    )
    max_accuracy_drop: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.01,
        description="largest loss of accuracy against fp32 on the validation split; beyond it, and where int8 is slower"
        " than fp32 on this machine, the fp32 graph is served and the report says why",
    )
    calibration: Positive = Field(default=128, description="calibration rows used for agreement and ranges")


class Profile(Section):
    """Shapes that a TensorRT plan takes, batch × length: the smallest, the one it is tuned for, the largest."""

    min: Shape = Field(description="the smallest input")
    opt: Shape = Field(description="the input that the plan is tuned for")
    max: Shape = Field(description="the largest input")

    @model_validator(mode="after")
    def _rises(self) -> Profile:
        # TensorRT itself takes a profile out of order without a word.
        for side in ("batch", "length"):
            sizes = [getattr(shape, side) for shape in (self.min, self.opt, self.max)]
            if sizes != sorted(sizes):
                raise ValueError(f"{side}: not min {sizes[0]} ≤ opt {sizes[1]} ≤ max {sizes[2]}")
        return self

    def takes(self, batch: int, length: int) -> bool:
        """Whether an input of this batch and length (tokens) fits."""
        low, high = self.min, self.max
        return low.batch <= batch <= high.batch and low.length <= length <= high.length


def gap(profiles: Sequence[Profile]) -> tuple[int, int] | None:
    """A batch and length between the smallest and the largest of all profiles that none takes; None where all fit."""
    low = min(p.min.batch for p in profiles), min(p.min.length for p in profiles)
    high = max(p.max.batch for p in profiles), max(p.max.length for p in profiles)
    # The lowest corner of a gap lies at the low end, or one above the end of a profile.
    batches = {low[0], *(p.max.batch + 1 for p in profiles if p.max.batch < high[0])}
    lengths = {low[1], *(p.max.length + 1 for p in profiles if p.max.length < high[1])}
    for batch, length in product(sorted(batches), sorted(lengths)):
        if not any(profile.takes(batch, length) for profile in profiles):
            return batch, length
    return None


class TensorRT(Section):
    """What ``lwc export --to tensorrt`` builds. No stage of ``lwc run`` reads it."""

    precision: Literal["fp16", "fp32"] = Field(default="fp16", description="precision of the plan")
    profiles: tuple[Profile, ...] = Field(
        default=(), description="by default one, from 1 × 1 to package.max_batch_size × model.max_length"
    )

    @model_validator(mode="after")
    def _whole(self) -> TensorRT:
        if not self.profiles:
            return self
        smallest = min(profile.min.batch for profile in self.profiles)
        if smallest > 1:
            raise ValueError(f"no profile takes a batch below {smallest}: a single text would be refused")
        missing = gap(self.profiles)
        if missing is not None:
            raise ValueError(f"no profile takes batch {missing[0]} × length {missing[1]}, which lies between them")
        return self


LATENCY_SHAPES = (Shape(batch=1, length=64), Shape(batch=8, length=64))


class Export(Section):
    """Graphs that are exported, and how they are checked and timed."""

    int8: Int8 | None = Field(default=None, description="also export an int8 graph, which CPUs serve")
    fp16: bool = Field(default=False, description="also write an fp16 graph for GPUs, checked for overflow")
    tensorrt: TensorRT = Field(default=TensorRT(), description="the plan that `lwc export --to tensorrt` builds")
    openvino: bool = Field(
        default=False,
        description="also time the compressed graphs in OpenVINO (pip install 'lwc[openvino]'), which may serve them"
        " faster on CPUs; the report says by how much",
    )
    parity_tolerance: Annotated[float, Field(gt=0.0)] = Field(
        default=1e-4, description="largest difference of a logit between PyTorch and ONNX Runtime"
    )
    latency_shapes: tuple[Shape, ...] = Field(
        default=LATENCY_SHAPES,
        min_length=1,
        description="batches and lengths in tokens to time; the default's length is at most model.max_length",
    )
    latency_repeats: Annotated[int, Field(ge=3)] = Field(default=20, description="timed calls of each shape")


class Package(Section):
    """The Triton repository."""

    targets: tuple[Literal["cpu", "gpu", "tensorrt"], ...] = Field(
        default=("cpu",),
        description="repositories: cpu (NAME/, always), gpu (NAME-gpu/, ONNX Runtime with CUDA), tensorrt"
        " (NAME-tensorrt/, written by `lwc export --to tensorrt` where the plan is built)",
    )
    max_batch_size: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=32, description="most texts of a request, and of a batch that the server forms"
    )
    queue_delay_microseconds: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="longest time a request waits to be batched with others; requests that queue while all instances"
        " are busy are batched anyway",
    )
    measure_queue_delay: bool = Field(
        default=False,
        description="look for a better delay on this CPU with verify.users clients (about a minute); kept only where it"
        " is better beyond chance, and for the cpu repository alone",
    )
    instances: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="copies of the model that answer at once; 0 = on a CPU one for each core of the container's limit,"
        " up to 8 and 1 GiB of weights, on a GPU one (decision 20). One instance gives a single client all cores",
    )
    intra_op_threads: Annotated[int, Field(ge=0)] = Field(
        default=0, description="ONNX Runtime threads of an instance; 0 = the CPU limit divided among the instances"
    )
    response_cache: bool = Field(
        default=False,
        description="answer repeated requests from memory; off, since a load test with few texts then measures the"
        " cache and not the model. The server needs --cache-config too",
    )

    @model_validator(mode="after")
    def _targets(self) -> Package:
        if "cpu" not in self.targets or len(set(self.targets)) != len(self.targets):
            raise ValueError(f"targets are {list(self.targets)}: name cpu, which is verified here, and each one once")
        return self


class FindRate(Section):
    """Search for the highest open-loop rate that the served model answers within a p95."""

    max_p95_ms: Annotated[float, Field(gt=0.0)] = Field(description="highest p95 in ms")
    max_error_rate: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.0, description="highest share of failed requests"
    )
    against_base: bool = Field(default=True, description="also search for the uncut model; windows alternate")
    start: Annotated[float, Field(ge=0.5, le=1e6)] = Field(default=10.0, description="requests/s to start from")
    seconds: Annotated[float, Field(ge=1.0)] = Field(default=5.0, description="length of a window")
    precision: Annotated[float, Field(ge=0.01, le=1.0)] = Field(
        default=0.1, description="largest relative gap between the highest rate met and the lowest rate missed"
    )
    repeats: Positive = Field(default=3, description="repeated windows at the rate found, to measure its spread")


class Verify(Section):
    """The load test of the served model."""

    users: Positive = Field(default=4, description="concurrent clients, each of which waits for its answer")
    connections: Positive = Field(default=64, description="replaces users when requests arrive at a rate")
    rate: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None,
        description="requests/s, sent whether answered or not (open loop); by default users wait",
    )
    arrivals: Literal["poisson", "constant"] = Field(default="poisson", description="spacing of requests with rate")
    rate_tolerance: Fraction = Field(default=0.05, description="share of rate that may go unanswered without a warning")
    find_rate: FindRate | None = Field(default=None, description="uses the first entry of protocols")
    seconds: Annotated[float, Field(ge=1.0)] = Field(default=15.0, description="length of a load test")
    warmup_seconds: Annotated[float, Field(ge=0.0)] = Field(
        default=2.0, description="load before the measured time; left out of every figure"
    )
    protocols: tuple[Literal["http", "grpc"], ...] = Field(
        default=("http", "grpc"), min_length=1, description="one load test each"
    )
    min_requests: Positive = Field(default=50, description="fewer requests fail the run")
    startup_seconds: Annotated[float, Field(gt=0.0)] = Field(
        default=60.0, description="longest time until the server is ready"
    )
