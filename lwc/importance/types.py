"""What a scorer is and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lwc.models.batches import Batch
from lwc.models.families import Family


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
