"""What a model learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from lwc.metrics.headline import Headline, Metric
from lwc.recipe.base import Positive, Row, Section, Table
from lwc.recipe.data import DataSource, TableFile

if TYPE_CHECKING:
    from lwc.recipe import Recipe


def _refuse(unfit: dict[str, bool], task: str) -> None:
    """Refuse the first setting that is asked for."""
    for name, asked in unfit.items():
        if asked:
            raise ValueError(f"{name} is not supported by task {task}")


def _needing_classes(recipe: Recipe) -> dict[str, bool]:
    """What a checkpoint without class labels cannot have."""
    return {
        "model.kind: config (it needs pretrained)": recipe.model.kind != "pretrained",
        "export.int8 and export.fp16 (they are judged by labels)": recipe.export.int8 is not None or recipe.export.fp16,
    }


class TaskSettings(Row):
    """Settings of a task; ``implementation`` names its `lwc.tasks.task.Task`, ``headline`` the figures people see.

    ``wire`` names its `lwc.tasks.endpoint.Wire`, by which load tests ask a served model without loading torch.
    """

    headline: ClassVar[Headline]
    wire: ClassVar[str] = "lwc.tasks.text_wire:TextWire"
    agreement: ClassVar[float] = 1.0
    """Share of served answers that must equal the offline ones in every run, gate or no gate.

    Below 1 where one answer compares so many scores that some differ only in the last digits of two runtimes.
    """
    any_weights: ClassVar[bool] = False
    """Whether a checkpoint may be weights alone, without a config.json (a GGUF file)."""
    has_head: ClassVar[bool] = False
    """Whether answers are the outputs of a classification head, of which a checkpoint may bring its own."""
    floor_packages: ClassVar[dict[str, str]] = {}
    """Modules that the floors need besides lwc's own dependencies, and the extra of lwc that installs each."""
    kind: str

    @property
    def name(self) -> str:
        """How reports call the task: its key in `TASKS`."""
        return self.kind

    @property
    def sources(self) -> tuple[DataSource, ...]:
        """Data sources that the task reads besides ``data.source``."""
        return ()

    def key(self, stage: str) -> dict[str, object]:
        """The settings that a stage's result depends on. Texts are read and split the same way for every task."""
        return {} if stage == "data" else self.model_dump(mode="json")

    def check(self, recipe: Recipe) -> None:
        """Raise `ValueError` where another section of the recipe does not go with this task."""
        if recipe.data.labels.scheme == "none":
            raise ValueError(f"task {self.kind} with data.labels.scheme none: only a language model needs no labels")
        recipe.data.check_texts()


class Classification(TaskSettings):
    """A text's class. Quality is accuracy and macro-F1."""

    implementation: ClassVar[str] = "lwc.tasks.classification:TASK"
    headline: ClassVar[Headline] = Headline(
        (Metric("accuracy", "accuracy", most=1.0), Metric("macro_f1", "macro-F1", most=1.0)),
        (
            Metric("balanced_accuracy", "balanced accuracy", most=1.0),
            Metric("ece", "calibration error", lower_is_better=True, retained=False, most=1.0),
        ),
        (("majority", "the majority class"), ("tfidf", "TF-IDF + logistic regression")),
        counts=("confusion",),
        not_paired="",
    )
    has_head: ClassVar[bool] = True
    kind: Literal["classification"] = "classification"


class Regression(TaskSettings):
    """A number, by squared error: the stars of a review. Quality is mean absolute error and Spearman's ρ."""

    implementation: ClassVar[str] = "lwc.tasks.regression:TASK"
    headline: ClassVar[Headline] = Headline(
        (
            Metric("mean_absolute_error", "mean absolute error", lower_is_better=True),
            Metric("spearman", "Spearman ρ", most=1.0),
        ),
        (),
        (("median", "the median of train"), ("tfidf", "TF-IDF + ridge regression")),
        served={"accuracy": "served accuracy of the nearest number", "offline_accuracy": "offline accuracy"},
    )
    has_head: ClassVar[bool] = True
    kind: Literal["regression"]

    def check(self, recipe: Recipe) -> None:
        """The labels must be numbers, and the model a checkpoint."""
        super().check(recipe)
        if recipe.data.labels.scheme not in ("five_class", "column"):
            raise ValueError("task regression needs numbers: data.labels.scheme five_class, or column")
        _refuse(_needing_classes(recipe), self.kind)


class CausalLM(TaskSettings):
    """The next token of any text. Quality is perplexity and next-token accuracy."""

    implementation: ClassVar[str] = "lwc.tasks.causal_lm:TASK"
    headline: ClassVar[Headline] = Headline(
        (
            Metric("perplexity", "perplexity", lower_is_better=True),
            Metric("next_token_accuracy", "next-token accuracy", most=1.0),
        ),
        (),
        (("unigram", "token frequencies of train"),),
        counted="slices",
        served={"accuracy": "served agreement with the uncut model", "offline_accuracy": "offline agreement"},
        counts=("tokens", "agreement"),
    )
    agreement: ClassVar[float] = 0.999
    any_weights: ClassVar[bool] = True
    kind: Literal["causal_lm"]

    def check(self, recipe: Recipe) -> None:
        """Tokens are their own labels."""
        recipe.data.check_texts()
        scheme = recipe.data.labels.scheme
        if scheme != "none":
            raise ValueError(f"task causal_lm with data.labels.scheme {scheme}: use scheme none for a language model")
        unfit = {
            **_needing_classes(recipe),
            "score.methods: mutual_information": any(m.method == "mutual_information" for m in recipe.score.methods),
            "vocabulary.trim": recipe.vocabulary.trim,
            "recover.augment": recipe.recover.augment > 0,
            "recover.cache_teacher: always": recipe.recover.cache_teacher == "always",
            "model.revision": getattr(recipe.model, "revision", None) is not None,
            "model.trust_remote_code": getattr(recipe.model, "trust_remote_code", False),
        }
        _refuse(unfit, self.kind)


