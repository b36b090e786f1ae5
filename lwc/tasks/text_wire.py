"""The wire of a model that takes one text, with a title or without, and answers with a label."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lwc.core.arrays import Array
from lwc.core.errors import RecipeError
from lwc.core.spelling import likeness, plain
from lwc.metrics.classification import accuracy, confusion_matrix, macro_f1
from lwc.tasks.endpoint import Answer, Question, Sample, Tensor, WireError, agreement, first_answers

TEXT, TITLE = "text", "title"
LABEL, SCORES = "label", "scores"


def as_answered(labels: Iterable[str], answers: Collection[str]) -> dict[str, str]:
    """Each label as the model spells it: users write POSITIVE and positive for one class."""
    alike: dict[str, list[str]] = {}
    for answer in answers:
        alike.setdefault(likeness(answer), []).append(answer)
    found = {}
    for label in set(labels):
        near = [] if label in answers else alike.get(likeness(label), [])
        found[label] = near[0] if len(near) == 1 else label
    return found


@dataclass(frozen=True)
class TextWire:
    """How to ask a model about one text: lwc's own, or any other with one BYTES input.

    ``input`` takes the text and ``title``, where the model has such an input, its title. ``shape`` is that of the one
    BYTES element of each. ``label`` names the output with the answer's label and
    ``scores`` that with the scores of all classes; None where the model has none. Without a label answers are not
    judged. Where ``names``, the labels in the order of their ids, are known, other ones are errors.
    """

    takes: ClassVar[str] = "one text to one BYTES input"
    column: ClassVar[str] = TEXT
    like: ClassVar[Mapping[str, Sequence[str]]] = {
        TEXT: (
            "text", "texts", "body", "content", "review", "reviewtext", "reviewbody", "reviewcontent", "comment",
            "message", "sentence", "document", "description", "feedback", "post", "tweet", "utterance", "input",
        ),
        TITLE: ("title", "headline", "summary", "subject", "reviewtitle", "reviewheadline", "reviewsummary"),
    }  # fmt: skip
    input: str = TEXT
    shape: tuple[int, ...] = (1, 1)
    outputs: tuple[str, ...] = (LABEL, SCORES)
    label: str | None = LABEL
    scores: str | None = SCORES
    names: tuple[str, ...] | None = None
    title: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """See `lwc.tasks.endpoint.Wire`."""
        return (TEXT,) if self.title is None else (TEXT, TITLE)

    @property
    def judged(self) -> tuple[str, ...]:
        """See `lwc.tasks.endpoint.Wire`."""
        return () if self.label is None else ("accuracy", "matches_offline")

    @classmethod
    def fitting(
        cls, model: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], label_output: str | None
    ) -> TextWire | None:
        """By default the label is the output ``label``, where there is one."""
        shapes = {tuple(abs(size) if size == -1 else size for size in one.shape) for one in inputs}
        shape, named = min(shapes, default=()), {one.name for one in inputs}
        if any(one.datatype != "BYTES" for one in inputs) or len(shapes) != 1 or not shape or math.prod(shape) != 1:
            return None
        title = TITLE if named == {TEXT, TITLE} else None
        if title is None and len(inputs) != 1:
            return None
        kinds = {one.name: one.datatype for one in outputs}
        wanted = label_output or LABEL
        label = wanted if kinds.get(wanted) == "BYTES" else None
        if label_output is not None and label is None:
            raise RecipeError(
                f"{model} has no BYTES output {label_output!r}; it has"
                f" {', '.join(f'{name} {kind}' for name, kind in kinds.items())}",
                "name the output with the label, or omit --label-output to measure only latency and errors",
            )
        scores = SCORES if label is not None and kinds.get(SCORES) == "FP32" else None
        names = tuple(kinds) if label is None else tuple(name for name in (label, scores) if name is not None)
        return cls(TEXT if title else inputs[0].name, shape, names, label, scores, title=title)

    def sample(self, row: Mapping[str, Any], number: int) -> Sample:
        """Columns id and text and, if known, title, label (a name) and offline."""
        text, label, offline = row.get(TEXT), row.get("label"), row.get("offline")
        title = row.get(TITLE) if self.title else None
        if self.label is None:
            label, offline, row = None, None, {"id": number}
        if not isinstance(text, str):
            raise ValueError("the text must be a string")
        if title is not None and not isinstance(title, str):
            raise ValueError("the title must be a string")
        if label is not None and not isinstance(label, str):
            raise ValueError("the label must be a string: labels are compared by name, not by id")
        if offline is not None and not isinstance(offline, str):
            raise ValueError("offline must be a label's name")
        try:
            f"{title}{text}".encode()
            identity = int(row.get("id", number))
        except UnicodeEncodeError as error:
            raise ValueError("the text has a lone surrogate and cannot be sent as UTF-8") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"id {row.get('id')!r} is not a whole number") from error
        names = [None if name is None else plain(name) for name in (label, offline)]
        return Sample(identity, text if title is None else {TITLE: title, TEXT: text}, *names)

    @classmethod
    def row_of(cls, line: str) -> dict[str, Any]:
        """A line is a text."""
        return {TEXT: line}

    def encode(self, question: Question) -> dict[str, Array]:
        """One BYTES element for each input.

        Raises:
            ValueError: a title for a model that takes none.
        """
        parts = question if isinstance(question, dict) else {TEXT: str(question)}
        if self.title is None and TITLE in parts:
            raise ValueError(f"a title for a model that takes only {self.input}")
        names = {TEXT: self.input, TITLE: str(self.title)}
        return {
            names[part]: np.array([value.encode("utf-8")], dtype=np.object_).reshape(self.shape)
            for part, value in parts.items()
        }

    def decode(self, outputs: Mapping[str, Array]) -> str | None:
        """The label's name; None of a model without labels. A score that is not finite is an error, not an answer."""
        if self.label is None:
            return None
        labels = outputs[self.label].ravel()
        if len(labels) != 1 or not isinstance(labels[0], bytes):
            raise WireError(f"{len(labels)} labels of type {labels.dtype} came back for one text")
        try:
            label = labels[0].decode("utf-8")
        except UnicodeDecodeError as error:
            raise WireError(f"the label is not UTF-8: {error.reason}") from error
        if self.scores is not None:
            scores = outputs[self.scores].ravel()
            if self.names is not None and len(scores) != len(self.names):
                raise WireError(f"{len(scores)} scores came back for {len(self.names)} classes")
            if not len(scores) or not np.isfinite(scores).all():
                raise WireError(f"the scores are not finite: {scores[:8].tolist()}")
        if self.names is not None and label not in self.names:
            raise WireError(f"the label {label!r} is none of {sorted(self.names)}")
        return plain(label)

    def judge(self, answers: Sequence[tuple[int, Answer]], samples: Sequence[Sample]) -> dict[str, Any] | None:
        """Accuracy, macro-F1 and the confusion matrix (rows: true, columns: served), beside the offline accuracy.

        Samples without labels are judged by their offline answers, where every one that was answered has one.
        """
        if self.label is None:
            return None
        first, counts = first_answers(answers, samples)
        judged = all(samples[index].offline is not None for index in first)
        if samples[0].label is None:
            return (
                {**counts, **agreement([(samples[index], str(answer)) for index, answer in answers])}
                if judged
                else None
            )
        spelled = as_answered([str(s.label) for s in samples], {*(self.names or ()), *first.values()})
        known = set(spelled.values()) | {str(s.offline) for s in samples if s.offline} | set(first.values())
        names = [*(self.names or ()), *sorted(known - set(self.names or ()))]
        ids = {name: number for number, name in enumerate(names)}
        true = [ids[spelled[str(samples[index].label)]] for index in first]
        given = [ids[label] for label in first.values()]
        figures: dict[str, Any] = {
            "accuracy": accuracy(true, given),
            "macro_f1": macro_f1(true, given),
            **counts,
            "label_names": names,
            "confusion": confusion_matrix(true, given, len(names)).tolist(),
        }
        if judged:
            figures["offline_accuracy"] = accuracy(true, [ids[str(samples[index].offline)] for index in first])
            figures["accuracy_difference"] = abs(figures["accuracy"] - figures["offline_accuracy"])
            figures |= agreement([(samples[index], str(answer)) for index, answer in answers])
        return figures
