"""The calibration set drawn again: with replacement, or a part of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lwc.core.arrays import Array
from lwc.models.batches import Batch
from lwc.models.forward.pieces import labels_of
from lwc.models.losses import IGNORED


class Rows:
    """The rows of some batches one by one, to make other batches of. Without ``pad_id``, padding has id 0."""

    def __init__(self, batches: Sequence[Batch], pad_id: int | None) -> None:
        self._pad_id = pad_id or 0
        self._size = max(len(batch) for batch in batches)
        self._rows: list[Batch] = []
        for batch in batches:
            for row in range(len(batch)):
                length = int(batch.mask[row].nonzero().max()) + 1
                inputs = {name: value[row : row + 1, :length] for name, value in batch.inputs.items()}
                texts = None if batch.texts is None else batch.texts[row : row + 1]
                labels = labels_of(batch, slice(row, row + 1), length)
                self._rows.append(Batch(inputs, labels, batch.rows[row : row + 1], texts))
        # By position in the data: the draw does not depend on how the rows were batched.
        self._rows.sort(key=lambda row: int(row.rows))
        # Rows whose tokens are their own labels are of one kind.
        self.labels: Array = np.array([float(row.labels) if row.labels.ndim == 1 else 0.0 for row in self._rows])

    def take(self, chosen: Sequence[int]) -> list[Batch]:
        """These rows, repeats included, in batches of about equal length."""
        rows = sorted((self._rows[index] for index in chosen), key=lambda row: int(row.mask.shape[1]))
        return [self._joined(rows[start : start + self._size]) for start in range(0, len(rows), self._size)]

    def _joined(self, rows: Sequence[Batch]) -> Batch:
        def filled(parts: Sequence[Tensor], fill: int) -> Tensor:
            return pad_sequence([part[0] for part in parts], True, fill)

        inputs = {
            name: filled([row.inputs[name] for row in rows], self._pad_id if name == "input_ids" else 0)
            for name in rows[0].inputs
        }
        labels, texts = [row.labels for row in rows], [text for row in rows for text in row.texts or ()]
        return Batch(
            inputs,
            torch.cat(labels) if labels[0].ndim == 1 else filled(labels, IGNORED),
            torch.cat([row.rows for row in rows]),
            tuple(texts) if len(texts) == len(rows) else None,
        )

    def of_all_lengths(self, count: int) -> list[Batch]:
        """So many rows, evenly from the shortest to the longest."""
        order = np.argsort([row.mask.shape[1] for row in self._rows], kind="stable")
        places = ((np.arange(count) + 0.5) * len(order) / count).astype(np.int64)
        return self.take([int(index) for index in order[places]])

    def bootstrap(self, seed: int) -> list[Batch]:
        """As many rows of each class as there are, drawn with replacement: a draw never lacks a class."""
        return self._drawn(seed, 1.0, replace=True)

    def part(self, seed: int) -> list[Batch]:
        """A random half of the rows of each class, at least one, without replacement."""
        return self._drawn(seed, 0.5, replace=False)

    def _drawn(self, seed: int, share: float, replace: bool) -> list[Batch]:
        random = np.random.default_rng(seed)
        chosen: list[int] = []
        for label in np.unique(self.labels):
            members = np.flatnonzero(self.labels == label)
            count = max(1, round(share * len(members)))
            chosen += [int(index) for index in random.choice(members, count, replace=replace)]
        return self.take(chosen)
