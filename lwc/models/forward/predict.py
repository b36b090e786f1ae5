"""Answers of a model over batches: logits in the rows' own order, and the mean loss and accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lwc.core import distributed
from lwc.core.arrays import Array
from lwc.models.batches import Batch
from lwc.models.forward.prefix import outcome
from lwc.models.placement import device_of
from lwc.models.types import Model


@torch.inference_mode()
def predict(model: Model, groups: Sequence[Batch]) -> Array:
    """Logits (N, C) in float32, in the rows' own order, whatever order the batches come in.

    Where several processes work together, each takes its share of the batches, and all get all logits.
    """
    if not groups:
        raise ValueError("no batches to predict")
    was_training = model.training
    model.eval()
    device = device_of(model)

    def answer(batch: Batch) -> Array:
        return np.asarray(model(**batch.to(device).inputs).logits.float().cpu().numpy())

    stacked = np.concatenate(distributed.spread(groups, answer))
    model.train(was_training)
    logits: Array = np.empty_like(stacked)
    logits[np.concatenate([batch.rows.numpy() for batch in groups])] = stacked
    return logits


@torch.inference_mode()
def loss_and_accuracy(model: Model, batches: Sequence[Batch]) -> tuple[float, float]:
    """Mean loss (`example_loss`) and accuracy over all rows of the batches."""
    loss, correct, count = 0.0, 0.0, 0
    device = device_of(model)
    found = distributed.spread(batches, lambda batch: outcome(model, batch.to(device)))
    for batch, (more, right) in zip(batches, found, strict=True):
        loss, correct, count = loss + more, correct + right, count + len(batch)
    return loss / count, correct / count
