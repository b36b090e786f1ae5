"""How many parameters a model has, in all and per block: also by the headers of its files. Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass

from lwc.models.families import CAUSAL_LM
from lwc.models.saved import Saved

_TABLES = ("embed", "wte", "wpe")
_OUTPUT = "lm_head.weight"


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of the whole model and of each block; tied weights count once.

    ``tied`` are those of an output matrix that is the embeddings': an exported file contains them twice.
    """

    total: int
    per_block: list[int]
    tied: int = 0

    def without(self, removed: Collection[int]) -> int:
        """Parameters left after these blocks are gone."""
        return self.total - sum(self.per_block[index] for index in removed)


def saved_counts(saved: Saved) -> ParameterCounts:
    """Parameters of a checkpoint that passed `check_checkpoint`, as its files declare them.

    Exact where the checkpoint has the head that it needs. Of one that gets a new head, only embeddings and blocks
    count, so that a ratio that cannot be reached with these cannot be reached at all.
    """
    weights = {name: one for name, one in saved.weights.items() if one.dtype.startswith(("F", "BF"))}
    own = {name: math.prod(one.shape) for name, one in weights.items()}
    tied = 0
    # A config that does not say is taken for tied, with which a ratio of params is never too low.
    if saved.task == CAUSAL_LM and (saved.config.get("tie_word_embeddings", True) or _OUTPUT not in own):
        own.pop(_OUTPUT, None)
        tied = math.prod(saved.embeddings[1].shape) if saved.embeddings else 0
    path = re.compile(rf"(?:.*\.)?{re.escape(saved.family.blocks)}\.(\d+)\.")
    blocks = {name: int(match[1]) for name in own if (match := path.match(name))}
    per_block = [0] * (max(blocks.values()) + 1)
    for name, block in blocks.items():
        per_block[block] += own[name]
    whole = saved.task == CAUSAL_LM or saved.head is not None
    others = [name for name in own if name not in blocks and (whole or any(table in name for table in _TABLES))]
    return ParameterCounts(sum(per_block) + sum(own[name] for name in others), per_block, tied)


def must_stay(saved: Saved) -> tuple[int, ...]:
    """Blocks that a model of this type and config cannot miss."""
    family = saved.family
    first = {0} if saved.config.get(family.convolution_field or "") else set()
    return tuple(sorted(first | set(family.protected)))
