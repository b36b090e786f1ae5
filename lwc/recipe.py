"""The recipe schema: frozen pydantic models, unknown keys refused. Imports no torch."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class Section(BaseModel):
    """Base of every recipe section: immutable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def _ratio(value: Any) -> Any:
    """Accept ``2.5`` and ``"2.5x"``; anything else is left for pydantic to refuse."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*[x×]?\s*", value)
        if match:
            return float(match.group(1))
    return value


Ratio = Annotated[float, BeforeValidator(_ratio), Field(ge=1.0, le=1000.0)]
RatioBase = Literal["blocks", "params", "size", "latency"]
Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[int, Field(ge=1)]


# --- data -------------------------------------------------------------------------------------


class Columns(Section):
    """Which column of a table holds what; unset ones do not exist in the source."""

    body: str = "text"
    title: str | None = None
    rating: str | None = None
    label: str | None = None
    user: str | None = None
    item: str | None = None
    time: str | None = None


class AmazonSample(Section):
    """The embedded default: 5,000 Amazon Fine Food reviews from Debian's r-cran-modeldata."""

    kind: Literal["amazon-sample"]


class McAuleyFile(Section):
    """McAuley 2014 / 2018 / 2023 JSON lines, plain or gzip; relative paths look in LWC_DATA_DIR too."""

    kind: Literal["mcauley"]
    paths: tuple[str, ...] = Field(min_length=1)


class TableFile(Section):
    """CSV, TSV, Parquet or JSON lines (by suffix, .gz allowed) with a column map; several files are read as one."""

    kind: Literal["table"]
    paths: tuple[str, ...] = Field(min_length=1)
    columns: Columns = Columns()


class HubDataset(Section):
    """A Hugging Face dataset id, or a local folder in that layout."""

    kind: Literal["hub"]
    id: str
    config: str | None = None
    split: str = "train"
    columns: Columns = Columns()


class Amazon2023(Section):
    """An official Amazon Reviews 2023 category file, size and SHA-256 pinned."""

    kind: Literal["amazon-2023"]
    category: str


DataSource = Annotated[AmazonSample | McAuleyFile | TableFile | HubDataset | Amazon2023, Field(discriminator="kind")]


class Labels(Section):
    """How labels are made: star schemes (binary: >=4 vs <=2, 3 dropped) or the label column as it is."""

    scheme: Literal["binary", "three_class", "five_class", "column"] = "binary"
    # Order of the class names; needed only to fix ids of a label column.
    names: tuple[str, ...] | None = None


class Split(Section):
    """``auto`` is user-disjoint where users exist, else temporal, else random stratified."""

    by: Literal["auto", "user", "time", "random"] = "auto"
    validation: Fraction = 0.1
    test: Fraction = 0.2

    @model_validator(mode="after")
    def _leaves_train(self) -> Split:
        if self.validation + self.test >= 0.95:
            raise ValueError("validation + test must leave at least 5% for training")
        return self


class Ingest(Section):
    """How a large source is read as a stream into shards on disk (`lwc data ingest`)."""

    shard_mib: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=16, description="MiB of raw source that become one shard; it bounds the memory of a worker"
    )
    files_at_once: Annotated[int, Field(ge=1, le=64)] = Field(default=2, description="files that are read at a time")
    metadata: tuple[str, ...] = Field(
        default=(), description="item metadata (JSON lines): title, brand and category are joined by the item"
    )


class Data(Section):
    source: DataSource = AmazonSample(kind="amazon-sample")
    text_fields: tuple[Literal["title", "body"], ...] = Field(default=("body",), min_length=1)
    labels: Labels = Labels()
    split: Split = Split()
    near_duplicate_threshold: Annotated[float, Field(ge=0.5, le=1.0)] = 0.9
    max_bad_rows: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    limit: Positive | None = Field(default=None, description="random subsample of rows, after cleaning")
    calibration: Positive = Field(default=256, description="rows of train that scores are computed on")
    ingest: Ingest | None = Field(default=None, description="read as a stream, through shards on disk")


# --- model and training -----------------------------------------------------------------------


