"""What the line asks of a task. Everything generic speaks to `Task` and never asks which one it is.

A task is one object; `lwc.recipe.TASKS` has its settings, which name it by import path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from lwc.core.arrays import Array
from lwc.models.batches import Batch, Encoded, batches
from lwc.recipe import Recipe
from lwc.tasks.endpoint import Endpoint

Say = Callable[[str], None]
Judge = Callable[[Any], dict[str, float]]
"""Model → figures on the validation split: the one to show first, and ``score``, which is better when higher."""
LossFunction = Callable[[Any, Batch], Tensor]
"""``(model, batch) → scalar loss``, mean over the batch's rows. A ratio of sums needs `distributed.by_rows`."""


@dataclass(frozen=True)
class Checkpoint:
    """A model and its ``reader``, which turns what users send into ids: a tokenizer, or a catalogue of items."""

    model: Any
    reader: Any


@dataclass(frozen=True)
class Rows:
    """Token rows and what is learnt from them: class ids (N,), numbers (N,), or None where tokens are the labels."""

    encoded: Encoded
    labels: Array | None

    def in_batches(self, size: int) -> list[Batch]:
        """Batches in a fixed order, rows of about equal length together."""
        return batches(self.encoded, self.labels, size, length_bucketed=True, seed=None)


@dataclass(frozen=True)
class Graph:
    """What is exported: a module with positional inputs, by name, and how to tell that two runtimes agree.

    Args:
        module: inputs in the order of ``sample`` in, a tensor for each of ``outputs`` out.
        sample: inputs of two rows of unequal length, for tracing.
        outputs: names; the first is compared number by number.
        dynamic: for every input and output, which axes vary and what they are called.
        cases: synthetic inputs to compare, each with what describes it in ``export.json``.
        rows: real test rows, padded, to compare answers on.
        answers: outputs (N, …) of a runtime → (N, K), what the endpoint would answer.
    """

    module: nn.Module
    sample: Mapping[str, Tensor]
    outputs: Sequence[str]
    dynamic: Mapping[str, Mapping[int, str]]
    cases: Sequence[tuple[dict[str, Any], dict[str, Array]]]
    rows: Sequence[dict[str, Array]]
    answers: Callable[[Sequence[Array]], Array]


@dataclass(frozen=True)
class Evaluation:
    """The one reading of the test split: folders of the base, the unrecovered and the compressed checkpoint.

    ``answers`` is where the base's answers are kept for other cuts of it.
    """

    recipe: Recipe
    data_dir: Path
    folders: Mapping[str, Path]
    out: Path
    say: Say
    answers: Path | None = None


class Task(Protocol):
    """Rows, loss, judge, quality, graph and endpoint of one kind of model."""

    endpoint: Endpoint

    def prepare(self, recipe: Recipe, out: Path, scratch: Path, say: Say) -> dict[str, Any]:
        """Read the source and write the splits into ``out``; returns ``quality.json``."""

    def start(self, recipe: Recipe, data_dir: Path) -> Checkpoint:
        """The base before it is trained."""

    def load(self, folder: Path) -> Checkpoint:
        """A checkpoint of this task, float32, eval mode."""

    def save(self, checkpoint: Checkpoint, folder: Path) -> None:
        """An ordinary checkpoint that loads without lwc."""

    def rows(self, recipe: Recipe, reader: Any, data_dir: Path, split: str) -> Rows:
        """Rows of ``train``, ``validation`` or ``calibration``."""

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """What a model in training reads of a batch; its ``.logits`` are then what recovery compares."""

    def loss(self, recipe: Recipe, reader: Any) -> LossFunction:
        """What the base learns from."""

    def judge(self, recipe: Recipe, reader: Any, data_dir: Path, teacher: Any | None = None) -> Judge:
        """How a model in training is judged on the validation split; with a teacher, by its closeness to it."""

    def ask(self, evaluation: Evaluation) -> Any:
        """Every model's answers to the test split, for `measure`. Several processes share the work."""

    def measure(self, evaluation: Evaluation, answers: Any) -> dict[str, Any]:
        """Quality, retention and floors of ``evaluation.json``; writes ``predictions.parquet``."""

    def graph(self, recipe: Recipe, checkpoint: Checkpoint, data_dir: Path) -> Graph:
        """What is exported of a checkpoint."""
