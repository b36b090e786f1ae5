"""``serving.json``: what was measured at the served endpoint."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypeAlias

from pydantic import Field
from typing_extensions import TypedDict

from lwc.core.marks import Keyed, Number, Share, Sometimes, When

Milliseconds: TypeAlias = dict[Literal["p50", "p95", "p99", "mean", "max"], Number]
"""Latencies of every answered request."""


class Difference(TypedDict):
    """An answer that is not the offline one."""

    id: int
    offline: str | list[str] | None
    served: str | list[str]


class Answers(TypedDict, total=False):
    """Answers of the endpoint on test rows, beside the offline ones on the same rows."""

    accuracy: Annotated[Share, When("accuracy")]
    offline_accuracy: Annotated[Share, When("accuracy")]
    accuracy_difference: Annotated[Number, When("accuracy")]
    macro_f1: Annotated[Share, When("accuracy")]
    confusion: Annotated[list[Annotated[list[int], Keyed("served classes")]], Keyed("served classes"), When("accuracy")]
    label_names: Annotated[list[str], When("accuracy")]
    ndcg_at_10: Annotated[Share, When("ndcg_at_10")]
    offline_ndcg_at_10: Annotated[Share, When("ndcg_at_10")]
    ndcg_difference: Annotated[float, When("ndcg_at_10")]
    skipped_items: Annotated[int, When("ndcg_at_10"), Field(description="items sent that train does not know")]
    n: int
    texts: int
    covered_all: Annotated[bool, Field(description="every test row was answered")]
    answers: int
    inconsistent_texts: Annotated[int, Field(description="rows that got different answers")]
    matches_offline: Annotated[Share, Field(description="share equal to the offline prediction")]
    different: Annotated[list[Difference], Field(description="the first answers that are not the offline ones")]
    note: str


ServerTime: TypeAlias = Literal[
    "requests", "failures", "executions", "mean_batch", "queue_ms", "compute_input_ms", "compute_infer_ms",
    "compute_output_ms", "request_ms",
]  # fmt: skip
"""Triton's counters of one model over the window; times are means per request."""


MeanTimes: TypeAlias = dict[Literal["total", "client_wait", "queue", "compute", "rest"], float]
"""Parts of the mean latency in ms."""


class Server(TypedDict, total=False):
    """Triton's counters over the window."""

    models: Annotated[dict[str, dict[ServerTime, float]], Keyed("models"), Sometimes()]
    mean_ms: Annotated[MeanTimes, Sometimes()]


class Counted(TypedDict):
    """Requests that were answered, and those that failed."""

    requests: int
    errors: int


class Load(Counted, total=False):
    """What every load test measures."""

    error_rate: Share
    throughput_rps: Number
    latency_ms: Milliseconds
    wait_ms: Annotated[Milliseconds, When("texts"), Field(description="part of the latency until a connection is free")]
    generator_cpu: Annotated[float, When("texts"), Field(description="share of one core that the load generator used")]
    server: Annotated[Server | None, When("texts")]
    why: Annotated[list[str], Field(description="where the time of a request went")]


class Window(Load):
    """One window of a search for the highest rate."""

    rate_rps: float
    seconds: float
    met: bool
    missed_by: list[str]
    causes: str
    matches_offline: Annotated[Share, Sometimes()]
    offered_rps: NotRequired[float]
    achieved_ratio: NotRequired[float]


Alone: TypeAlias = dict[Literal["p50", "p95"], float]
"""Latency in ms of one user alone."""


SpreadOfWindows: TypeAlias = dict[Literal["n", "low", "median", "high"], float]
"""Over n windows."""


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


Objective: TypeAlias = dict[Literal["max_p95_ms", "max_error_rate", "rate_tolerance"], float]
"""What a rate must meet."""


RateRatio: TypeAlias = dict[Literal["value", "low", "high"], Number]
"""Rate of the compressed model ÷ rate of the base, and what the brackets leave open."""


class Limit(TypedDict):
    """Highest open-loop rate within the objective."""

    objective: Objective
    protocol: NotRequired[str]
    compressed: HighestRate
    base: Annotated[HighestRate | None, When("against_base")]
    ratio: Annotated[RateRatio | None, When("against_base"), Sometimes()]


class Served(Load, total=False):
    """Measured at the served endpoint over one protocol."""

    protocol: str
    model: str
    users: int
    error_messages: list[dict[str, str | int]]
    load: Literal["closed_loop", "open_loop"]
    duration_s: Annotated[float, When("histories")]
    window_s: Annotated[float, When("texts")]
    warmup: Annotated[Counted, When("texts")]
    target_rps: Annotated[float, When("rate"), Field(description="asked of an open loop")]
    offered_rps: Annotated[float, When("rate"), Field(description="due")]
    achieved_ratio: Annotated[float, When("rate"), Field(description="requests/s answered ÷ requests/s that were due")]
    served: Answers
    shortfall: str
    limit: Annotated[Limit, When("find_rate")]
