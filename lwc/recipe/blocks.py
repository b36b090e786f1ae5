"""Sections about importance, targets and the choice of blocks."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from lwc.recipe.base import Address, Positive, Ratio, RatioBase, Row, Section, Table


class Method(Row):
    """Settings of a scoring method; ``implementation`` names its `lwc.importance.types.Scorer`.

    ``version`` is raised when its scores change: cached ones of another version are not read.
    ``reads``: a method of ``scores`` runs after the others, on their results (`lwc.importance.types.ScorerOfScores`).
    ``labels``: whether the scores depend on the labels of the calibration rows.
    """

    reads: ClassVar[Literal["model", "scores"]] = "model"
    labels: ClassVar[bool] = True
    version: ClassVar[int] = 1
    method: str = Field(description="name of the method")
    weight: Annotated[float, Field(ge=0.0)] = Field(default=1.0, description="weight in the fusion; 0: only reported")


class BlockInfluence(Method):
    """Block influence: 1 − cosine of a block's input and output (Men et al. 2024)."""

    implementation: ClassVar[str] = "lwc.importance.block_influence:block_influence"
    labels: ClassVar[bool] = False
    method: Literal["block_influence"]


class EmpiricalFisher(Method):
    """Empirical Fisher information of a block's weights, from squared gradients of single examples."""

    implementation: ClassVar[str] = "lwc.importance.fisher:fisher"
    method: Literal["fisher"]


class Taylor(Method):
    """First-order change of the loss if a block's update were zero (Molchanov et al. 2019)."""

    implementation: ClassVar[str] = "lwc.importance.taylor:taylor"
    method: Literal["taylor"]


class Ablation(Method):
    """Loss with a block bypassed, less the loss of the whole model."""

    implementation: ClassVar[str] = "lwc.importance.ablation:ablation"
    method: Literal["ablation"]


class AngularDistance(Method):
    """Angle between a block's input and output (Gromov et al. 2024)."""

    implementation: ClassVar[str] = "lwc.importance.angular_distance:angular_distance"
    labels: ClassVar[bool] = False
    method: Literal["angular_distance"]


class MutualInformation(Method):
    """Gain in label information of a block's representation over the block before it."""

    implementation: ClassVar[str] = "lwc.importance.mutual_information:mutual_information"
    version: ClassVar[int] = 2
    method: Literal["mutual_information"]
    permutations: Annotated[int, Field(ge=1)] = Field(
        default=20, description="shuffles of the labels, whose mean estimates the bias"
    )


class Conductance(Method):
    """Layer conductance of the block's update along the path from a baseline."""

    implementation: ClassVar[str] = "lwc.importance.conductance:conductance"
    method: Literal["conductance"]
    steps: Annotated[int, Field(ge=2, le=1000)] = Field(
        default=16, description="points on the path from the baseline to the input"
    )


class Shap(Method):
    """Shapley values of blocks; ``exact`` enumerates all coalitions (at most 10 blocks)."""

    implementation: ClassVar[str] = "lwc.importance.shap:shap"
    method: Literal["shap"]
    permutations: Annotated[int, Field(ge=1)] = Field(default=8, description="sampled orders, each with its reverse")
    exact: bool = Field(default=False, description="enumerate all coalitions instead")


class LlamaProfile(Method):
    """Depth profile of a LLaMA-family causal LM, interpolated over relative depth."""

    implementation: ClassVar[str] = "lwc.importance.llama_profile:llama_profile"
    labels: ClassVar[bool] = False
    method: Literal["llama_profile"]
    source: str = Field(description="local path, hub id, or package:<module> with a GGUF file")
    gguf_file: str | None = Field(default=None, description="name of the GGUF file, where the folder has several")
    texts: Positive = Field(default=64, description="calibration texts to read")
    max_length: Annotated[int, Field(ge=8, le=4096)] = Field(default=128, description="tokens of a text to read")


class LlmExpert(Method):
    """An OpenAI-compatible endpoint ranks the blocks from the measured evidence. Off unless listed."""

    implementation: ClassVar[str] = "lwc.importance.llm_expert:rank_with_expert"
    reads: ClassVar[Literal["model", "scores"]] = "scores"
    labels: ClassVar[bool] = False
    method: Literal["llm_expert"]
    base_url: Address
    model: str = Field(description="name of the model that the endpoint serves")
    api_key_env: str = Field(default="OPENAI_API_KEY", description="environment variable that contains the key")
    timeout_seconds: Annotated[float, Field(gt=0.0)] = Field(default=60.0, description="longest wait for an answer")
    retries: Annotated[int, Field(ge=0, le=10)] = Field(default=2, description="further tries after a failed one")
    max_tokens: Positive = Field(default=2000, description="longest answer in tokens")
    required: bool = Field(default=False, description="fail the run when the expert gives no usable answer")


