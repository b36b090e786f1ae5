"""The exported recommender: the filter of seen items and the top-k are inside the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwc.core.arrays import Array
from lwc.models.batches import pad
from lwc.tasks.next_item.model import PAD, NextItemView, encoded
from lwc.tasks.task import Graph

OUTPUTS = ("scores", "items")
# Places of the list that both runtimes must agree on.
_LISTED = 10


class TopItems(nn.Module):
    """Token ids, mask (B, T) and seen tokens (B, S) in; scores and item numbers (B, K) out, best first.

    ``seen`` holds token ids, padded with 0, and may be longer than what the model reads. Its items get the lowest
    float32 and so come after all others; equal scores are in the order of the item numbers.
    """

    def __init__(self, view: NextItemView, k: int) -> None:
        super().__init__()
        self.view, self.k = view, k

    def forward(self, input_ids: Tensor, attention_mask: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.view(input_ids, attention_mask).logits
        lowest = torch.finfo(torch.float32).min
        # A column for the padding, which ``seen`` is full of.
        padded = torch.cat([torch.full_like(logits[:, :1], lowest), logits], dim=1)
        left = padded.scatter(1, seen, lowest)[:, PAD + 1 :]
        scores, items = torch.topk(left, self.k, dim=1, sorted=True)
        return scores, items


def graph_inputs(histories: list[list[int]], max_length: int) -> dict[str, Array]:
    """What the graph reads for these known histories, as the served front makes it."""
    last, whole = (
        pad(encoded(histories, length), range(len(histories)), None).inputs
        for length in (max_length, max(len(history) for history in histories))
    )
    return {**{name: value.numpy() for name, value in last.items()}, "seen": whole["input_ids"].numpy()}


def top_items_graph(view: NextItemView, k: int, histories: list[list[int]], max_length: int) -> Graph:
    """Token ids and seen items in, scores and item numbers (B, K) out; ``histories`` are compared list by list.

    Seen items have the lowest float32 in both runtimes and are compared as that.
    """
    random = np.random.default_rng(0)
    items = view.config.vocab_size - 1
    cases: list[tuple[dict[str, Any], dict[str, Array]]] = []
    for batch in (1, 3, 8):
        for length in sorted({1, 2, min(17, max_length), max_length, max_length + 5}):
            lengths = [length, *random.integers(1, length + 1, batch - 1)]
            rows = [[int(item) for item in random.integers(0, items, size)] for size in lengths]
            cases.append(({"batch": batch, "length": length, "padding": "right"}, graph_inputs(rows, max_length)))
    return Graph(
        name="the recommender",
        module=TopItems(view, k).eval(),
        sample={
            "input_ids": torch.tensor([[1, 2, 1], [2, 0, 0]]),
            "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]]),
            "seen": torch.tensor([[1, 2, 0, 0], [2, 0, 0, 0]]),
        },
        outputs=OUTPUTS,
        axes={"input_ids": "length", "attention_mask": "length", "seen": "seen"},
        cases=cases,
        rows=[graph_inputs([history], max_length) for history in histories],
        answers=lambda outputs: outputs[1][:, :_LISTED],
        notes={"top_k": k},
    )
