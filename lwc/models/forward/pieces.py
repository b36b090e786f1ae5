"""Batches in pieces of rows of about equal length that fit a processor's cache."""

from __future__ import annotations

import torch
from torch import Tensor

from lwc.models.batches import Batch

# Numbers in the largest activation of a piece: 2 MiB in float32. Smaller pieces cost more in calls than they save.
_CACHED = 1 << 19


def pieces_of(batch: Batch, width: int) -> list[Tensor]:
    """Places of the batch's rows in pieces of about equal length, each small enough for a processor's cache.

    An accelerator takes the batch as it is. On a CPU, activations (B, T, 4 width) of several megabytes cost more time
    in fresh memory than in arithmetic: 1.5 times as much for 16 × 64 tokens of width 384.
    """
    if batch.labels.device.type != "cpu":
        return [torch.arange(len(batch), device=batch.labels.device)]
    lengths = _lengths(batch)
    pieces: list[list[int]] = []
    for row in torch.argsort(lengths, stable=True).tolist():
        # Rows come by length: this one is the longest so far.
        if pieces and (len(pieces[-1]) + 1) * int(lengths[row]) * 4 * width <= _CACHED:
            pieces[-1].append(row)
        else:
            pieces.append([row])
    return [torch.tensor(piece) for piece in pieces]


def _lengths(batch: Batch) -> Tensor:
    """(B,) the place after the last real token of each row."""
    places = torch.arange(1, batch.mask.shape[1] + 1, device=batch.mask.device)
    return (batch.mask.bool() * places).amax(dim=1)


def part_of(batch: Batch, rows: Tensor) -> Batch:
    """These rows, without the padding that none of them needs."""
    length = int(_lengths(batch)[rows].max())
    inputs = {name: value[rows, :length] for name, value in batch.inputs.items()}
    return Batch(inputs, labels_of(batch, rows, length), batch.rows[rows.to(batch.rows.device)])


def labels_of(batch: Batch, rows: Tensor | slice, length: int) -> Tensor:
    """Labels of these rows; those of tokens (B, T) are cut with the tokens."""
    labels = batch.labels[rows]
    return labels if labels.ndim == 1 else labels[:, :length]
