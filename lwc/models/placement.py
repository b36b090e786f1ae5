"""Where a model computes: on this process's GPU where there is one, else on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lwc.core import distributed
from lwc.models.batches import Batch


def placed(model: Any) -> Any:
    """The model itself, moved to where this process computes."""
    distributed.join()  # each of several processes has a GPU of its own, chosen when they meet
    return model.to("cuda") if distributed.on_gpu() else model


def device_of(model: Any) -> torch.device:
    """Where the model's weights lie."""
    place: torch.device = next(iter(model.parameters())).device
    return place


def beside(model: Any, groups: Sequence[Batch]) -> list[Batch]:
    """The batches on the model's device."""
    return [batch.to(device_of(model)) for batch in groups]
