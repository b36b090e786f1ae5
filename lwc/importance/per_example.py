"""Per-example gradients of a block's parameters from one backward pass a batch.

For a linear layer y = x Wᵀ + b with inputs x (B, T, I) and output gradients g (B, T, O), the gradient of example n
is Gₙ = Σₜ gₙₜ xₙₜᵀ. Its squared norm is Σₜₛ (gₙₜ·gₙₛ)(xₙₜ·xₙₛ) (Goodfellow 2015; the "ghost norm" of Li et al.
2022), which needs no (B, O, I) tensor, and its product with W is Σₜ gₙₜ·(yₙₜ − b).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from lwc.models.batches import Batch
from lwc.models.families import Family, block_list

COVERED = (nn.Linear, nn.LayerNorm)


@dataclass
class ExampleGradients:
    """Per example (rows) and block (columns): Σ g² and Σ g·θ over the block's parameters, both (B, L) in float64."""

    squared: Tensor
    dot: Tensor


@dataclass
class _Call:
    module: nn.Module
    block: int
    inputs: Tensor
    grad: Tensor | None = None


def _linear(call: _Call, module: nn.Linear, grad: Tensor) -> tuple[Tensor, Tensor]:
    x, g = call.inputs, grad
    squared = ((g @ g.transpose(1, 2)) * (x @ x.transpose(1, 2))).sum(dim=(1, 2))
    dot = (g * (x @ module.weight.T)).sum(dim=(1, 2))
    if module.bias is not None:
        per_bias = g.sum(dim=1)
        squared = squared + (per_bias**2).sum(dim=1)
        dot = dot + (per_bias * module.bias).sum(dim=1)
    return squared, dot


def _norm(call: _Call, module: nn.LayerNorm, grad: Tensor) -> tuple[Tensor, Tensor]:
    normal = functional.layer_norm(call.inputs, module.normalized_shape, None, None, module.eps)
    per_weight = (grad * normal).sum(dim=1)
    squared, dot = (per_weight**2).sum(dim=1), (per_weight * module.weight).sum(dim=1)
    if module.bias is not None:
        per_bias = grad.sum(dim=1)
        squared = squared + (per_bias**2).sum(dim=1)
        dot = dot + (per_bias * module.bias).sum(dim=1)
    return squared, dot


def _owned(block: nn.Module) -> Iterator[nn.Module]:
    return (module for module in block.modules() if any(True for _ in module.parameters(recurse=False)))


@contextmanager
def _watched(blocks: nn.ModuleList) -> Iterator[list[_Call]]:
    calls: list[_Call] = []
    handles = []

    def watch(module: nn.Module, index: int) -> None:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            call = _Call(module, index, args[0].detach())
            calls.append(call)
            output.register_hook(  # type: ignore[no-untyped-call]
                lambda grad: setattr(call, "grad", grad.detach())
            )

        handles.append(module.register_forward_hook(hook))

    for index, block in enumerate(blocks):
        for module in _owned(block):
            watch(module, index)
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def is_covered(model: Any, family: Family, batch: Batch) -> bool:
    """Whether every parameter of the blocks is of a covered layer, used once a pass on (B, T, ·) inputs."""
    blocks = block_list(model, family)
    modules = [module for block in blocks for module in _owned(block)]
    if not all(isinstance(module, COVERED) for module in modules):
        return False
    with torch.enable_grad(), _watched(blocks) as calls:
        model(**batch.inputs)
    shapes = all(call.inputs.ndim == 3 and call.inputs.shape[0] == len(batch) for call in calls)
    return shapes and len(calls) == len({id(call.module) for call in calls})


def fast_gradients(model: Any, family: Family, batch: Batch) -> ExampleGradients:
    """Gradients of each example's own cross-entropy, all examples in one backward pass."""
    blocks = block_list(model, family)
    squared = torch.zeros(len(batch), len(blocks), dtype=torch.float64)
    dot = torch.zeros_like(squared)
    with torch.enable_grad(), _watched(blocks) as calls:
        logits = model(**batch.inputs).logits
        # A sum, so that an example's gradient does not depend on its company.
        functional.cross_entropy(logits, batch.labels, reduction="sum").backward()  # type: ignore[no-untyped-call]
        for call in calls:
            if call.grad is None:  # nothing flows through it: a dead branch
                continue
            if isinstance(call.module, nn.Linear):
                mine = _linear(call, call.module, call.grad)
            else:
                assert isinstance(call.module, nn.LayerNorm)
                mine = _norm(call, call.module, call.grad)
            squared[:, call.block] += mine[0].detach().double()
            dot[:, call.block] += mine[1].detach().double()
    model.zero_grad(set_to_none=True)
    return ExampleGradients(squared, dot)


def slow_gradients(model: Any, family: Family, batch: Batch) -> ExampleGradients:
    """The same, one backward pass an example: for layers the fast way does not cover, and as its oracle."""
    blocks = block_list(model, family)
    squared = torch.zeros(len(batch), len(blocks), dtype=torch.float64)
    dot = torch.zeros_like(squared)
    for row in range(len(batch)):
        model.zero_grad(set_to_none=True)
        length = int(batch.mask[row].nonzero().max()) + 1
        inputs = {name: value[row : row + 1, :length] for name, value in batch.inputs.items()}
        with torch.enable_grad():
            functional.cross_entropy(model(**inputs).logits, batch.labels[row : row + 1]).backward()  # type: ignore[no-untyped-call]
        for index, block in enumerate(blocks):
            for parameter in block.parameters():
                if parameter.grad is not None:
                    squared[row, index] += (parameter.grad.double() ** 2).sum()
                    dot[row, index] += (parameter.grad.double() * parameter.detach().double()).sum()
    model.zero_grad(set_to_none=True)
    return ExampleGradients(squared, dot)


def example_gradients(model: Any, family: Family, batches: Sequence[Batch]) -> Iterator[ExampleGradients]:
    """Per-example gradients of every batch, the fast way where it is exact for this model, else the slow one."""
    gradients = fast_gradients if is_covered(model, family, batches[0]) else slow_gradients
    for batch in batches:
        yield gradients(model, family, batch)
