"""The recipe: all sections in one schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from lwc.recipe.base import MetricPath, Name, Ratio, Section
from lwc.recipe.blocks import Fused, Named, Score, Select, Single, Target, Vocabulary
from lwc.recipe.data import Data
from lwc.recipe.model import SKIP, FromConfig, ModelSource, OrSkip, Recovery, Training
from lwc.recipe.serving import LATENCY_SHAPES, Evaluate, Export, Package, Shape, Verify
from lwc.recipe.task import AnyTask, Classification

At: TypeAlias = Literal["value", "low", "high"]


class Gate(Section):
    """Pass when ``metric op value``. A metric is a dotted path into report.json.

    `lwc.report.gate_names.unjudgeable` refuses `at: low` or `high` of a metric without an interval, or relative to a
    metric that has one.
    """

    metric: MetricPath
    op: Literal[">=", "<=", ">", "<", "=="] = Field(description="how the value is compared")
    value: float = Field(description="the limit")
    # Multiply `value` by another report metric, so that a limit can be relative to the base model.
    relative_to: str | None = Field(default=None, description="metric that the limit is multiplied by")
    at: At = Field(
        default="value",
        description="what of the metric's 95% interval is judged: its value, or its lower or upper end. With `at: low`,"
        " a gate such as >= 0.95 passes only where the test split shows at least 0.95 (non-inferiority)",
    )

    @model_validator(mode="after")
    def _ends_are_bounds(self) -> Gate:
        if self.op == "==" and self.at != "value":
            raise ValueError(f"at: {self.at} with op ==: an end of an interval is a bound; use >=, <=, > or <")
        return self


class Sweep(Section):
    """Ratios and strategies of ``lwc sweep``, one variant for each pair. ``lwc run`` ignores this section."""

    ratios: tuple[Ratio, ...] = Field(min_length=1, description="ratios of target.of")
    select: tuple[Select, ...] = Field(default=(), description="by default the recipe's own")


class Recipe(Section):
    """One YAML file: a labelled corpus in, a smaller served transformer and a report out."""

    schema_version: Literal[1]
    name: Name
    description: str = Field(default="", description="one line for the report")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(default=17, description="seed of every random choice")
    task: AnyTask = Field(default=Classification(), description="what the model learns")
    data: Data = Field(default=Data(), description="rows, labels and splits")
    model: ModelSource = Field(description="the checkpoint, or a shape to train from scratch")
    train: Annotated[Training, OrSkip()] = Field(default=Training(), description="training of the base")
    score: Score = Field(default=Score(), description="how blocks are ranked")
    target: Target = Field(description="how small")
    select: Select = Field(default=Fused(), description="which blocks go")
    recover: Recovery = Field(default=Recovery(), description="distillation after the cut")
    vocabulary: Vocabulary = Field(default=Vocabulary(), description="trimming of the vocabulary")
    evaluate: Evaluate = Field(default=Evaluate(), description="the one read of the test split")
    export: Export = Field(default=Export(), description="ONNX, int8 and timing")
    package: Package = Field(default=Package(), description="the Triton repository")
    verify: Verify = Field(default=Verify(), description="the load test")
    gates: tuple[Gate, ...] = Field(default=(), description="limits that decide whether the run passes")
    sweep: Sweep | None = Field(default=None, description="variants of lwc sweep")
    tracking: tuple[Literal["tensorboard", "mlflow", "trackio", "wandb"], ...] = Field(
        default=(),
        description="experiment trackers that `lwc run` logs to when it ends: parameters, curves, stage times, metrics,"
        " gates, report (pip install 'lwc[NAME]'); their own environment variables say where, e.g. MLFLOW_TRACKING_URI",
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_other_sections(cls, value: Any) -> Any:
        """Blocks that are named need neither a target nor scores."""
        if not isinstance(value, dict):
            return value
        select = value.get("select")
        if isinstance(select, Named) or (isinstance(select, dict) and Named.chosen_by in select):
            return {"target": {"ratio": 1.0, "of": "blocks"}, "score": {"methods": []}, **value}
        return value

    @model_validator(mode="after")
    def _timed_as_read(self) -> Recipe:
        """By default latency is timed at no length that the model does not read. First, so that the rules see it."""
        if "latency_shapes" not in self.export.model_fields_set:
            longest = self.model.max_length
            shapes = tuple(Shape(batch=one.batch, length=min(one.length, longest)) for one in LATENCY_SHAPES)
            self.__dict__["export"] = self.export.model_copy(update={"latency_shapes": shapes})
        return self

    @model_validator(mode="after")
    def _within_reach(self) -> Recipe:
        model = self.model
        if isinstance(model, FromConfig):
            self.check_blocks(model.blocks)
            longest_shape = max(shape.length for shape in self.export.latency_shapes)
            if model.norm == "post" and longest_shape > model.max_length:
                raise ValueError(
                    f"export.latency_shapes go up to {longest_shape} tokens, model.max_length is {model.max_length}"
                )
        if self.select.weights == "random" and (not self.recover.label_weight or not self.recover.embedding_rate):
            raise ValueError(
                "select.weights: random starts from random weights:"
                " set recover.label_weight and recover.embedding_rate above 0, recover.augment to 0"
            )
        profiles = self.export.tensorrt.profiles
        longest = max((profile.max.length for profile in profiles), default=model.max_length)
        if longest < model.max_length:
            raise ValueError(
                f"export.tensorrt.profiles end at {longest} tokens, model.max_length is {model.max_length}:"
                " longer texts would be refused"
            )
        return self

    def check_blocks(self, total: int) -> None:
        """Raise `ValueError` where a model of ``total`` blocks cannot lose what the recipe asks for."""
        target, select = self.target, self.select
        if isinstance(select, Named):
            fault = select.fault(total)
            if fault:
                raise ValueError(fault)
            left = total - len(select.blocks)
            if target.of == "blocks" and not target.reached(total / left):
                raise ValueError(
                    f"target.ratio is {target.ratio:g}, but select.blocks leaves {left} of {total} blocks,"
                    f" {total / left:.3g}x: leave out the target, or name more blocks"
                )
            return
        must = len(select.ends(total))
        if target.of == "blocks":
            left = sum(target.reached(total / kept) for kept in range(1, total + 1))
            if not left:
                raise ValueError(f"target.ratio is {target.ratio:g}, but {total} blocks allow at most {total}")
        else:
            left = total - (target.ratio > 1)
        if must > left:
            raise ValueError(
                f"select.keep_first {select.keep_first} and select.keep_last {select.keep_last} keep {must} of"
                f" {total} blocks, {target.ratio:g}x of {target.of} leaves room for {left}"
            )

    @model_validator(mode="after")
    def _something_to_keep(self) -> Recipe:
        model = self.model
        if self.train.skip and isinstance(model, FromConfig):
            raise ValueError(
                f"train: {SKIP} keeps a trained checkpoint, and model.kind config starts from random weights: name a"
                " checkpoint with model.kind pretrained, or give train its settings"
            )
        if self.train.skip and not isinstance(model, FromConfig) and model.head == "new":
            raise ValueError(f"train: {SKIP} keeps the checkpoint's head, and model.head is new: leave one out")
        return self

    @model_validator(mode="after")
    def _requests_suffice(self) -> Recipe:
        verify = self.verify
        if verify.rate is not None and verify.rate * verify.seconds < verify.min_requests:
            raise ValueError(
                f"verify.rate {verify.rate:g} gives {verify.rate * verify.seconds:g} requests in {verify.seconds:g} s,"
                f" verify.min_requests is {verify.min_requests}"
            )
        return self

    @model_validator(mode="after")
    def _task_fits(self) -> Recipe:
        self.task.check(self)
        return self

    @model_validator(mode="after")
    def _method_is_scored(self) -> Recipe:
        if not self.score.methods and self.select.reads_scores:
            raise ValueError(f"score.methods is empty, but select.strategy {self.select.strategy} goes by the scores")
        weights = {method.method: method.weight for method in self.score.methods}
        if isinstance(self.select, Single):
            chosen = self.select.method
            if chosen not in weights:
                raise ValueError(f"select.method {chosen!r} is not one of score.methods: {sorted(weights)}")
            if not weights[chosen]:
                raise ValueError(f"select.method {chosen!r} has weight 0 in score.methods: give it a weight above 0")
        return self
