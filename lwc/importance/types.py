"""What a scorer is, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import TypeVar

from lwc.models.batches import Batch
from lwc.models.families import Family
from lwc.models.forward.undisturbed import undisturbed
from lwc.models.types import Model
from lwc.recipe import Method

S = TypeVar("S", bound=Method)


@dataclass(frozen=True)
class LayerImportance:
    """One score a block in the method's raw ``unit``; higher = keep. ``details`` are further figures a block.

    ``seconds`` is set by whoever runs the scorer.
    """

    method: str
    scores: tuple[float, ...]
    unit: str
    seconds: float = 0.0
    details: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """Why a method has no scores, and is left out of the fusion."""

    reason: str


Scorer = Callable[[Model, Family, Sequence[Batch], S], LayerImportance]
"""``(model, family, batches, settings) → LayerImportance``; leaves the model as it was."""

ScorerOfScores = Callable[[Mapping[str, Sequence[float]], int, S], LayerImportance | Refusal]
"""``(raw scores by method, number of blocks, settings)``, where the settings class says ``reads = "scores"``."""


def scorer(function: Scorer[S]) -> Scorer[S]:
    """Run a scorer on the undisturbed model."""

    @wraps(function)
    def run(model: Model, family: Family, batches: Sequence[Batch], settings: S) -> LayerImportance:
        with undisturbed(model):
            return function(model, family, batches, settings)

    return run
