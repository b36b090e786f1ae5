"""What a scorer is and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from lwc.models.batches import Batch
from lwc.models.families import Family
from lwc.models.forward.undisturbed import undisturbed
from lwc.models.types import Model


@dataclass(frozen=True)
class LayerImportance:
    """One score a block in the method's raw ``unit``; higher = keep. ``details`` are further figures a block."""

    method: str
    scores: tuple[float, ...]
    unit: str
    seconds: float
    details: dict[str, list[float]] = field(default_factory=dict)


Scorer = Callable[[Any, Family, Sequence[Batch], Any], LayerImportance]
"""``(model, family, batches, config) → LayerImportance``; leaves the model as it was."""


def scorer(function: Callable[[Any, Family, Sequence[Batch], Any], LayerImportance]) -> Scorer:
    """Run a scorer on the undisturbed model."""

    @wraps(function)
    def run(model: Model, family: Family, batches: Sequence[Batch], config: Any = None) -> LayerImportance:
        with undisturbed(model):
            return function(model, family, batches, config)

    return run