class Pretrained(Section):
    """A checkpoint: local path, ``package:<module>`` (weights in an installed package), or hub id."""

    kind: Literal["pretrained"]
    source: str
    sha256: str | None = Field(default=None, description="of the weights file; checked before use")
    revision: str | None = None
    trust_remote_code: bool = False
    max_length: Annotated[int, Field(ge=8, le=8192)] = 128


class FromConfig(Section):
    """A transformer trained from scratch (pre-norm ModernBERT with mean pooling, or post-norm BERT)."""

    kind: Literal["config"]
    blocks: Annotated[int, Field(ge=1, le=200)] = 12
    hidden: Positive = 128
    heads: Positive = 4
    intermediate: Positive | None = None
    vocab_size: Annotated[int, Field(ge=200, le=500_000)] = 8000
    norm: Literal["pre", "post"] = "pre"
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    max_length: Annotated[int, Field(ge=8, le=8192)] = 128

    @model_validator(mode="after")
    def _heads_divide(self) -> FromConfig:
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        return self


ModelSource = Annotated[Pretrained | FromConfig, Field(discriminator="kind")]


class Optimization(Section):
    """Settings of the one training loop, shared by train and recover."""

    epochs: Annotated[float, Field(gt=0.0)] = 1.0
    batch_size: Positive = 32
    learning_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = 2e-4
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    patience: Positive = Field(default=3, description="evaluations without a better macro-F1")
    evaluations_per_epoch: Positive = 1
    checkpoint_every: Positive = Field(default=50, description="steps between resumable checkpoints")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 on GPUs and CPUs that multiply bf16 natively, else fp32"
    )


class Unlabelled(Section):
    """More text, whose labels are not read. Texts and users of validation and test are left out."""

    source: DataSource
    limit: Positive | None = Field(default=None, description="random sample of so many texts")


class Recovery(Optimization):
    """Recovery distillation from the uncut model."""

    epochs: Annotated[float, Field(gt=0.0)] = 3.0
    temperature: Annotated[float, Field(gt=0.0)] = 2.0
    logits_weight: Annotated[float, Field(ge=0.0)] = 1.0
    hidden_weight: Annotated[float, Field(ge=0.0)] = 1.0
    label_weight: Annotated[float, Field(ge=0.0)] = 0.0
    augment: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.0, description="share of rows replaced by random windows of their text, new in every epoch"
    )
    average: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.0, description="decay of the moving average of the weights that is judged and kept; 0 = none"
    )
    embedding_rate: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.0, description="learning rate of the embeddings, as a share of the others'; 0 = frozen"
    )
    attention_weight: Annotated[float, Field(ge=0.0)] = Field(
        default=0.0, description="distance of the attention maps; encoders only, and slower (no fused attention)"
    )
    unlabelled: Unlabelled | None = Field(default=None, description="more text, which the uncut model labels")
    cache_teacher: Literal["auto", "always", "never"] = Field(
        default="auto", description="the teacher's answers on disk; auto: where rows repeat, unchanged, over epochs"
    )

    @model_validator(mode="after")
    def _cacheable(self) -> Recovery:
        if self.cache_teacher == "always" and (self.augment or self.attention_weight):
            raise ValueError("cache_teacher: always needs augment: 0 and attention_weight: 0")
        if not (self.logits_weight or self.hidden_weight or self.attention_weight or self.label_weight):
            raise ValueError("every weight of the loss is 0")
        if self.unlabelled is not None and self.label_weight:
            raise ValueError("label_weight needs labels, which recover.unlabelled does not have: set one of them")
        return self


# --- importance, selection --------------------------------------------------------------------


class _Method(Section):
    weight: Annotated[float, Field(ge=0.0)] = 1.0


class BlockInfluence(_Method):
    method: Literal["block_influence"]


class EmpiricalFisher(_Method):
    method: Literal["fisher"]


class Taylor(_Method):
    method: Literal["taylor"]


class Ablation(_Method):
    method: Literal["ablation"]


class AngularDistance(_Method):
    method: Literal["angular_distance"]


