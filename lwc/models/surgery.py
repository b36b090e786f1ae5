"""Bypass blocks for a moment, or remove them for good."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from lwc.core.errors import ModelError
from lwc.models.counts import ParameterCounts
from lwc.models.families import BlockOutput, Family, block_input, block_list
from lwc.models.types import M, Model


def parameter_counts(model: Model, family: Family) -> ParameterCounts:
    """Count parameters, in all and per block."""
    per_block = [sum(p.numel() for p in block.parameters()) for block in block_list(model, family)]
    read, written = model.get_input_embeddings(), model.get_output_embeddings()
    tied = written is not None and written.weight is read.weight
    total = sum(p.numel() for p in model.parameters())
    return ParameterCounts(total, per_block, read.weight.numel() if tied else 0)


def checked(count: int, blocks: Collection[int]) -> set[int]:
    """The blocks as a set; raises `ModelError` where one does not exist."""
    chosen = set(blocks)
    wrong = sorted(index for index in chosen if not 0 <= index < count)
    if wrong:
        raise ModelError(f"no blocks {wrong} in a model of {count} blocks", f"blocks are numbered 0 to {count - 1}")
    return chosen


@contextmanager
def computing(forwards: Sequence[tuple[nn.Module, Callable[..., BlockOutput]]]) -> Iterator[None]:
    """Let modules compute something else for a while. Nests; restores exactly."""
    before = [module.__dict__.get("forward") for module, _ in forwards]
    try:
        for module, forward in forwards:
            module.__dict__["forward"] = forward
        yield
    finally:
        for (module, _), own in zip(forwards, before, strict=True):
            if own is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = own


@contextmanager
def bypass(model: Model, family: Family, blocks: Collection[int]) -> Iterator[None]:
    """Replace blocks by the identity on the residual stream: h_out = h_in, nothing is computed.

    This is not zeroing a block's output, which would also kill the residual. A bypassed block writes nothing to a
    key/value cache, whose first block counts the tokens: generate with ``use_cache=False``, or from a model whose
    blocks are removed.
    """
    modules = block_list(model, family)
    chosen = checked(len(modules), blocks)

    def identity(*args: Tensor, **kwargs: Tensor) -> BlockOutput:
        return family.as_output(block_input(args, kwargs))

    with computing([(modules[index], identity) for index in chosen]):
        yield


def remove_blocks(model: M, family: Family, removed: Collection[int]) -> M:
    """A copy of the model without these blocks, consistent down to config lists and ``layer_idx``.

    Saved, it loads in stock transformers; its logits are those of the model with the blocks bypassed.

    Raises:
        ModelError: a block does not exist, carries a role, or none would be left.
    """
    count = len(block_list(model, family))
    gone = checked(count, removed)
    if len(gone) == count:
        raise ModelError("every block would be removed", "keep at least one")
    role = sorted(gone & set(family.protected))
    if role:
        raise ModelError(f"blocks {role} of {family.model_type} carry a role and cannot be removed", "keep them")
    smaller = copy.deepcopy(model)
    modules = block_list(smaller, family)
    kept = [index for index in range(count) if index not in gone]
    survivors = [modules[index] for index in kept]
    del modules[:]
    modules.extend(survivors)
    for position, block in enumerate(survivors):
        for module in block.modules():
            for name in ("layer_idx", "layer_id", "layer_number"):
                if isinstance(getattr(module, name, None), int):
                    setattr(module, name, position)
    config = smaller.config
    setattr(config, family.depth_field, len(kept))
    for name in family.per_block_fields:
        values = getattr(config, name, None)
        if isinstance(values, list | tuple) and len(values) == count:
            setattr(config, name, [values[index] for index in kept])
    for name in family.split_fields:
        first = getattr(config, name, None)
        if isinstance(first, int):
            setattr(config, name, sum(index < first for index in kept))
    for name in family.pattern_fields if gone else ():
        config.__dict__.pop(name, None)
    return smaller