METHODS = Table(
    "method", BlockInfluence, EmpiricalFisher, Taylor, Ablation, AngularDistance, MutualInformation, Conductance, Shap,
    LlamaProfile, LlmExpert,
)  # fmt: skip
"""Every scoring method. A new one is a module with the scorer and a settings class here that names it."""

AnyMethod = Annotated[Method, METHODS]


class Trust(Section):
    """How reliable the scores are: resampled, and compared with the loss of models that were really cut."""

    resamples: Annotated[int, Field(ge=5)] = Field(
        default=5, description="bootstrap draws of the calibration rows whose rankings are compared"
    )
    seeds: Annotated[int, Field(ge=3)] = Field(
        default=3, description="random halves of the calibration rows whose rankings are compared"
    )
    bootstrap: Annotated[int, Field(ge=100)] = Field(
        default=200, description="resamples of the cut models for the intervals of rank correlations"
    )
    subsets: Annotated[int, Field(ge=20)] = Field(default=20, description="random block subsets that are measured")
    recovery_steps: Annotated[int, Field(ge=0)] = Field(
        default=0, description="measure the subsets again after this many recovery steps; 0 = do not"
    )


class Score(Section):
    """How blocks are ranked."""

    methods: tuple[AnyMethod, ...] = Field(
        default=(
            BlockInfluence(method="block_influence"),
            EmpiricalFisher(method="fisher"),
            Taylor(method="taylor"),
            Ablation(method="ablation"),
        ),
        description="methods to run; []: blocks are not scored, the default where `select` names the blocks to remove",
    )
    fusion: Literal["mean_rank", "z_score", "robust_rank", "learned"] = Field(
        default="mean_rank",
        description="how the methods' scores become one ranking; learned: weights fitted on the loss of cut models",
    )
    batch_size: Positive = Field(default=16, description="calibration rows at once; does not change the scores")
    trust: Trust | None = Field(default=None, description="also measure how reliable the scores are")

    @model_validator(mode="after")
    def _methods_once(self) -> Score:
        names = [m.method for m in self.methods]
        if len(set(names)) != len(names):
            raise ValueError(f"a method is listed twice: {names}")
        if not names:
            if self.trust is not None or self.fusion == "learned":
                raise ValueError("methods is empty, but trust and fusion: learned need scores")
            return self
        if all(m.reads == "scores" for m in self.methods):
            raise ValueError(f"{names[0]} reads the scores of other methods: list one that measures the model too")
        if not any(m.weight > 0 for m in self.methods):
            raise ValueError("every method has weight 0")
        return self


class Target(Section):
    """How small: a ratio and what it is a ratio of. There is no default base."""

    ratio: Ratio = Field(description="how many times smaller, e.g. 2.5x")
    of: RatioBase = Field(description="what the ratio counts")

    def reached(self, ratio: float) -> bool:
        """Whether a ratio is enough. One asked as 2.4 must not fail on 12 / 5 = 2.4000000000000004 or its neighbour."""
        return ratio >= self.ratio - 1e-9


class Strategy(Row):
    """What every strategy obeys. ``weights: random`` gives the cut model its shape only (a baseline).

    ``implementation`` names its `lwc.selection.choice.Chooser`; `Iterated`, which recovers between removals, its own.
    """

    reads_scores: ClassVar[bool] = False
    """Whether the choice goes by the scores of `Score`."""
    strategy: str
    keep_first: Annotated[int, Field(ge=0)] = Field(default=0, description="first blocks that stay")
    keep_last: Annotated[int, Field(ge=0)] = Field(default=0, description="last blocks that stay")
    weights: Literal["kept", "random"] = Field(
        default="kept", description="random: the cut model starts from random weights (a baseline)"
    )

    def ends(self, total: int) -> frozenset[int]:
        """The first and last blocks that must stay, of ``total``."""
        first, last = min(self.keep_first, total), max(0, total - self.keep_last)
        return frozenset([*range(first), *range(last, total)])


class _Spans(Strategy):
    contiguous: bool = Field(default=False, description="remove adjacent blocks only")


class Fused(_Spans):
    """The blocks that the fusion of the scores ranks highest."""

    implementation: ClassVar[str] = "lwc.selection.strategies:fused"
    reads_scores: ClassVar[bool] = True
    strategy: Literal["fused"] = "fused"


