"""The recipe schema: frozen pydantic models, unknown keys refused. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
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
    """How labels are made: star schemes (binary: >=4 vs <=2, 3 dropped), the label column as it is, or none."""

    scheme: Literal["binary", "three_class", "five_class", "column", "none"] = "binary"
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


class Profile(Section):
    """Shapes that a TensorRT plan takes, batch × length: the smallest, the one it is tuned for, the largest."""

    min: Shape
    opt: Shape
    max: Shape

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

    precision: Literal["fp16", "fp32"] = "fp16"
    profiles: tuple[Profile, ...] = Field(
        default=(), description="by default one, from 1 × 1 to package.max_batch_size × model.max_length"
    )

    @model_validator(mode="after")
    def _whole(self) -> TensorRT:
        if not self.profiles:
            return self
        smallest = min(profile.min.batch for profile in self.profiles)
        if smallest > 1:
            raise ValueError(f"no profile takes a batch below {smallest}: one text alone would be refused")
        missing = gap(self.profiles)
        if missing is not None:
            raise ValueError(f"no profile takes batch {missing[0]} × length {missing[1]}, which lies between them")
        return self


class Export(Section):
    int8: Int8 | None = None
    fp16: bool = Field(default=False, description="also write an fp16 graph, for GPUs; checked for overflow")
    tensorrt: TensorRT = TensorRT()
    parity_tolerance: Annotated[float, Field(gt=0.0)] = 1e-4
    latency_shapes: tuple[Shape, ...] = (Shape(batch=1, length=64), Shape(batch=8, length=64))
    latency_repeats: Annotated[int, Field(ge=3)] = 20


class Package(Section):
    targets: tuple[Literal["cpu", "gpu", "tensorrt"], ...] = Field(
        default=("cpu",),
        description="repositories: cpu (NAME/, always), gpu (NAME-gpu/, ONNX Runtime with CUDA), tensorrt"
        " (NAME-tensorrt/, written by `lwc export --to tensorrt` where the plan is built)",
    )
    max_batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    queue_delay_microseconds: Annotated[int, Field(ge=0)] = Field(
        default=1000, description="how long a request may wait for others to batch with"
    )
    measure_queue_delay: bool = Field(
        default=False,
        description="look for a better delay on this CPU with verify.users clients (about a minute); kept only where it"
        " is better beyond chance, and for the cpu repository alone",
    )
    instances: Positive = 1
    intra_op_threads: Annotated[int, Field(ge=0)] = Field(
        default=0, description="0 = the CPU limit of the container, shared among the instances"
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

    max_p95_ms: Annotated[float, Field(gt=0.0)]
    max_error_rate: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    against_base: bool = Field(default=True, description="the uncut model too, a window each in turn")
    start: Annotated[float, Field(ge=0.5, le=1e6)] = 10.0
    seconds: Annotated[float, Field(ge=1.0)] = Field(default=5.0, description="of a window")
    precision: Annotated[float, Field(ge=0.01, le=1.0)] = Field(
        default=0.1, description="how far the rate that is met and the one that is not may be apart"
    )
    repeats: Positive = Field(default=3, description="windows at the rate found, for its spread")


class Verify(Section):
    users: Positive = 4
    connections: Positive = Field(default=64, description="in place of users where requests arrive at a rate")
    rate: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None,
        description="requests/s that arrive, answered or not (open loop); by default users wait for answers",
    )
    arrivals: Literal["poisson", "constant"] = "poisson"
    rate_tolerance: Fraction = Field(default=0.05, description="share of rate that may go unanswered before it is told")
    find_rate: FindRate | None = Field(default=None, description="over the first of protocols")
    seconds: Annotated[float, Field(ge=1.0)] = 15.0
    warmup_seconds: Annotated[float, Field(ge=0.0)] = 2.0
    protocols: tuple[Literal["http", "grpc"], ...] = Field(default=("http", "grpc"), min_length=1)
    min_requests: Positive = 50
    startup_seconds: Annotated[float, Field(gt=0.0)] = 60.0


class Classification(Section):
    """A text's class. Quality is accuracy and macro-F1."""

    kind: Literal["classification"] = "classification"


class Regression(Section):
    """A number, by squared error: the stars of a review. Quality is mean absolute error and Spearman's ρ."""

    kind: Literal["regression"]


class CausalLM(Section):
    """The next token of any text. Quality is perplexity and next-token accuracy."""

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


class NextItem(Section):
    """Which items a user takes next, by a causal transformer over item ids (SASRec's setting).

    The rows need user, item and time. ``model`` is ``kind: config`` (blocks, hidden, heads, dropout); its
    ``max_length`` is how many of a user's last items are read, its vocabulary is the catalogue.
    """

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


Task = Annotated[Classification | Regression | CausalLM | NextItem, Field(discriminator="kind")]


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
    task: Task = Classification()
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
            }
            for name, asked in unfit.items():
                if asked:
                    raise ValueError(f"{name} does not go with task causal_lm")
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
            "package.targets other than cpu": self.package.targets != ("cpu",),
            "package.measure_queue_delay": self.package.measure_queue_delay,
            "verify.rate and verify.find_rate": self.verify.rate is not None or self.verify.find_rate is not None,
        }
        text_methods = {"mutual_information", "llama_profile"} & {method.method for method in self.score.methods}
        unfit[f"score.methods: {', '.join(sorted(text_methods))} (items have no text)"] = bool(text_methods)
        for name, asked in unfit.items():
            if asked:
                raise ValueError(f"{name} does not go with task next_item")
        return self
