"""Measure a model and leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lwc.models.types import Model


@contextmanager
def undisturbed(model: Model) -> Iterator[None]:
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
