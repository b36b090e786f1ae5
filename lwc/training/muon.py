"""Muon: a weight matrix steps along its momentum, orthogonalised. AdamW takes all other parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_MOMENTUM = 0.95
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
# Root mean square of a step, in learning rates: three times that of a usual step of AdamW (decision 6).
_SIZE = 0.6


def orthogonal(matrix: Tensor) -> Tensor:
    """About U Vᵀ of a matrix U S Vᵀ (R, C), in bfloat16, by Newton-Schulz iterations (Jordan et al. 2024).

    Singular values end between 0.7 and 1.2; those below a hundredth of the matrix's norm end lower.
    """
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    found = (matrix.T if tall else matrix).bfloat16()
    found = found / found.norm().clamp_min(1e-7)
    for _ in range(_ITERATIONS):
        square = found @ found.T
        found = torch.addmm(found, torch.addmm(square, square, square, beta=b, alpha=c), found, beta=a)
    return found.T if tall else found


class Muon(torch.optim.AdamW):
    """`torch.optim.AdamW`, except for groups with ``orthogonal``: their matrices take steps of Muon.

    One optimizer with one state: `torch.optim.Muon` takes nothing but matrices.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step. Matrices lose their gradients, so that AdamW passes them over."""
        assert closure is None, "the loss is computed before the step"
        for group in self.param_groups:
            for weight in group["params"] if group.get("orthogonal") else ():
                if weight.grad is None:
                    continue
                step = orthogonal(self._momentum(weight, weight.grad)).to(weight.dtype)
                size = group["lr"] * _SIZE * math.sqrt(max(weight.shape))
                weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(step, alpha=-size)
                weight.grad = None
        return super().step()

    def _momentum(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """Nesterov's, of this gradient and those before it."""
        state = self.state[weight]
        if not state:
            # AdamW looks for a count of steps in every state that it loads.
            state["momentum"], state["step"] = torch.zeros_like(weight), torch.zeros(())
        average: Tensor = state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
        return gradient.lerp(average, _MOMENTUM)
