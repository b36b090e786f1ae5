"""What a model learns."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from lwc.recipe.base import Positive, Row, Section, Table
from lwc.recipe.data import TableFile


class TaskSettings(Row):
    """Settings of a task; ``implementation`` names its `lwc.tasks.task.Task`."""

    kind: str


class Classification(TaskSettings):
    """A text's class. Quality is accuracy and macro-F1."""

    implementation: ClassVar[str] = "lwc.tasks.classification:TASK"
    kind: Literal["classification"] = "classification"


class Regression(TaskSettings):
    """A number, by squared error: the stars of a review. Quality is mean absolute error and Spearman's ρ."""

    implementation: ClassVar[str] = "lwc.tasks.regression:TASK"
    kind: Literal["regression"]


class CausalLM(TaskSettings):
    """The next token of any text. Quality is perplexity and next-token accuracy."""

    implementation: ClassVar[str] = "lwc.tasks.causal_lm:TASK"
    kind: Literal["causal_lm"]


class ItemText(Section):
    """Item vectors that start from text: train reviews (``data.text_fields``), and metadata where there is a table.

    Items that only the metadata know are in the catalogue too: their vectors are what text says of items like them.
    """

    metadata: TableFile | None = Field(
        default=None, description="one row an item: columns.item, and the text in columns.title and columns.body"
    )
    reviews: bool = Field(default=True, description="whether the train reviews of an item count as its text")

    @model_validator(mode="after")
    def _some_text(self) -> ItemText:
        if self.metadata is None and not self.reviews:
            raise ValueError("text without reviews needs metadata")
        if self.metadata is not None and self.metadata.columns.item is None:
            raise ValueError("text.metadata.columns.item must name the column of the item ids")
        return self


class NextItem(TaskSettings):
    """Which items a user takes next, by a causal transformer over item ids (SASRec's setting).

    The rows need user, item and time. ``model`` is ``kind: config`` (blocks, hidden, heads, dropout); its
    ``max_length`` is how many of a user's last items are read, its vocabulary is the catalogue.
    """

    implementation: ClassVar[str] = "lwc.tasks.next_item.task:TASK"
    kind: Literal["next_item"]
    split: Literal["leave_last_out", "time"] = Field(
        default="leave_last_out", description="time: train is before validation, validation before test (data.split)"
    )
    min_history: Annotated[int, Field(ge=2)] = Field(default=3, description="items below which a user is left out")
    min_count: Positive = Field(default=1, description="train events below which an item is not in the catalogue")
    softmax: Literal["full", "sampled"] = Field(
        default="full", description="sampled: a biased estimate of the loss, for catalogues that full cannot hold"
    )
    negatives: Positive = Field(default=256, description="items drawn uniformly a batch, where softmax is sampled")
    top_k: Annotated[int, Field(ge=10, le=10_000)] = Field(default=100, description="most items in a served answer")
    recent_days: Positive = Field(default=90, description="window of the recent-popularity floor")
    neighbours: Positive = Field(default=100, description="of each item in the item-kNN floor")
    text: ItemText | None = Field(default=None, description="text-aware item vectors; without it, items are ids only")


TASKS = Table("kind", Classification, Regression, CausalLM, NextItem)
"""Every task. A new one is a module with the `lwc.tasks.task.Task` and a settings class here that names it."""

AnyTask = Annotated[TaskSettings, TASKS]
