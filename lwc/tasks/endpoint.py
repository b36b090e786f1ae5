"""How a task is served: its Triton repository, the samples that prove it, and its wire format. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from lwc.core.arrays import Array

Question = str | list[str] | dict[str, str]
"""What one request asks about: a text, a text with its title by input, or the item ids of a history."""
Answer = str | dict[str, Any] | None
"""What came back, as JSON; None from a model whose answers are not judged."""


MOST_SHOWN = 5
"""Answers that differ from offline, of which a report shows so many."""


class WireError(ValueError):
    """An answer that is not one."""


@dataclass(frozen=True)
class Sample:
    """A question with its true label and the offline answer, None where they are not known."""

    id: int
    question: Question
    label: str | None
    offline: str | list[str] | None


@dataclass(frozen=True)
class Tensor:
    """An input or output: Triton's datatype, and the shape with -1 for any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Wire(Protocol):
    """How a kind of served model is asked, read and judged. A frozen dataclass whose fields are JSON.

    The load generator imports it, so its module must stay light.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    takes: ClassVar[str]
    """What such a model takes, in words for an error message."""
    column: ClassVar[str]
    """Column of a samples file with the questions."""
    like: ClassVar[Mapping[str, Sequence[str]]]
    """Names that this column and others usually have in people's files, lower case without separators."""

    @property
    def columns(self) -> Sequence[str]:
        """Columns that a question is made of: `column`, and those that a file may lack."""

    @property
    def outputs(self) -> Sequence[str]:
        """Names of the outputs to ask for."""

    @property
    def judged(self) -> Sequence[str]:
        """Figures of `judge` that a threshold may name; empty where answers are not judged."""

    @classmethod
    def fitting(
        cls, model: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], label_output: str | None
    ) -> Self | None:
        """The wire of a served model by its description; None if it is a model of another kind.

        Raises:
            RecipeError: it has no output ``label_output``.
        """

    def sample(self, row: Mapping[str, Any], number: int) -> Sample:
        """Row ``number`` of a samples file.

        Raises:
            ValueError: it cannot be sent, or its labels cannot be compared.
        """

    @classmethod
    def row_of(cls, line: str) -> Mapping[str, Any]:
        """A line of a plain text file as a row for `sample`."""

    def encode(self, question: Question) -> dict[str, Array]:
        """The inputs of a request for one question; strings as bytes."""

    def decode(self, outputs: Mapping[str, Array]) -> Answer:
        """Read the outputs of a response to one question.

        Raises:
            WireError: they are not an answer.
        """

    def judge(self, answers: Sequence[tuple[int, Answer]], samples: Sequence[Sample]) -> dict[str, Any] | None:
        """Quality of all answers (index of the sample, answer) against labels and offline answers; None if unknown.

        Quality is over distinct questions, each by its first answer; ``matches_offline`` is over *all* answers, so that
        a later wrong answer still shows; ``inconsistent_texts`` counts questions that got different answers.
        """


def first_answers(
    answers: Sequence[tuple[int, Answer]], samples: Sequence[Sample]
) -> tuple[dict[int, Any], dict[str, Any]]:
    """The first answer to each sample by index, and the figures of `Wire.judge` that count answers."""
    first: dict[int, Answer] = {}
    changed = {index for index, answer in answers if first.setdefault(index, answer) != answer}
    counts = {
        "n": len(first),
        "texts": len(samples),
        "covered_all": len(first) == len(samples),
        "answers": len(answers),
        "inconsistent_texts": len(changed),
    }
    return first, counts


def agreement(pairs: Sequence[tuple[Sample, Question]]) -> dict[str, Any]:
    """``matches_offline``, the share of answers that equal the offline one, and the first ``different`` ones.

    Args:
        pairs: every answer with its sample, in the form of the sample's offline answer.
    """
    wrong = {one.id: (one.offline, answer) for one, answer in reversed(pairs) if one.offline != answer}
    different = [{"id": number, "offline": wrong[number][0], "served": wrong[number][1]} for number in sorted(wrong)]
    same = sum(one.offline == answer for one, answer in pairs)
    return {"matches_offline": same / len(pairs), "different": different[:MOST_SHOWN]}


@dataclass(frozen=True)
class Exported:
    """An exported graph: its file, the names of its inputs, the dimensions of its outputs (−1: any size).

    ``shortest`` is the least number of tokens that it takes.
    """

    path: Path
    inputs: tuple[str, ...]
    outputs: Mapping[str, tuple[int, ...]]
    shortest: int = 1


@dataclass(frozen=True)
class Front:
    """The Python-backend model that clients call, in front of the exported graph.

    Args:
        graph: name of the model that runs the graph.
        script: the backend's ``model.py``.
        inputs, outputs: tensors as fields of Triton's ``ModelInput`` and ``ModelOutput``.
        parameters: what the script is told in its configuration.
        graph_parameters: the same for the graph's model, for readers.
        files: what is copied into the version folder, by name.
        labels, graph_labels: lines of ``labels.txt`` of the front and of the graph, None without one.
        max_length: tokens of the longest input to the graph.
        warm_up_length: tokens of the input that warms the graph up.
        row: number of tokens → one row of each input of the graph.
        described: further entries of ``package.json``.
        example: a question as JSON for Triton's ``/generate``, which people and programs may send to try the model.
        about: what people should know who write a request, one paragraph each, for the repository's README.
    """

    graph: str
    script: Path
    inputs: Sequence[Mapping[str, Any]]
    outputs: Sequence[Mapping[str, Any]]
    parameters: Mapping[str, str]
    files: Mapping[str, Path]
    max_length: int
    warm_up_length: int
    row: Callable[[int], dict[str, list[int]]]
    described: Mapping[str, Any]
    example: Mapping[str, Any]
    about: Sequence[str] = ()
    labels: Sequence[str] | None = None
    graph_labels: Sequence[str] | None = None
    graph_parameters: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Proof:
    """What a packaged model is asked before it is published, and how."""

    samples: list[Sample]
    wire: Wire


class Endpoint(Protocol):
    """What packaging and verification ask of a task."""

    def front(self, model_dir: Path, graph: Exported, name: str, fields: Sequence[str]) -> Front:
        """What stands in front of ``graph``, which was exported from the checkpoint in ``model_dir``, as ``name``.

        ``fields`` are the text fields that the model was trained on, in the order in which they were joined; empty
        where that is not known.

        Raises:
            ModelError: they do not belong together, or the checkpoint lacks what serving needs.
        """

    def proof(self, data_dir: Path, evaluation_dir: Path, reduced: Path | None = None) -> Proof:
        """The test split with the compressed model's offline answers.

        ``reduced`` are the answers (id, compressed) of an int8 graph that is served instead.

        Raises:
            DataError: the two folders do not describe the same rows.
        """