class ItemText(Section):
    """Item vectors that start from text: train reviews (``data.text_fields``), and metadata where there is a table.

    Items that only the metadata know are in the catalogue too: their vectors are what text says of items like them.
    """

    metadata: TableFile | None = Field(
        default=None, description="one row an item: columns.item, and the text in columns.title and columns.body"
    )
    reviews: bool = Field(default=True, description="include the train reviews of an item in its text")

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
    wire: ClassVar[str] = "lwc.tasks.next_item.wire:ItemWire"
    headline: ClassVar[Headline] = Headline(
        (Metric("ndcg_at_10", "NDCG@10", most=1.0), Metric("hr_at_10", "HR@10", most=1.0)),
        (Metric("mrr", "MRR", most=1.0), Metric("coverage", "coverage", retained=False, most=1.0)),
        (("popularity", "popularity"), ("recent_popularity", "recent popularity"), ("item_knn", "item-kNN")),
        counted="users",
        asked="histories",
        served={"ndcg_at_10": "served NDCG@10", "offline_ndcg_at_10": "offline NDCG@10"},
    )
    agreement: ClassVar[float] = 0.999
    floor_packages: ClassVar[dict[str, str]] = {"implicit": "recommender"}
    kind: Literal["next_item"]
    split: Literal["leave_last_out", "time"] = Field(
        default="leave_last_out", description="time: train is before validation, validation before test (data.split)"
    )
    min_history: Annotated[int, Field(ge=2)] = Field(default=3, description="exclude users with fewer items")
    min_count: Positive = Field(default=1, description="exclude items with fewer train events from the catalogue")
    softmax: Literal["full", "sampled"] = Field(
        default="full", description="sampled: a biased estimate of the loss, for catalogues too large for full"
    )
    negatives: Positive = Field(default=256, description="items drawn uniformly for each batch if softmax is sampled")
    top_k: Annotated[int, Field(ge=10, le=10_000)] = Field(default=100, description="most items in a served answer")
    recent_days: Positive = Field(default=90, description="window of the recent-popularity floor")
    neighbours: Positive = Field(default=100, description="neighbours of each item in the item-kNN floor")
    text: ItemText | None = Field(default=None, description="text-aware item vectors; without it, items are ids only")

    @property
    def sources(self) -> tuple[DataSource, ...]:
        """The table of item metadata, if any."""
        return () if self.text is None or self.text.metadata is None else (self.text.metadata,)

    def key(self, stage: str) -> dict[str, object]:
        """Only answers, and what they are compared with, depend on some settings."""
        before = stage in ("data", "train", "score", "select", "remove", "recover")
        return self.model_dump(mode="json", exclude={"top_k", "recent_days", "neighbours"} if before else None)

    def check(self, recipe: Recipe) -> None:
        """Items are neither words nor classes."""
        if self.text is not None and self.text.reviews:
            recipe.data.check_texts()
        unfit = {
            "model.kind: pretrained (items are not words)": recipe.model.kind == "pretrained",
            "model.vocab_size (it is the catalogue's)": "vocab_size" in recipe.model.model_fields_set,
            "data.ingest": recipe.data.ingest is not None,
            "data.validation, data.test (task.split decides which events are asked)": len(recipe.data.sources) > 1,
            "data.source.columns.split (task.split decides which events are asked)": recipe.data.columns.split
            is not None,
            "data.calibration: 1 (blocks are scored on the histories of at least 2 users)": recipe.data.calibration < 2,
            "model.norm: post": getattr(recipe.model, "norm", None) == "post",
            "select.weights: random": recipe.select.weights == "random",
            "vocabulary.trim": recipe.vocabulary.trim,
            "recover.augment": recipe.recover.augment > 0,
            "recover.attention_weight": recipe.recover.attention_weight > 0,
            "recover.unlabelled": recipe.recover.unlabelled is not None,
            "recover.cache_teacher: always": recipe.recover.cache_teacher == "always",
            "export.latency_shapes longer than model.max_length": any(
                shape.length > recipe.model.max_length for shape in recipe.export.latency_shapes
            ),
            "export.int8 and export.fp16": recipe.export.int8 is not None or recipe.export.fp16,
            "export.openvino": recipe.export.openvino,
            "package.targets other than cpu": recipe.package.targets != ("cpu",),
            "package.measure_queue_delay": recipe.package.measure_queue_delay,
        }
        text_methods = {"mutual_information", "llama_profile"} & {method.method for method in recipe.score.methods}
        unfit[f"score.methods: {', '.join(sorted(text_methods))} (items have no text)"] = bool(text_methods)
        _refuse(unfit, self.kind)


TASKS = Table("kind", Classification, Regression, CausalLM, NextItem, default=Classification)
"""Every task. A new one is a module with the `lwc.tasks.task.Task` and a settings class here that names it."""

AnyTask = Annotated[TaskSettings, TASKS]
