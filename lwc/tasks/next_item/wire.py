"""The wire of a served recommender: item ids in, the next items out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from lwc.core.arrays import Array
from lwc.core.errors import RecipeError
from lwc.tasks.endpoint import Answer, Question, Sample, Tensor, WireError, agreement, first_answers

K = 10


@dataclass(frozen=True)
class ItemWire:
    """How to ask for the items after a history: as many as the server gives by default, ten where it has them."""

    takes: ClassVar[str] = "item ids to a BYTES input 'history'"
    column: ClassVar[str] = "history"
    like: ClassVar[Mapping[str, Sequence[str]]] = {
        "history": ("history", "histories", "items", "itemids", "sequence", "itemsequence", "session")
    }
    columns: ClassVar[tuple[str, ...]] = (column,)
    outputs: tuple[str, ...] = ("items", "scores", "skipped")

    @property
    def judged(self) -> tuple[str, ...]:
        """See `lwc.tasks.endpoint.Wire`."""
        return ("ndcg_at_10", "matches_offline")

    @classmethod
    def fitting(
        cls, model: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], label_output: str | None
    ) -> ItemWire | None:
        """Told by the names and types of a repository that lwc wrote."""
        kinds = {one.name: one.datatype for one in (*inputs, *outputs)}
        if kinds != {"history": "BYTES", "k": "INT32", "items": "BYTES", "scores": "FP32", "skipped": "INT32"}:
            return None
        if label_output is not None:
            raise RecipeError(f"{model} recommends items and has no label", "leave --label-output out")
        return cls()

    def sample(self, row: Mapping[str, Any], number: int) -> Sample:
        """Columns history and, if known, label (the item that came next) and offline (the offline list)."""
        history, label, offline = row.get("history"), row.get("label"), row.get("offline")
        if isinstance(history, str):
            history = _ids_of(history)
        if not _are_ids(history):
            raise ValueError("history must be a list of item ids, or text with item ids that spaces separate")
        if offline is not None and not _are_ids(offline):
            raise ValueError("offline must be a list of item ids")
        if label is not None and not isinstance(label, str):
            raise ValueError("label must be an item id")
        return Sample(number, history or [], label, offline)

    @classmethod
    def row_of(cls, line: str) -> dict[str, Any]:
        """A line has the ids of one history."""
        return {"history": line}

    def encode(self, question: Question) -> dict[str, Array]:
        """One history; an empty id stands for none."""
        return {"history": np.array([[item.encode("utf-8") for item in question or [""]]], dtype=np.object_)}

    def decode(self, outputs: Mapping[str, Array]) -> dict[str, Any]:
        """The items, best first, and how many of the history were unknown. Empty places at the end are left out."""
        items, scores, skipped = (outputs[name] for name in self.outputs)
        if items.shape != scores.shape or items.ndim != 2 or len(items) != 1 or skipped.size != 1:
            raise WireError(f"items {items.shape}, scores {scores.shape} and skipped {skipped.shape} for one history")
        if not np.isfinite(scores).all():
            raise WireError(f"the scores are not finite: {scores[0, :8].tolist()}")
        try:
            return {"items": [item.decode("utf-8") for item in items[0] if item], "skipped": int(skipped.ravel()[0])}
        except (UnicodeDecodeError, AttributeError) as error:
            raise WireError(f"the items are not UTF-8 strings: {error}") from error

    def judge(self, answers: Sequence[tuple[int, Answer]], samples: Sequence[Sample]) -> dict[str, Any] | None:
        """NDCG@10 beside the offline one over the same users; ``matches_offline``: the same ten items in that order."""
        given = [(index, answer) for index, answer in answers if isinstance(answer, dict)]
        first, figures = first_answers([(index, answer["items"]) for index, answer in given], samples)
        figures["skipped_items"] = sum(answer["skipped"] for _, answer in given)
        offline = {index: (samples[index].offline or [])[:K] for index in first if samples[index].offline is not None}
        labels = [samples[index].label for index in first]
        if any(label is not None for label in labels):
            figures["ndcg_at_10"] = ndcg(list(first.values()), labels)
        if len(offline) == len(first):
            asked = {index: replace(samples[index], offline=known) for index, known in offline.items()}
            figures |= agreement([(asked[index], answer["items"]) for index, answer in given])
            if "ndcg_at_10" in figures:
                figures["offline_ndcg_at_10"] = ndcg([list(offline[index]) for index in first], labels)
                figures["ndcg_difference"] = abs(figures["ndcg_at_10"] - figures["offline_ndcg_at_10"])
        return figures


def _ids_of(text: str) -> Any:
    """Item ids in a text: a JSON list, or separated by white space."""
    if not text.lstrip().startswith("["):
        return text.split()
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"history begins with '[' and is no JSON list: {error}") from error


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def ndcg(lists: Sequence[Sequence[str]], targets: Sequence[str | None]) -> float:
    """Mean NDCG@10 of lists against one target each: 1 / log₂(1 + place), 0 where it is not among the first ten."""
    gains = [
        1 / np.log2(2 + given.index(target)) if target is not None and target in given else 0.0
        for given, target in zip((list(one)[:K] for one in lists), targets, strict=True)
    ]
    return float(np.mean(gains))
