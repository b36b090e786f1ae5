"""Test texts whose answer the compression changed, for people to read; from what evaluation stored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from lwc.data.splits import load_labels, load_split
from lwc.recipe import Recipe
from lwc.report.document import Paragraph, Section, Table

_SHOWN, _LENGTH = 4, 240


class Changed(NamedTuple):
    """A text, its label, and the answers of the base and the compressed model, in words."""

    text: str
    label: str
    base: str
    compressed: str


def changed_answers(recipe: Recipe, stage_dirs: Mapping[str, Path]) -> Section | None:
    """A few texts of each kind of change; of numbers those that moved most. None where a task answers no text.

    The texts are spread over the test split, so that they are no selection of the most striking ones.
    """
    evaluated, data = stage_dirs.get("evaluate"), stage_dirs.get("data")
    if evaluated is None or data is None or recipe.task.kind not in ("classification", "regression"):
        return None
    predictions = evaluated / "predictions.parquet"
    if not predictions.is_file() or not (data / "test.parquet").is_file():
        return None  # a run that was copied without its texts
    found = pq.read_table(predictions).to_pydict()
    base, small, label = (np.asarray(found[name]) for name in ("base", "compressed", "label"))
    texts = load_split(data, "test")
    by_id = dict(zip(texts.ids.tolist(), texts.texts, strict=True))

    def text(row: int) -> str:
        return shorten(by_id[found["id"][row]], _LENGTH, placeholder=" …")

    if recipe.task.kind == "regression":
        order = np.argsort(-np.abs(small - base), kind="stable")[:_SHOWN]
        moved = [Changed(text(row), *(f"{one[row]:.2f}" for one in (label, base, small))) for row in order]
        return Section("Answers that moved most", [_table(moved, "Test texts with the largest difference.")])
    names = load_labels(data)
    kinds = {
        "The base was right, the compressed model is wrong": (base == label) & (small != label),
        "The base was wrong, the compressed model is right": (base != label) & (small == label),
        "Both are wrong, with different answers": (base != label) & (small != label) & (base != small),
    }
    blocks: list[Paragraph | Table] = []
    for title, mask in kinds.items():
        rows = np.flatnonzero(mask)
        if len(rows):
            chosen = rows[np.linspace(0, len(rows) - 1, min(_SHOWN, len(rows))).round().astype(int)]
            shown = [Changed(text(row), *(names[int(one[row])] for one in (label, base, small))) for row in chosen]
            blocks.append(_table(shown, f"{title}: {len(rows)} of {len(label)} texts."))
    if not blocks:
        blocks = [Paragraph("No test text changed its answer.")]
    return Section("Answers that changed", blocks)


def _table(rows: list[Changed], caption: str) -> Table:
    return Table(("text", "label", "base", "compressed"), tuple(tuple(row) for row in rows), caption)