class MutualInformation(_Method):
    """Gain in label information of a block's representation over the block before it."""

    method: Literal["mutual_information"]
    permutations: Annotated[int, Field(ge=1)] = 20


class Conductance(_Method):
    """Layer conductance of the block's update along the path from a baseline."""

    method: Literal["conductance"]
    steps: Annotated[int, Field(ge=2, le=1000)] = 16


class Shap(_Method):
    """Shapley values of blocks; ``exact`` enumerates all coalitions (at most 10 blocks)."""

    method: Literal["shap"]
    permutations: Annotated[int, Field(ge=1)] = 8
    exact: bool = False


class LlamaProfile(_Method):
    """Depth profile of a LLaMA-family causal LM, interpolated over relative depth."""

    method: Literal["llama_profile"]
    source: str = Field(description="local path, hub id, or package:<module> with a GGUF file")
    gguf_file: str | None = None
    texts: Positive = 64
    max_length: Annotated[int, Field(ge=8, le=4096)] = 128


class LlmExpert(_Method):
    """An OpenAI-compatible endpoint ranks the blocks from the measured evidence. Off unless listed."""

    method: Literal["llm_expert"]
    base_url: Annotated[str, Field(pattern=r"^https?://")]
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    timeout_seconds: Annotated[float, Field(gt=0.0)] = 60.0
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    max_tokens: Positive = 2000
    required: bool = Field(default=False, description="fail the run when the expert gives no usable answer")


ScorerConfig = Annotated[
    BlockInfluence
    | EmpiricalFisher
    | Taylor
    | Ablation
    | AngularDistance
    | MutualInformation
    | Conductance
    | Shap
    | LlamaProfile
    | LlmExpert,
    Field(discriminator="method"),
]


class Trust(Section):
    """How far to believe the scores: resampled, and compared with the loss of models that were really cut."""

    resamples: Annotated[int, Field(ge=5)] = 5
    seeds: Annotated[int, Field(ge=3)] = 3
    bootstrap: Annotated[int, Field(ge=100)] = 200
    subsets: Annotated[int, Field(ge=20)] = Field(default=20, description="random block subsets that are measured")
    recovery_steps: Annotated[int, Field(ge=0)] = Field(
        default=0, description="steps of recovery after which the subsets are measured again; 0 leaves that out"
    )


class Score(Section):
    methods: tuple[ScorerConfig, ...] = Field(
        default=(
            BlockInfluence(method="block_influence"),
            EmpiricalFisher(method="fisher"),
            Taylor(method="taylor"),
            Ablation(method="ablation"),
        ),
        min_length=1,
    )
    fusion: Literal["mean_rank", "z_score", "robust_rank", "learned"] = "mean_rank"
    batch_size: Positive = 16
    trust: Trust | None = None

    @model_validator(mode="after")
    def _methods_once(self) -> Score:
        names = [m.method for m in self.methods]
        if len(set(names)) != len(names):
            raise ValueError(f"a method is listed twice: {names}")
        if not any(m.weight > 0 for m in self.methods):
            raise ValueError("every method has weight 0")
        return self


class Target(Section):
    """How small: a ratio and what it is a ratio of. There is no default base."""

    ratio: Ratio
    of: RatioBase


class _Strategy(Section):
    """What every strategy obeys. ``weights: random`` gives the cut model its shape only (a baseline)."""

    keep_first: Annotated[int, Field(ge=0)] = 0
    keep_last: Annotated[int, Field(ge=0)] = 0
    weights: Literal["kept", "random"] = "kept"


class _Spans(_Strategy):
    contiguous: bool = Field(default=False, description="the removed blocks are neighbours")


class Fused(_Spans):
    """The blocks that the fusion of the scores ranks highest."""

    strategy: Literal["fused"] = "fused"


class Single(_Spans):
    """The blocks that one of the scored methods ranks highest."""

    strategy: Literal["single"]
    method: str


class Greedy(_Strategy):
    """One block after the other, each time the one whose absence costs least with those already gone."""

    strategy: Literal["greedy"]


class Beam(_Spans):
    """Beam search over subsets, by the loss with the others bypassed."""

    strategy: Literal["beam"]
    width: Positive = 8
    rows: Positive = Field(default=128, description="calibration rows that subsets are measured on")


