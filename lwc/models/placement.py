"""Where a model computes: on this process's GPU where there is one, else on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lwc.core import distributed
from lwc.models.batches import Batch
from lwc.models.types import M, Model


def placed(model: M) -> M:
    """The model itself, moved to where this process computes."""
    distributed.join()  # each of several processes has a GPU of its own, chosen when they meet
    return model.to("cuda") if distributed.on_gpu() else model


def device_of(model: Model) -> torch.device:
    """Where the model's weights lie."""
    return next(model.parameters()).device


def beside(model: Model, groups: Sequence[Batch]) -> list[Batch]:
    """The batches on the model's device."""
    return [batch.to(device_of(model)) for batch in groups]
