"""Texts of a split as the padded inputs of a graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lwc.core.arrays import Array
from lwc.data.splits import load_split
from lwc.models.batches import batches, encode
from lwc.models.load import load_tokenizer
from lwc.tasks.text import spread


def padded_inputs(
    data_dir: Path, folder: Path, split: str, max_length: int, rows: int | None, batch_size: int = 16
) -> tuple[list[dict[str, Array]], Array, Array]:
    """``rows`` texts all over a split (None: all) as batches of inputs (B, T) by name; ids and labels (N,)."""
    examples = load_split(data_dir, split)
    chosen = spread(len(examples.texts), rows)
    encoded = encode(load_tokenizer(folder), [examples.texts[row] for row in chosen], max_length)
    groups = batches(encoded, examples.labels[chosen], batch_size, length_bucketed=True, seed=None)
    inputs = [{name: value.numpy() for name, value in one.inputs.items()} for one in groups]
    order = chosen[np.concatenate([one.rows.numpy() for one in groups])]
    return inputs, examples.ids[order], examples.labels[order]
