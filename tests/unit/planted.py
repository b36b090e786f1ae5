"""Models whose answer is known: a block that does nothing, a block that does everything."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tiny_models import tiny, tokens
from torch import nn

from lwc.models.batches import Batch, Encoded, batches
from lwc.models.families import block_list, family_of
from lwc.training import predict

BLOCKS = 4
PROJECTIONS = {
    "modernbert": ("attn.Wo", "mlp.Wo"),  # pre-norm
    "bert": ("attention.output.dense", "output.dense"),  # post-norm
}


def scale_output(model: Any, block: int, factor: float) -> None:
    """Multiply what a block adds to the residual stream: 0 makes it the identity (post-norm: as its norms are at 1)."""
    for path in PROJECTIONS[model.config.model_type]:
        projection = block_list(model, family_of(model))[block].get_submodule(path)
        assert isinstance(projection, nn.Linear)
        with torch.no_grad():
            for parameter in projection.parameters():
                parameter.mul_(factor)


def own_labels(model: Any, encoded: Encoded) -> np.ndarray:
    """The model's own answers, centred so that every class is given: labels its blocks are needed for."""
    logits = predict(model, batches(encoded, np.zeros(len(encoded)), 8, length_bucketed=True, seed=None))
    with torch.no_grad():
        model.classifier.bias.sub_(torch.from_numpy(logits.mean(axis=0)))
    labels: np.ndarray = (logits - logits.mean(axis=0)).argmax(axis=1)
    assert len(set(labels.tolist())) > 1
    return labels


def data(model: Any, rows: int = 24, batch_size: int = 8, seed: int = 3) -> list[Batch]:
    """Ragged texts labelled by the model itself."""
    encoded = tokens(rows, seed=seed)
    return batches(encoded, own_labels(model, encoded), batch_size, length_bucketed=True, seed=None)


def with_identity(model_type: str, block: int) -> Any:
    """All blocks matter but this one, whose output projections are zero."""
    model = tiny(model_type, blocks=BLOCKS, seed=1)
    scale_output(model, block, 0.0)
    return model


def with_indispensable(model_type: str, block: int) -> Any:
    """This block makes the answer; the others add a thousandth of what they did."""
    model = tiny(model_type, blocks=BLOCKS, seed=1)
    for index in range(BLOCKS):
        scale_output(model, index, 2.0 if index == block else 1e-3)
    return model