class Racing(_Spans):
    """The best candidates recover for some steps; the better half goes on with twice as many, until one is left."""

    strategy: Literal["racing"]
    candidates: Annotated[int, Field(ge=2, le=64)] = 8
    steps: Positive = Field(default=50, description="recovery steps of the first round")
    width: Positive = 8
    rows: Positive = 128


class Iterated(_Strategy):
    """Remove some blocks, recover, look again; for deep cuts. Each round ends with a short recovery."""

    strategy: Literal["iterated"]
    rounds: Annotated[int, Field(ge=2, le=50)] = 3
    steps: Positive = Field(default=100, description="recovery steps after each round but the last")
    rows: Positive = 128


class Drawn(_Strategy):
    """Baseline: blocks drawn at random; another ``draw``, another set."""

    strategy: Literal["random"]
    draw: Annotated[int, Field(ge=0)] = 0


class DropTop(_Strategy):
    """Baseline: the first blocks stay (Sajjad et al. 2023, top dropping; also called first-k)."""

    strategy: Literal["drop_top"]


class DropBottom(_Strategy):
    """Baseline: the last blocks stay."""

    strategy: Literal["drop_bottom"]


class DropEven(_Strategy):
    """Baseline: evenly spaced blocks stay, the first among them (Fan et al. 2020, LayerDrop)."""

    strategy: Literal["drop_even"]


Select = Annotated[
    Fused | Single | Greedy | Beam | Racing | Iterated | Drawn | DropTop | DropBottom | DropEven,
    Field(discriminator="strategy"),
]


class Vocabulary(Section):
    """Trim the vocabulary of the compressed model to the tokens of the train split."""

    trim: bool = False
    min_count: Positive = Field(default=1, description="occurrences in train below which a token goes")


# --- evaluation, export, serving --------------------------------------------------------------


class Evaluate(Section):
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 2000
    batch_size: Positive = 32


class Shape(Section):
    batch: Positive
    length: Positive


class Int8(Section):
    """Eight-bit weights and activations for the CPU; operators that spoil the answers stay in fp32."""

    mode: Literal["dynamic", "static"] = "dynamic"
    min_agreement: Annotated[float, Field(ge=0.5, le=1.0)] = Field(
        default=0.985, description="share of calibration labels that must stay; below it operators fall back to fp32"
    )
    calibration: Positive = Field(default=128, description="calibration rows that agreement and ranges come from")


class Export(Section):
    int8: Int8 | None = None
    fp16: bool = Field(default=False, description="also write an fp16 graph, for GPUs; checked for overflow")
    parity_tolerance: Annotated[float, Field(gt=0.0)] = 1e-4
    latency_shapes: tuple[Shape, ...] = (Shape(batch=1, length=64), Shape(batch=8, length=64))
    latency_repeats: Annotated[int, Field(ge=3)] = 20


class Package(Section):
    max_batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    queue_delay_microseconds: Annotated[int, Field(ge=0)] = 1000
    instances: Positive = 1
    intra_op_threads: Annotated[int, Field(ge=0)] = Field(
        default=0, description="0 = the CPU limit of the container, shared among the instances"
    )


class Verify(Section):
    users: Positive = 4
    seconds: Annotated[float, Field(ge=1.0)] = 15.0
    warmup_seconds: Annotated[float, Field(ge=0.0)] = 2.0
    protocols: tuple[Literal["http", "grpc"], ...] = Field(default=("http", "grpc"), min_length=1)
    min_requests: Positive = 50
    startup_seconds: Annotated[float, Field(gt=0.0)] = 60.0


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


class Recipe(Section):
    """One YAML file: a labelled corpus in, a smaller served transformer and a report out."""

    schema_version: Literal[1]
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 17
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
                " set recover.label_weight and recover.embedding_rate above 0"
            )
        scored = {method.method for method in self.score.methods}
        if isinstance(self.select, Single) and self.select.method not in scored:
            raise ValueError(f"select.method {self.select.method!r} is not one of score.methods: {sorted(scored)}")
        return self
