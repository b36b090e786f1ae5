"""What the line asks of a task. Everything generic speaks to `Task` and never asks which one it is.

A task is one object; its settings in `lwc.recipe.TASKS` name it by import path.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, cast

from torch import Tensor, nn
from typing_extensions import TypeVar

from lwc.core.arrays import Array
from lwc.core.progress import Say as Say
from lwc.models.batches import Batch, Encoded, batches
from lwc.models.types import Model, Output, Tokenizer
from lwc.recipe import Recipe
from lwc.tasks.endpoint import Endpoint

VALIDATION_BATCH = 64

Judge = Callable[[Model], dict[str, float]]
"""Model → figures on the validation split: the one to show first, and ``score``, which is better when higher."""
Measure = Callable[[], dict[str, Any]]
"""Gives quality, retention and floors for ``evaluation.json``, and writes ``predictions.parquet``."""
MODELS = ("base", "unrecovered", "compressed")
"""The models that the test split is put to."""


class Reader(Protocol):
    """Turns what users send into ids: a tokenizer, or a catalogue of items. Only its own task looks inside."""

    def __len__(self) -> int:
        """How many different ids there are."""


R = TypeVar("R", bound=Reader, default=Reader)


class Checkpoint(NamedTuple, Generic[R]):
    """A model and its reader."""

    model: Model
    reader: R


def tokenizer_of(checkpoint: Checkpoint) -> Tokenizer:
    """The reader of a task on texts: only these have settings such as ``vocabulary.trim``, the recipe sees to it."""
    return cast(Tokenizer, checkpoint.reader)


@dataclass(frozen=True)
class Rows:
    """Token rows and what is learnt from them: class ids (N,), numbers (N,), or None where tokens are the labels.

    ``epoch`` gives other rows for each epoch of training, for example augmented ones.
    """

    encoded: Encoded
    labels: Array | None
    epoch: Callable[[int], Encoded] | None = None

    def __len__(self) -> int:
        return len(self.encoded)

    def of_epoch(self, number: int) -> Rows:
        """The rows of an epoch of training."""
        return self if self.epoch is None else Rows(self.epoch(number), self.labels)

    def in_batches(self, size: int) -> list[Batch]:
        """Batches in a fixed order, rows of about equal length together."""
        return batches(self.encoded, self.labels, size, length_bucketed=True, seed=None)


def validation_batches(recipe: Recipe, rows: Rows) -> list[Batch]:
    """Validation rows in batches that fit: a language model's logits are as many as the vocabulary for each token."""
    return rows.in_batches(recipe.train.batch_size if rows.labels is None else VALIDATION_BATCH)


@dataclass(frozen=True)
class Evaluation:
    """The one reading of the test split: folders of the checkpoints by name (`MODELS`), and where the results go.

    ``answers`` is where the base's answers are kept for other cuts of it.
    """

    recipe: Recipe
    data_dir: Path
    folders: Mapping[str, Path]
    out: Path
    say: Say
    answers: Path | None = None


@dataclass(frozen=True)
class Graph:
    """What is exported of a checkpoint, and how to tell that two runtimes agree on it.

    Args:
        name: what errors call the model.
        module: takes the inputs of ``sample`` in their order and returns a tensor for each of ``outputs``.
        sample: inputs (B, T) of two rows of unequal length, for tracing.
        outputs: names; the first output is compared number by number.
        axes: name of the second axis of each input; the first is always the batch.
        cases: generated inputs, each with its description in ``export.json``.
        rows: inputs of real test rows, on which answers are compared.
        answers: all outputs of some rows → what the endpoint would answer, (N,) or (N, K).
        notes: what ``export.json`` says of the graph besides.
    """

    name: str
    module: nn.Module
    sample: Mapping[str, Tensor]
    outputs: Sequence[str]
    axes: Mapping[str, str]
    cases: Sequence[tuple[dict[str, Any], dict[str, Array]]]
    rows: Sequence[dict[str, Array]]
    answers: Callable[[Sequence[Array]], Array]
    notes: Mapping[str, Any] = field(default_factory=dict)


class Task(Protocol[R]):
    """Data, rows, loss, judge, quality, graph and endpoint of one kind of model."""

    endpoint: Endpoint

    def prepare(self, recipe: Recipe, out: Path, scratch: Path, say: Say) -> dict[str, Any]:
        """Read the source and write the splits into ``out``; returns the content of ``quality.json``."""

    def check(self, recipe: Recipe, data_dir: Path, stages: Collection[str]) -> None:
        """Raise where one of these later stages cannot use the data."""

    def start(self, recipe: Recipe, data_dir: Path, warn: Say) -> Checkpoint[R]:
        """The base before it is trained; what its user should know about the checkpoint goes to ``warn``.

        Raises:
            ModelError: the recipe's checkpoint cannot be used.
        """

    def trained(self, recipe: Recipe, base: Checkpoint[R], rows: Rows, data_dir: Path) -> dict[str, Any]:
        """Finish the base after its training, in place; returns what ``metrics.json`` adds about the rows."""

    def load(self, folder: Path) -> Checkpoint[R]:
        """A checkpoint in float32 and eval mode."""

    def save(self, checkpoint: Checkpoint[R], folder: Path) -> None:
        """Write an ordinary checkpoint, which loads without lwc."""

    def rows(self, recipe: Recipe, reader: R, data_dir: Path, split: str) -> Rows:
        """Rows of a split (``train``, ``validation``, ``calibration``)."""

    def recovery_rows(self, recipe: Recipe, teacher: Checkpoint[R], data_dir: Path, say: Say) -> Rows:
        """What the uncut ``teacher`` teaches a cut model on: the train rows, and whatever more the recipe names."""

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """What a model in training reads of a batch."""

    def logits(self, model: Model, output: Output, reader: R) -> Tensor:
        """The logits of `inputs` that recovery compares: (B, C), (B, T, V), or (M, V) of the M real positions."""

    def loss(self, recipe: Recipe, reader: R, model: Model, output: Output, batch: Batch) -> Tensor:
        """Loss on the labels, a scalar: the mean over the batch's rows. A ratio of sums needs `distributed.by_rows`."""

    def judge(self, recipe: Recipe, reader: R, data_dir: Path, teacher: Model | None = None) -> Judge:
        """How a model in training is judged on the validation split; with a teacher, by its closeness to it."""

    def ask(self, evaluation: Evaluation) -> Measure:
        """Put the test split to every model, which several processes share; returns how the main one measures that."""

    def graph(self, recipe: Recipe, checkpoint: Checkpoint[R], data_dir: Path) -> Graph:
        """What is exported of a checkpoint."""


def task_of(recipe: Recipe) -> Task:
    """The task that a recipe names."""
    task: Task = recipe.task.load()
    return task
