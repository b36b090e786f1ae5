"""Sections about the model, its training and its recovery."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from lwc.recipe.base import Lean, Positive, Section
from lwc.recipe.data import AnySource


class Pretrained(Lean):
    """A checkpoint: local path, ``package:<module>`` (weights in an installed package), or hub id."""

    added: ClassVar[tuple[str, ...]] = ("head",)
    kind: Literal["pretrained"]
    source: str = Field(description="folder, hub id, or package:MODULE")
    sha256: str | None = Field(default=None, description="SHA-256 of the weights file, checked before use")
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub id")
    trust_remote_code: bool = Field(default=False, description="run the code of the checkpoint's repository")
    max_length: Annotated[int, Field(ge=8, le=8192)] = Field(default=128, description="tokens at which texts are cut")
    head: Literal["own", "new"] = Field(
        default="own",
        description="own: the checkpoint's head, whose outputs must be the classes of the data; a new one if it has"
        " none. new: a new head, whatever the checkpoint has",
    )


class FromConfig(Section):
    """A transformer trained from scratch (pre-norm ModernBERT with mean pooling, or post-norm BERT)."""

    kind: Literal["config"]
    blocks: Annotated[int, Field(ge=1, le=200)] = Field(default=12, description="number of blocks")
    hidden: Annotated[int, Field(ge=1, le=65_536)] = Field(default=128, description="width of the hidden states")
    heads: Annotated[int, Field(ge=1, le=65_536)] = Field(default=4, description="attention heads")
    intermediate: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="width of the feed-forward layer; by default chosen from hidden"
    )
    vocab_size: Annotated[int, Field(ge=200, le=500_000)] = Field(
        default=8000, description="tokens of the WordPiece vocabulary"
    )
    norm: Literal["pre", "post"] = Field(default="pre", description="pre: ModernBERT with mean pooling; post: BERT")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(default=0.1, description="dropout in training")
    max_length: Annotated[int, Field(ge=8, le=8192)] = Field(default=128, description="tokens at which texts are cut")

    @model_validator(mode="after")
    def _heads_divide(self) -> FromConfig:
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        return self


ModelSource = Annotated[Pretrained | FromConfig, Field(discriminator="kind")]


class Optimization(Section):
    """Settings of the one training loop, shared by train and recover."""

    epochs: Annotated[float, Field(gt=0.0)] = Field(default=1.0, description="passes over the train split")
    batch_size: Positive = Field(default=32, description="rows of a step")
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw",
        description="muon: orthogonalised steps for the matrices of the blocks, AdamW for the rest (decision 6)",
    )
    learning_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(default=2e-4, description="highest learning rate")
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.1, description="share of the steps in which the rate rises"
    )
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(default=0.01, description="weight decay of AdamW")
    max_grad_norm: Annotated[float, Field(gt=0.0)] = Field(default=1.0, description="largest norm of a step's gradient")
    dropout: bool = Field(default=True, description="use the dropout of the model's config")
    patience: Positive = Field(default=3, description="evaluations without improvement before stopping")
    evaluations_per_epoch: Positive = Field(default=1, description="evaluations on validation in an epoch")
    checkpoint_every: Positive | None = Field(
        default=None, description="steps between resumable checkpoints; by default one a minute"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 if the hardware supports it natively, otherwise fp32"
    )

    def steps(self, rows: int) -> int:
        """Steps of a whole training on so many rows."""
        return max(1, round(self.epochs * math.ceil(rows / self.batch_size)))


SKIP = "skip"


class Training(Optimization):
    """The training of the base, or the one word ``skip``: the checkpoint is the base as it is."""

    skip: bool = Field(default=False, exclude=True, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        if value == SKIP:
            return {SKIP: True}
        if isinstance(value, str):
            raise ValueError("settings of the training, or the one word skip")
        if isinstance(value, dict) and SKIP in value:
            raise ValueError("write train: skip, without settings: nothing is trained")
        return value

    @field_validator("epochs", mode="before")
    @classmethod
    def _some(cls, value: Any) -> Any:
        if value == 0:
            raise ValueError("0 epochs train nothing; write `train: skip` to use the checkpoint as it is")
        return value

    @model_serializer(mode="wrap")
    def _as_written(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any] | str:
        found: dict[str, Any] = serialize(self)
        return SKIP if self.skip else found


class OrSkip:
    """Annotation of a `Training`: its JSON Schema is the settings, or the word."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        settings = handler(core)
        handler.resolve_ref_schema(settings)["properties"].pop(SKIP, None)
        return {"anyOf": [settings, {"const": SKIP, "type": "string"}]}


