"""The content of ``report.json``: every key, what it means, and on which settings of the recipe it depends.

The JSON Schema of the file and the names that a gate may use are both derived from these types. ``None`` means "not
measured": a section is ``None`` where its stage did not run.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, with_config
from typing_extensions import TypedDict

from lwc.core.marks import CLOSED, Keyed, Number, Share, Sometimes, When
from lwc.importance.contents import Importance
from lwc.recipe import At, RatioBase
from lwc.report.export_contents import AsServed, Export, Latency, Parity
from lwc.report.quality_contents import Measured, Retention
from lwc.report.serving_contents import Served
from lwc.report.stage_contents import Recovered, Selection, Trained


class Qualities(TypedDict):
    """Test split, read once."""

    base: Measured
    unrecovered: Measured
    compressed: Measured
    floors: Annotated[dict[str, Measured], Keyed("floors"), Field(description="what knows next to nothing of a row")]


@with_config(CLOSED)
class Target(TypedDict):
    """What the recipe asked for, and what was reached."""

    ratio: float
    of: RatioBase
    reached: Number
    met: bool | None


Ratios: TypeAlias = dict[RatioBase, Number]
"""base / compressed: blocks, parameters, bytes of the file (ONNX, else safetensors), median ms in ONNX Runtime."""
RATIOS: tuple[RatioBase, ...] = ("blocks", "params", "size", "latency")


class Bootstrap(TypedDict):
    """How intervals were drawn."""

    resamples: int
    level: float
    seed: int


# data: quality.json and source.json


class SplitQuality(TypedDict, total=False):
    """One split."""

    rows: Annotated[int, When("texts")]
    labels: Annotated[dict[str, int], When("texts"), Keyed("labels")]
    majority_share: Annotated[Share, When("texts")]
    words: Annotated[
        dict[str, float],
        When("no ingest"),
        Keyed("word percentiles"),
        Field(description="percentiles of a text's words"),
    ]
    english_by_function_words: Annotated[Number, When("no ingest"), Sometimes()]
    distinct_words: Annotated[int, When("no ingest")]
    type_token_ratio: Annotated[dict[str, float], When("no ingest"), Keyed("sample of words")]
    users: Annotated[int, When("histories")]
    events: Annotated[int, When("histories")]
    length_median: Annotated[int, When("histories"), Sometimes()]
    length_max: Annotated[int, When("histories"), Sometimes()]
    targets_not_in_train: Annotated[int, When("histories"), Sometimes()]
    targets_not_in_catalogue: Annotated[int, When("histories"), Sometimes()]


Duplicates: TypeAlias = dict[Literal["exact", "conflicting_labels", "near"], int]
"""Rows removed, by reason."""


SharedRows: TypeAlias = dict[
    Literal["test_in_train", "test_in_validation", "validation_in_train", "train_left_out", "validation_left_out"], int
]
"""Rows whose text is in two splits that the data name, and those that are left out therefore."""
TestRows: TypeAlias = dict[Literal["given", "left_out", "used", "cleaned"], int]
"""Rows of a test split that the data name: all, those that the label scheme leaves out, those used, and changed."""


class LabelToken(TypedDict):
    """A word that gives a class away: the share of the class's train texts with it, and of all others."""

    token: str
    label: str
    share: float
    elsewhere: float


class LabelValue(TypedDict):
    """A value of the label column, or a number of stars, and the class of its rows; None where they are left out."""

    value: str
    label: str | None
    rows: int


@with_config(CLOSED)
class LargestUser(TypedDict):
    """The user with most rows."""

    user: str
    rows: int


class DataQuality(TypedDict, total=False):
    """``quality.json`` of the data stage, by what it prepares: texts, or histories of items."""

    source: str
    text_fields: list[str]
    read_as: Annotated[list[str], When("texts"), Field(description="how files were read where content decided it")]
    rows_read: int
    rows_bad: Annotated[dict[str, int], Field(description="quarantined rows by reason")]
    rows_left_out_by_label_scheme: Annotated[int, When("texts")]
    label_values: Annotated[list[LabelValue], When("texts"), Sometimes()]
    label_map_unused: list[str]
    head: Annotated[list[str], Field(description="outputs of the checkpoint's own head, if it is kept")]
    label_tokens: Annotated[list[LabelToken], When("texts"), Sometimes()]
    duplicates: Annotated[Duplicates, When("texts")]
    rows_beyond_limit: Annotated[int, When("no ingest")]
    rows_used: Annotated[int, When("texts")]
    split_by: str
    split_given: Annotated[list[str], Field(description="splits that the data name; the others are drawn from train")]
    rows_in_no_split: Annotated[int, When("no ingest"), Sometimes()]
    shared_by_splits: Annotated[SharedRows, When("own splits"), Sometimes()]
    test_rows: Annotated[TestRows, When("own splits"), Sometimes()]
    rows_without_user: Annotated[int, When("texts")]
    rows_without_time: Annotated[int, When("texts")]
    largest_user: Annotated[
        LargestUser | None,
        When("texts"),
        Sometimes(),
        Field(description="of a split by user: the user with more than a tenth of all rows"),
    ]
    label_names: list[str]
    splits: Annotated[dict[str, SplitQuality], Keyed("splits")]
    leaks: dict[str, dict[str, int]]
    near_duplicates: Annotated[dict[str, Number], When("ingest"), Sometimes()]
    distinct: Annotated[dict[str, float], When("ingest")]
    words: Annotated[dict[str, Any], When("ingest")]
    languages: dict[str, int]
    diversity: Annotated[dict[str, Number], When("ingest"), Sometimes()]
    months: dict[str, dict[str, int]]
    state_bytes_per_million_rows: Annotated[dict[str, float], When("ingest")]
    repeated_events: Annotated[int, When("histories")]
    users_left_out: Annotated[int, When("histories")]
    events_of_users_left_out: Annotated[int, When("histories")]
    events_beyond_limit: Annotated[int, When("histories")]
    events_used: Annotated[int, When("histories")]
    events_at_a_shared_time: Annotated[int, When("histories")]
    users: Annotated[int, When("histories")]
    items: Annotated[int, When("histories")]
    items_alike: Annotated[int, When("histories")]
    items_alike_example: list[str]
    items_not_in_train: Annotated[int, When("histories")]
    catalogue_sha256: str


