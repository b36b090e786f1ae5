"""Ablation importance: what the model loses when one block is truly bypassed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as functional

from lwc.importance.types import LayerImportance
from lwc.importance.undisturbed import scorer
from lwc.models.batches import Batch
from lwc.models.families import Family, block_list
from lwc.models.surgery import bypass


@torch.inference_mode()
def loss_and_accuracy(model: Any, batches: Sequence[Batch]) -> tuple[float, float]:
    """Mean cross-entropy in nats and accuracy over all rows of the batches."""
    loss, correct, count = 0.0, 0, 0
    for batch in batches:
        logits = model(**batch.inputs).logits.double()
        loss += float(functional.cross_entropy(logits, batch.labels, reduction="sum"))
        correct += int((logits.argmax(dim=-1) == batch.labels).sum())
        count += len(batch)
    return loss / count, correct / count


@scorer
def ablation(model: Any, family: Family, batches: Sequence[Batch], config: Any = None) -> LayerImportance:
    """Mean cross-entropy with block l bypassed minus that of the whole model, in nats.

    Bypass is the identity on the residual stream (Michel et al. 2019 and Sajjad et al. 2023 drop whole layers this
    way). Loss, not accuracy, is the score: a bypass may shift the bias of every answer and leave the knowledge whole.
    ``details`` holds the drop in accuracy. A negative score means that the model does better without the block.
    """
    started = time.monotonic()
    whole, accuracy = loss_and_accuracy(model, batches)
    scores, drops = [], []
    for index in range(len(block_list(model, family))):
        with bypass(model, family, [index]):
            loss, left = loss_and_accuracy(model, batches)
        scores.append(loss - whole)
        drops.append(accuracy - left)
    return LayerImportance("ablation", tuple(scores), "nats", time.monotonic() - started, {"accuracy_drop": drops})