class Unlabelled(Section):
    """More text, whose labels are not read. Texts and users of validation and test are left out."""

    source: AnySource = Field(description="where the texts are read from")
    limit: Positive | None = Field(default=None, description="use a random sample of this many texts")


class Recovery(Optimization):
    """Recovery distillation from the uncut model."""

    epochs: Annotated[float, Field(gt=0.0)] = Field(default=3.0, description="passes over the texts")
    start: Literal["cut", "linear"] = Field(
        default="cut",
        description="linear: the block before each gap is first fitted, by least squares, to what the removed blocks "
        "did (decision 6)",
    )
    dropout: bool = Field(
        default=False,
        description="dropout of the student; helps only if the same rows are read many times (decision 6)",
    )
    temperature: Annotated[float, Field(gt=0.0)] = Field(default=2.0, description="temperature of the distilled logits")
    logits_weight: Annotated[float, Field(ge=0.0)] = Field(default=1.0, description="weight of the distance of logits")
    hidden_weight: Annotated[float, Field(ge=0.0)] = Field(
        default=1.0, description="weight of the distance of hidden states"
    )
    label_weight: Annotated[float, Field(ge=0.0)] = Field(
        default=0.0, description="weight of the loss against the labels"
    )
    last_block: Literal["all", "read"] = Field(
        default="all",
        description="tokens whose hidden states are matched in the last block; read: the first one alone, which the "
        "classifier of an encoder reads, so that the others are not computed (decision 6)",
    )
    augment: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.0, description="share of rows replaced by random windows of their text, new in every epoch"
    )
    replace_words: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.0,
        description="share of the tokens of augmented rows that become a near word of the embedding table (decision 6)",
    )
    average: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.0, description="decay of the moving average of the weights that is judged and kept; 0 = none"
    )
    embedding_rate: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.0, description="learning rate of the embeddings, as a share of the others'; 0 = frozen"
    )
    attention_weight: Annotated[float, Field(ge=0.0)] = Field(
        default=0.0, description="weight of the distance of attention maps; encoders only, slower (no fused attention)"
    )
    unlabelled: Unlabelled | None = Field(default=None, description="more text, labelled by the uncut model")
    cache_teacher: Literal["auto", "always", "never"] = Field(
        default="auto", description="keep the teacher's answers on disk; auto: if rows repeat unchanged over epochs"
    )

    @model_validator(mode="after")
    def _cacheable(self) -> Recovery:
        if self.cache_teacher == "always" and (self.augment or self.attention_weight or self.last_block == "read"):
            raise ValueError("cache_teacher: always needs augment: 0, attention_weight: 0 and last_block: all")
        if not (self.logits_weight or self.hidden_weight or self.attention_weight or self.label_weight):
            raise ValueError("every weight of the loss is 0")
        if self.replace_words and not self.augment:
            raise ValueError("replace_words varies augmented rows: set augment above 0")
        if self.unlabelled is not None and self.label_weight:
            raise ValueError("label_weight needs labels, which recover.unlabelled does not have: set one of them")
        if self.augment and self.label_weight:
            raise ValueError("label_weight needs labels, which may be wrong for augmented texts: set one of them to 0")
        return self