class Single(_Spans):
    """The blocks that one of the scored methods ranks highest."""

    implementation: ClassVar[str] = "lwc.selection.strategies:single"
    reads_scores: ClassVar[bool] = True
    strategy: Literal["single"]
    method: str = Field(description="one of score.methods")


class Greedy(Strategy):
    """One block after the other, each time the one whose absence costs least with those already gone."""

    implementation: ClassVar[str] = "lwc.selection.search:greedy"
    strategy: Literal["greedy"]


class Beam(_Spans):
    """Beam search over subsets, by the loss with the others bypassed."""

    implementation: ClassVar[str] = "lwc.selection.search:beam"
    strategy: Literal["beam"]
    width: Positive = Field(default=8, description="subsets that each step keeps")
    rows: Positive = Field(default=128, description="number of calibration rows to measure subsets on")


class Racing(_Spans):
    """Candidates recover for some steps; the better half continues with twice as many, until one is left."""

    implementation: ClassVar[str] = "lwc.selection.racing:racing"
    reads_scores: ClassVar[bool] = True
    strategy: Literal["racing"]
    candidates: Annotated[int, Field(ge=2, le=64)] = Field(default=8, description="most candidates that race")
    steps: Positive = Field(default=50, description="recovery steps of the first round")
    width: Positive = Field(default=8, description="width of the beam search for candidates")
    rows: Positive = Field(default=128, description="calibration rows to measure subsets on")


class Iterated(Strategy):
    """Remove some blocks, recover, look again; for deep cuts. Each round ends with a short recovery."""

    implementation: ClassVar[str] = "lwc.selection.iterated:iterated"
    strategy: Literal["iterated"]
    rounds: Annotated[int, Field(ge=2, le=50)] = Field(default=3, description="rounds of removal and recovery")
    steps: Positive = Field(default=100, description="recovery steps after each round except the last")
    rows: Positive = Field(default=128, description="calibration rows to measure subsets on")


class Drawn(Strategy):
    """Baseline: blocks drawn at random; another ``draw``, another set."""

    implementation: ClassVar[str] = "lwc.selection.strategies:drawn"
    strategy: Literal["random"]
    draw: Annotated[int, Field(ge=0)] = Field(default=0, description="number of the draw")


class DropTop(Strategy):
    """Baseline: the first blocks stay (Sajjad et al. 2023, top dropping; also called first-k)."""

    implementation: ClassVar[str] = "lwc.selection.strategies:drop_top"
    strategy: Literal["drop_top"]


class DropBottom(Strategy):
    """Baseline: the last blocks stay."""

    implementation: ClassVar[str] = "lwc.selection.strategies:drop_bottom"
    strategy: Literal["drop_bottom"]


class DropEven(Strategy):
    """Baseline: evenly spaced blocks stay, the first among them (Fan et al. 2020, LayerDrop)."""

    implementation: ClassVar[str] = "lwc.selection.strategies:drop_even"
    strategy: Literal["drop_even"]


class Named(Strategy):
    """Just these blocks go: ``select: {blocks: [1, 2]}``, numbered from 0 as in the report. Needs no target."""

    implementation: ClassVar[str] = "lwc.selection.strategies:named"
    chosen_by: ClassVar[str] = "blocks"
    strategy: Literal["named"]
    blocks: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1, description="blocks to remove, from 0")

    @model_validator(mode="after")
    def _once(self) -> Named:
        if len(set(self.blocks)) < len(self.blocks):
            raise ValueError(f"blocks {list(self.blocks)} names a block twice")
        return self

    def fault(self, total: int) -> str:
        """Why a model of ``total`` blocks cannot lose these; empty if it can."""
        if max(self.blocks) >= total:
            return f"select.blocks names block {max(self.blocks)}, but the {total} blocks are 0 to {total - 1}"
        if len(self.blocks) == total:
            return f"select.blocks removes all {total} blocks"
        kept = sorted(self.ends(total) & set(self.blocks))
        return f"select.blocks removes block {kept[0]}, which keep_first or keep_last keeps" if kept else ""


STRATEGIES = Table(
    "strategy", Fused, Single, Greedy, Beam, Racing, Iterated, Named, Drawn, DropTop, DropBottom, DropEven,
    default=Fused,
)  # fmt: skip
"""Every way to choose blocks. Baselines are in the same table."""

Select = Annotated[Strategy, STRATEGIES]


class Vocabulary(Section):
    """Trim the vocabulary of the compressed model to the tokens of the train split."""

    trim: bool = Field(default=False, description="remove tokens that the train split does not use")
    min_count: Positive = Field(default=1, description="remove tokens that occur less often than this in train")
