"""Measure a model and leave it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

from lwc.importance.types import LayerImportance, Scorer
from lwc.models.batches import Batch
from lwc.models.families import Family


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Eval mode (dropout would make scores random), gradients for every weight; all flags and .grad put back after."""
    flags = [(module, module.training) for module in model.modules()]
    gradients = [(weight, weight.requires_grad, weight.grad) for weight in model.parameters()]
    model.eval()
    for weight, _, _ in gradients:
        weight.grad = None
        weight.requires_grad_(weight.is_floating_point())
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training
        for weight, required, gradient in gradients:
            weight.requires_grad_(required)
            weight.grad = gradient


def scorer(function: Callable[[Any, Family, Sequence[Batch], Any], LayerImportance]) -> Scorer:
    """Run a scorer on the undisturbed model."""

    @wraps(function)
    def run(model: Any, family: Family, batches: Sequence[Batch], config: Any = None) -> LayerImportance:
        with undisturbed(model):
            return function(model, family, batches, config)

    return run
