"""Test texts whose answer the compression changed, for people to read; from what evaluation stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from lwc.core.arrays import Array
from lwc.data.splits import load_labels, load_split
from lwc.report.document import Paragraph, Section, Table

_SHOWN, _LENGTH = 4, 240
Names = Sequence[str]


@dataclass(frozen=True)
class Answers:
    """Test texts in the order of their predictions, their labels, and the answers of base and compressed model.

    Answers and labels are ids of a class or number, or the names of tokens. ``shown`` gives a text, short enough.
    """

    label: Array
    base: Array
    compressed: Array
    shown: Callable[[int], str]

    def rows(self, mask: Array) -> list[int]:
        """A few of these rows, spread over the split, so that they are no selection of the most striking ones."""
        found = np.flatnonzero(mask)
        return [int(row) for row in found[np.linspace(0, len(found) - 1, min(_SHOWN, len(found))).round().astype(int)]]


def changed_answers(task: str, stage_dirs: Mapping[str, Path]) -> Section | None:
    """A few texts of each kind of change. None of a task that answers no text, or whose texts are not there."""
    evaluated, data = stage_dirs.get("evaluate"), stage_dirs.get("data")
    show = _WAYS.get(task)
    if evaluated is None or data is None or show is None:
        return None
    predictions = evaluated / "predictions.parquet"
    if not predictions.is_file() or not (data / "test.parquet").is_file():
        return None  # a run that was copied without its texts
    found = pq.read_table(predictions).to_pydict()
    texts = load_split(data, "test")
    by_id = dict(zip(texts.ids.tolist(), texts.texts, strict=True))

    def shown(row: int) -> str:
        text = " ".join(by_id[found["id"][row]].split())
        if len(text) <= _LENGTH:
            return text
        # What a language model answers follows the end of the text.
        return f"… {text[2 - _LENGTH :]}" if task == "causal_lm" else f"{text[: _LENGTH - 2]} …"

    label, base, compressed = (np.asarray(found[name]) for name in ("label", "base", "compressed"))
    said = Paragraph("Answers of the fp32 models on the test split.", "quiet")
    return Section("Answers that changed", [*show(Answers(label, base, compressed, shown), load_labels(data)), said])


def _classes(answers: Answers, names: Names) -> list[Paragraph | Table]:
    label, base, small = answers.label, answers.base, answers.compressed
    kinds = {
        "The base was right, the compressed model is wrong": (base == label) & (small != label),
        "The base was wrong, the compressed model is right": (base != label) & (small == label),
        "Both are wrong, with different answers": (base != label) & (small != label) & (base != small),
    }
    tables: list[Paragraph | Table] = []
    for title, mask in kinds.items():
        rows = [
            (answers.shown(row), *(names[int(one[row])] for one in (label, base, small))) for row in answers.rows(mask)
        ]
        if rows:
            caption = f"{title}: {int(mask.sum()):,} of {len(label):,} texts."
            tables.append(Table(("text", "label", "base", "compressed"), tuple(rows), caption, stacked=True))
    return tables or [Paragraph("No test text changed its answer.")]


def _numbers(answers: Answers, names: Names) -> list[Paragraph | Table]:
    """Those that moved most; evaluation stores the label that is nearest to each answer."""
    values = np.array([float(name) for name in names])
    label, base, small = (values[one.astype(int)] for one in (answers.label, answers.base, answers.compressed))
    moved = np.abs(small - base)
    order = [int(row) for row in np.argsort(-moved, kind="stable")[:_SHOWN] if moved[row] > 0]
    if not order:
        return [Paragraph("No test text changed its nearest number.")]
    rows = [(answers.shown(row), *(f"{one[row]:g}" for one in (label, base, small))) for row in order]
    caption = (
        f"{int((moved > 0).sum()):,} of {len(label):,} texts changed their nearest number. The largest differences:"
    )
    return [Table(("text", "label", "base", "compressed"), tuple(rows), caption, stacked=True)]


def _tokens(answers: Answers, names: Names) -> list[Paragraph | Table]:
    changed = answers.base != answers.compressed
    rows = [(answers.shown(row), str(answers.base[row]), str(answers.compressed[row])) for row in answers.rows(changed)]
    if not rows:
        return [Paragraph("No test text changed its most likely next token.")]
    caption = f"{int(changed.sum()):,} of {len(changed):,} texts changed the most likely token after their end."
    return [Table(("text", "base", "compressed"), tuple(rows), caption, stacked=True)]


# Of a recommender, evaluation stores the lists of the compressed model only.
_WAYS = {"classification": _classes, "regression": _numbers, "causal_lm": _tokens}