Truncated: TypeAlias = dict[Literal["count", "of", "max_length"], int]
"""Test texts cut at max_length tokens."""


class SourceFile(TypedDict, total=False):
    """A file that rows were read from."""

    split: str
    name: str
    bytes: int
    sha256: str


class Source(TypedDict, total=False):
    """``source.json`` of the data stage: where the rows came from."""

    source: str
    settings: dict[str, Any]
    settings_of_splits: dict[str, Any]
    text_fields: list[str]
    files: list[SourceFile]


class DataSection(TypedDict):
    """What the numbers were measured on."""

    source: Source | None
    quality: DataQuality | None
    text_fields: Annotated[list[Literal["title", "body"]], Field(min_length=1)]
    label_scheme: str
    label_names: list[str] | None
    truncated: Annotated[Truncated | None, Sometimes()]
    n_train: int | None
    n_test: int | None


# The report itself

StageName: TypeAlias = Literal[
    "data", "train", "score", "select", "remove", "recover", "evaluate", "export", "package", "verify"
]


class StageTime(TypedDict):
    """When a stage was made, how long it took."""

    seconds: Number
    hit: Annotated[bool | None, Field(description="true: reused from an earlier run")]


class RecipeSection(TypedDict):
    """The recipe that was run."""

    name: str
    description: str
    seed: int
    resolved: Annotated[dict[str, Any], Field(description="the whole recipe, defaults included")]


class Training(TypedDict):
    """``metrics.json`` of both training stages."""

    train: Trained | None
    recover: Recovered | None


Agreement: TypeAlias = dict[Literal["unrecovered", "compressed"], Share]
"""Share of next tokens on which the first choice is the base's."""


class Environment(TypedDict, total=False):
    """Machine and versions."""

    date: str
    platform: str
    python: str
    cpu: str
    cores: int
    memory_gib: Annotated[Number, Sometimes()]
    gpu: bool
    libraries: dict[str, str | None]


@with_config(CLOSED)
class Decision(TypedDict):
    """A gate, decided."""

    metric: Annotated[str, Field(description="dotted path into this file")]
    at: Annotated[At, Field(description="what of the metric's interval was judged")]
    op: Literal[">=", "<=", ">", "<", "=="]
    threshold: Number
    value: Annotated[Number, Field(description="the judged number: of an interval, the one that `at` names")]
    passed: bool
    reason: Annotated[str, Field(description="empty where the gate passed")]
    note: Annotated[str, Field(description="on an interval: what the judged end shows, or that nothing is decided")]
    standing: Annotated[bool, Field(description="decided in every run, not named by the recipe")]


@with_config(CLOSED)
class Verdict(TypedDict):
    """Whether to deploy, and why; removed, cost, gained and gates in sentences. summary is all of it."""

    passed: Annotated[bool, Field(description="no gate failed, and the target was not missed")]
    deploy: Annotated[
        bool | None,
        Field(description="passed, and no floor is better; null where neither gates nor floors decide"),
    ]
    decision: Annotated[str, Field(description="whether to deploy, with the reason")]
    summary: str
    removed: str
    cost: str
    gained: str
    gates: str
    alerts: Annotated[list[str], Field(description="to know before deploying")]
    warnings: Annotated[list[str], Field(description="to know besides")]


class Findings(TypedDict):
    """What one run measured, before gates and verdict."""

    schema_version: Literal[1]
    recipe: RecipeSection
    task: Annotated[str, Field(description="recipe.task.name")]
    ratios: Ratios
    quality: Qualities | None
    retention: Retention | None
    retention_unrecovered: Retention | None
    served: AsServed | None
    parity: Parity | None
    latency: Latency | None
    export: Export | None
    serving: Annotated[dict[str, Served | None], Keyed("protocols")] | None
    target: Target
    bootstrap: Bootstrap | None
    stages: dict[StageName, StageTime]
    agreement: Annotated[Agreement | None, When("agreement")]
    importance: Importance | None
    selection: Selection | None
    training: Training
    data: DataSection
    environment: Environment


class Report(Findings):
    """What one run measured. null always means: not measured. Every top-level key is always there."""

    gates: list[Decision]
    verdict: Verdict
