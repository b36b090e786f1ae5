"""Losses of training and recovery: pure functions of tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as functional
from torch import Tensor

Whole = Callable[[Tensor], Tensor]
"""A sum over these rows → what it is with the average of the whole batch, of which these rows are a part."""

IGNORED = -100
"""A label under padding: no loss reads it."""


def example_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Loss (B,) of each example. What the labels are says which loss it is:

    - class ids (B,) integer, logits (B, C): cross-entropy in nats;
    - numbers (B,) floating, logits (B, 1): squared error, in squared units of the label;
    - tokens (B, T) integer, `IGNORED` under padding, logits (B, T, V): cross-entropy of each next token in nats, mean
      over the row's tokens.
    """
    if labels.is_floating_point():
        return (logits[:, 0] - labels) ** 2  # half precision is promoted: labels keep theirs
    if labels.ndim == 1:
        return functional.cross_entropy(logits, labels, reduction="none")
    # One row at a time: the logarithms of a whole batch (B, T, V) over a large vocabulary take gigabytes.
    rows = zip(logits, labels, strict=True)
    each = [functional.cross_entropy(row[:-1].float(), tokens[1:], ignore_index=IGNORED) for row, tokens in rows]
    return torch.stack(each)


@torch.no_grad()
def example_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share (B,) of each example that is right: its class, its next tokens, or its number rounded to a whole one."""
    if labels.is_floating_point():
        return (logits[:, 0].round() == labels.round()).double()
    if labels.ndim == 1:
        return (logits.argmax(dim=-1) == labels).double()
    read = labels[:, 1:] != IGNORED
    right = (logits[:, :-1].argmax(dim=-1) == labels[:, 1:]) & read
    return right.sum(dim=1).double() / read.sum(dim=1).clamp_min(1)


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of `example_loss` over the batch."""
    return example_loss(logits, labels).mean()


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student) of logits (B, C) at temperature T, mean over the batch (Hinton et al. 2015, eq. 1-4).

    T² keeps gradients of one size across temperatures.
    """
    return temperature**2 * functional.kl_div(
        functional.log_softmax(student / temperature, dim=-1),
        functional.log_softmax(teacher / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )


def answer_distance(
    student: Tensor, teacher: Tensor, mask: Tensor, temperature: float, whole: Whole = lambda sum_: sum_
) -> Tensor:
    """How far answers are apart: `distillation_loss` of class logits (B, C), of next tokens (B, T, V) over the real
    tokens of the ``mask`` (B, T), or of the M real positions alone (M, V); squared distance of numbers (B, 1)."""
    if student.ndim == 3:
        real = mask.bool()
        counted = real.sum().to(student.dtype)
        return distillation_loss(student[real], teacher[real], temperature) * (counted / whole(counted))
    if student.shape[1] == 1:
        return functional.mse_loss(student, teacher)
    apart = distillation_loss(student, teacher, temperature)
    if len(student) == len(mask):
        return apart
    counted = student.new_tensor(len(student))
    return apart * (counted / whole(counted))


def hidden_loss(student: Tensor, teacher: Tensor, mask: Tensor, whole: Whole = lambda sum_: sum_) -> Tensor:
    """Squared distance of hidden states (B, T, D) over real tokens, in units of the teacher's own size.

    Divided by the teacher's mean square, so that one weight fits every depth and width: 0 is equal, 1 is what a
    student of zeros would score. Padding does not count (``mask`` is (B, T)).
    """
    real = mask.unsqueeze(-1).to(student.dtype)
    distance = ((student - teacher) ** 2 * real).sum()
    size = whole((teacher**2 * real).sum())
    return distance / size.clamp_min(torch.finfo(student.dtype).tiny)


def attention_loss(student: Tensor, teacher: Tensor, mask: Tensor, whole: Whole = lambda sum_: sum_) -> Tensor:
    """KL(teacher ‖ student) of attention maps (B, H, T, T), mean over heads and real queries (Wang et al. 2020, eq. 4).

    Keys under padding have probability 0 on both sides and add nothing.
    """
    tiny = torch.finfo(student.dtype).tiny
    terms = torch.xlogy(teacher, teacher) - teacher * student.clamp_min(tiny).log()
    queries = mask.unsqueeze(1).to(student.dtype)
    return (terms.sum(dim=-1) * queries).sum() / (whole(queries.sum()) * student.shape[1])
