"""The recipe schema: frozen pydantic models, unknown keys refused. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lwc.recipe.base import NAME_PATTERN, Fraction, Positive, Ratio, RatioBase, Section
from lwc.recipe.blocks import (
    METHODS,
    Ablation,
    AngularDistance,
    Beam,
    BlockInfluence,
    Conductance,
    Drawn,
    DropBottom,
    DropEven,
    DropTop,
    EmpiricalFisher,
    Fused,
    Greedy,
    Iterated,
    LlamaProfile,
    LlmExpert,
    Method,
    MutualInformation,
    Racing,
    Score,
    Select,
    Shap,
    Single,
    Target,
    Taylor,
    Trust,
    Vocabulary,
)
from lwc.recipe.data import (
    SOURCES,
    Amazon2023,
    AmazonSample,
    Columns,
    Data,
    DataSource,
    HubDataset,
    Ingest,
    Labels,
    McAuleyFile,
    Split,
    TableFile,
)
from lwc.recipe.model import FromConfig, ModelSource, Optimization, Pretrained, Recovery, Unlabelled
from lwc.recipe.serving import Evaluate, Export, FindRate, Int8, Package, Profile, Shape, TensorRT, Verify, gap
from lwc.recipe.task import TASKS, AnyTask, CausalLM, Classification, ItemText, NextItem, Regression, TaskSettings

__all__ = [
    "METHODS",
    "NAME_PATTERN",
    "SOURCES",
    "TASKS",
    "Ablation",
    "Amazon2023",
    "AmazonSample",
    "AngularDistance",
    "Beam",
    "BlockInfluence",
    "CausalLM",
    "Classification",
    "Columns",
    "Conductance",
    "Data",
    "DataSource",
    "Drawn",
    "DropBottom",
    "DropEven",
    "DropTop",
    "EmpiricalFisher",
    "Evaluate",
    "Export",
    "FindRate",
    "Fraction",
    "FromConfig",
    "Fused",
    "Gate",
    "Greedy",
    "HubDataset",
    "Ingest",
    "Int8",
    "ItemText",
    "Iterated",
    "Labels",
    "LlamaProfile",
    "LlmExpert",
    "McAuleyFile",
    "Method",
    "ModelSource",
    "MutualInformation",
    "NextItem",
    "Optimization",
    "Package",
    "Positive",
    "Pretrained",
    "Profile",
    "Racing",
    "Ratio",
    "RatioBase",
    "Recipe",
    "Recovery",
    "Regression",
    "Score",
    "Section",
    "Select",
    "Shap",
    "Shape",
    "Single",
    "Split",
    "Sweep",
    "TableFile",
    "Target",
    "TaskSettings",
    "Taylor",
    "TensorRT",
    "Trust",
    "Unlabelled",
    "Verify",
    "Vocabulary",
    "gap",
]  # fmt: skip


class Gate(Section):
    """Pass when ``metric op value``. A metric is a dotted path into report.json."""

    metric: Annotated[str, Field(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)*$")]
    op: Literal[">=", "<=", ">", "<", "=="]
    value: float
    # Multiply `value` by another report metric, so that a limit can be relative to the base model.
    relative_to: str | None = None


class Sweep(Section):
    """What ``lwc sweep`` runs: the recipe once for each ratio and strategy. ``lwc run`` takes no notice of it."""

    ratios: tuple[Ratio, ...] = Field(min_length=1)
    select: tuple[Select, ...] = Field(default=(), description="by default the recipe's own")


def _refuse(unfit: dict[str, bool], task: str) -> None:
    """Refuse the first setting that is asked for."""
    for name, asked in unfit.items():
        if asked:
            raise ValueError(f"{name} does not go with task {task}")


class Recipe(Section):
    """One YAML file: a labelled corpus in, a smaller served transformer and a report out."""

    schema_version: Literal[1]
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 17
    task: AnyTask = Classification()
    data: Data = Data()
    model: ModelSource
    train: Optimization = Optimization()
    score: Score = Score()
    target: Target
    select: Select = Fused()
    recover: Recovery = Recovery()
    vocabulary: Vocabulary = Vocabulary()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    package: Package = Package()
    verify: Verify = Verify()
    gates: tuple[Gate, ...] = ()
    sweep: Sweep | None = None

    @model_validator(mode="after")
    def _within_reach(self) -> Recipe:
        model, target = self.model, self.target
        if isinstance(model, FromConfig) and target.of == "blocks" and target.ratio > model.blocks:
            raise ValueError(
                f"target.ratio is {target.ratio:g}, but {model.blocks} blocks allow at most {model.blocks}"
            )
        if self.select.weights == "random" and (not self.recover.label_weight or not self.recover.embedding_rate):
            raise ValueError(
                "select.weights: random starts from nothing:"
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

    @model_validator(mode="after")
    def _task_fits(self) -> Recipe:
        kind, scheme = self.task.kind, self.data.labels.scheme
        if (scheme == "none") != (kind == "causal_lm"):
            raise ValueError(f"task {kind} with data.labels.scheme {scheme}: a language model, and no other, has none")
        if kind == "regression" and scheme not in ("five_class", "column"):
            raise ValueError("task regression needs numbers: data.labels.scheme five_class, or column")
        if kind in ("regression", "causal_lm"):
            if isinstance(self.model, FromConfig):
                raise ValueError(f"task {kind} needs model.kind: pretrained")
            if self.export.int8 is not None or self.export.fp16:
                raise ValueError(f"export.int8 and export.fp16 are judged by labels, which task {kind} does not have")
        if kind == "causal_lm":
            unfit = {
                "score.methods: mutual_information": any(m.method == "mutual_information" for m in self.score.methods),
                "vocabulary.trim": self.vocabulary.trim,
                "recover.augment": self.recover.augment > 0,
                "recover.cache_teacher: always": self.recover.cache_teacher == "always",
                "model.revision": getattr(self.model, "revision", None) is not None,
                "model.trust_remote_code": getattr(self.model, "trust_remote_code", False),
            }
            _refuse(unfit, kind)
        return self

    @model_validator(mode="after")
    def _method_is_scored(self) -> Recipe:
        scored = {method.method for method in self.score.methods}
        if isinstance(self.select, Single) and self.select.method not in scored:
            raise ValueError(f"select.method {self.select.method!r} is not one of score.methods: {sorted(scored)}")
        return self

    @model_validator(mode="after")
    def _next_item_fits(self) -> Recipe:
        if not isinstance(self.task, NextItem):
            return self
        unfit = {
            "model.kind: pretrained (items are not words)": isinstance(self.model, Pretrained),
            "model.vocab_size (it is the catalogue's)": "vocab_size" in self.model.model_fields_set,
            "model.norm: post": isinstance(self.model, FromConfig) and self.model.norm == "post",
            "select.strategy: iterated": isinstance(self.select, Iterated),
            "select.weights: random": self.select.weights == "random",
            "target.of: latency": self.target.of == "latency",
            "vocabulary.trim": self.vocabulary.trim,
            "recover.augment": self.recover.augment > 0,
            "recover.attention_weight": self.recover.attention_weight > 0,
            "recover.unlabelled": self.recover.unlabelled is not None,
            "recover.cache_teacher: always": self.recover.cache_teacher == "always",
            "score.fusion: learned": self.score.fusion == "learned",
            "score.trust": self.score.trust is not None,
            "export.latency_shapes longer than model.max_length": any(
                shape.length > self.model.max_length for shape in self.export.latency_shapes
            ),
            "export.int8 and export.fp16": self.export.int8 is not None or self.export.fp16,
            "export.openvino": self.export.openvino,
            "package.targets other than cpu": self.package.targets != ("cpu",),
            "package.measure_queue_delay": self.package.measure_queue_delay,
            "verify.rate and verify.find_rate": self.verify.rate is not None or self.verify.find_rate is not None,
        }
        text_methods = {"mutual_information", "llama_profile"} & {method.method for method in self.score.methods}
        unfit[f"score.methods: {', '.join(sorted(text_methods))} (items have no text)"] = bool(text_methods)
        _refuse(unfit, self.task.kind)
        return self
