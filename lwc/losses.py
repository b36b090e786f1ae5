"""Losses of training and recovery: pure functions of tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as functional
from torch import Tensor

Whole = Callable[[Tensor], Tensor]
"""A sum over these rows → what it is with the average of the whole batch, of which these rows are a part."""


def _all_of_it(sum_: Tensor) -> Tensor:
    return sum_


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, C) against labels (B,), in nats."""
    return functional.cross_entropy(logits, labels)


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student) at temperature T, mean over the batch (Hinton et al. 2015, eq. 1-4).

    Args:
        student, teacher: logits (B, C). T² keeps gradients of one size across temperatures.
    """
    return temperature**2 * functional.kl_div(
        functional.log_softmax(student / temperature, dim=-1),
        functional.log_softmax(teacher / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )


def hidden_loss(student: Tensor, teacher: Tensor, mask: Tensor, whole: Whole = _all_of_it) -> Tensor:
    """Squared distance of hidden states (B, T, D) over real tokens, in units of the teacher's own size.

    Divided by the teacher's mean square, so that one weight fits every depth and width: 0 is equal, 1 is what a
    student of zeros would score. Padding does not count (``mask`` is (B, T)).
    """
    real = mask.unsqueeze(-1).to(student.dtype)
    distance = ((student - teacher) ** 2 * real).sum()
    size = whole((teacher**2 * real).sum())
    return distance / size.clamp_min(torch.finfo(student.dtype).tiny)


def attention_loss(student: Tensor, teacher: Tensor, mask: Tensor, whole: Whole = _all_of_it) -> Tensor:
    """KL(teacher ‖ student) of attention maps (B, H, T, T), mean over heads and real queries (Wang et al. 2020, eq. 4).

    Keys under padding have probability 0 on both sides and add nothing.
    """
    tiny = torch.finfo(student.dtype).tiny
    terms = torch.xlogy(teacher, teacher) - teacher * student.clamp_min(tiny).log()
    queries = mask.unsqueeze(1).to(student.dtype)
    return (terms.sum(dim=-1) * queries).sum() / (whole(queries.sum()) * student.shape[1])
