"""The softmax over the catalogue, whole or sampled."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Tensor

from lwc.tasks.next_item.model import PAD, NextItemView


def full_softmax(view: NextItemView, hidden: Tensor, targets: Tensor, trained: int) -> Tensor:
    """Mean cross-entropy in nats of the next items (M,) among the ``trained`` items, from hidden states (M, D)."""
    return functional.cross_entropy(view.item_logits(hidden)[:, :trained].float(), targets)


def sampled_softmax(view: NextItemView, hidden: Tensor, targets: Tensor, negatives: int, trained: int) -> Tensor:
    """Cross-entropy against ``negatives`` items drawn uniformly, with replacement, the same for the whole batch.

    Each drawn item stands for V / negatives items, so that exp of the negatives' part is an unbiased estimate of the
    softmax's denominator; its logarithm is not: by Jensen's inequality the loss comes out too low, by
    O(1 / negatives). Uniform draws also show popular items as negatives no more often than others, where the full
    softmax pushes hardest against them (Bengio & Senécal 2008; Yi et al. 2019 correct draws by popularity).
    """
    table = view.get_input_embeddings().weight[PAD + 1 : PAD + 1 + trained]
    drawn = torch.randint(len(table), (negatives,), device=hidden.device)
    right = (hidden * table[targets]).sum(dim=-1, keepdim=True).float()
    wrong = (hidden @ table[drawn].T).float() + math.log((len(table) - 1) / negatives)
    wrong = wrong.masked_fill(drawn[None, :] == targets[:, None], -torch.inf)
    each: Tensor = torch.logsumexp(torch.cat([right, wrong], dim=-1), dim=-1) - right[:, 0]
    return each.mean()
