"""``serving.json``: what was measured at the served endpoint."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from lwc.report.marks import Keyed, Number, Sometimes, When


class Milliseconds(TypedDict):
    """Of every answered request."""

    p50: Number
    p95: Number
    p99: Number
    mean: Number
    max: Number


class Answers(TypedDict, total=False):
    """Answers of the endpoint on test rows, beside the offline ones on the same rows."""

    accuracy: Annotated[Number, When("accuracy")]
    offline_accuracy: Annotated[Number, When("accuracy")]
    accuracy_difference: Annotated[Number, When("accuracy")]
    macro_f1: Annotated[Number, When("accuracy")]
    confusion: Annotated[list[Annotated[list[int], Keyed("served classes")]], Keyed("served classes"), When("accuracy")]
    label_names: Annotated[list[str], When("accuracy")]
    ndcg_at_10: Annotated[float, When("ndcg_at_10")]
    offline_ndcg_at_10: Annotated[float, When("ndcg_at_10")]
    ndcg_difference: Annotated[float, When("ndcg_at_10")]
    skipped_items: Annotated[int, When("ndcg_at_10"), Field(description="items sent that train does not know")]
    n: int
    texts: int
    covered_all: Annotated[bool, Field(description="every test row was answered")]
    answers: int
    inconsistent_texts: Annotated[int, Field(description="rows that got different answers")]
    matches_offline: Annotated[Number, Field(description="share equal to the offline prediction")]
    note: str


class ServerTimes(TypedDict):
    """Triton's counters of one model over the window; times are means per request."""

    requests: int
    failures: int
    executions: int
    mean_batch: float
    queue_ms: float
    compute_input_ms: float
    compute_infer_ms: float
    compute_output_ms: float
    request_ms: float


class MeanTimes(TypedDict):
    """Parts of the mean latency in ms."""

    total: float
    client_wait: float
    queue: float
    compute: float
    rest: float


class Server(TypedDict, total=False):
    """Triton's counters over the window."""

    models: dict[str, ServerTimes]
    mean_ms: Annotated[MeanTimes, Sometimes()]


class WarmUp(TypedDict):
    """Requests before the window."""

    requests: int
    errors: int


class Load(TypedDict):
    """What every load test measures."""

    requests: int
    errors: int
    error_rate: NotRequired[Number]
    throughput_rps: NotRequired[Number]
    latency_ms: NotRequired[Milliseconds]
    wait_ms: NotRequired[
        Annotated[
            Milliseconds,
            When("texts"),
            Field(description="part of the latency before a connection was free to send"),
        ]
    ]
    generator_cpu: NotRequired[
        Annotated[float, When("texts"), Field(description="share of one core that the load generator used")]
    ]
    server: NotRequired[Annotated[Server | None, When("texts")]]
    why: NotRequired[Annotated[list[str], Field(description="where the time of a request went")]]


class Window(Load):
    """One window of a search for the highest rate."""

    rate_rps: float
    seconds: float
    met: bool
    missed_by: list[str]
    causes: str
    matches_offline: Annotated[Number, Sometimes()]
    offered_rps: NotRequired[float]
    achieved_ratio: NotRequired[float]


class Alone(TypedDict):
    """Latency in ms of one user alone."""

    p50: float
    p95: float


class SpreadOfWindows(TypedDict):
    """Over n windows."""

    n: int
    low: float
    median: float
    high: float


class HighestRate(TypedDict):
    """One model's highest rate within the objective."""

    unloaded_ms: Alone
    rate_rps: Annotated[Number, Sometimes()]
    missed_rps: Annotated[Number, Sometimes()]
    p95_ms: Annotated[SpreadOfWindows | None, Sometimes()]
    achieved_rps: Annotated[SpreadOfWindows | None, Sometimes()]
    why: list[str]
    rates_tried: int
    rates_in_doubt: int
    steps: list[Window]


class Objective(TypedDict):
    """What a rate must meet."""

    max_p95_ms: float
    max_error_rate: float
    rate_tolerance: float


class RateRatio(TypedDict):
    """Rate of the compressed model ÷ rate of the base, and what the brackets leave open."""

    value: float
    low: Number
    high: Number


class Limit(TypedDict):
    """Highest open-loop rate within the objective."""

    objective: Objective
    protocol: NotRequired[str]
    compressed: HighestRate
    base: Annotated[HighestRate | None, When("against_base")]
    ratio: Annotated[RateRatio | None, When("against_base"), Sometimes()]


class Served(Load):
    """Measured at the served endpoint over one protocol."""

    protocol: NotRequired[str]
    model: NotRequired[str]
    users: NotRequired[int]
    error_messages: NotRequired[list[dict[str, str | int]]]
    load: NotRequired[Literal["closed_loop", "open_loop"]]
    duration_s: NotRequired[Annotated[float, When("histories")]]
    window_s: NotRequired[Annotated[float, When("texts")]]
    warmup: NotRequired[Annotated[WarmUp, When("texts")]]
    target_rps: NotRequired[Annotated[float, When("rate"), Field(description="asked of an open loop")]]
    offered_rps: NotRequired[Annotated[float, When("rate"), Field(description="due")]]
    achieved_ratio: NotRequired[
        Annotated[
            float,
            When("rate"),
            Field(description="requests/s answered in the window ÷ requests/s that were due"),
        ]
    ]
    served: NotRequired[Answers]
    shortfall: NotRequired[str]
    limit: NotRequired[Annotated[Limit, When("find_rate")]]
