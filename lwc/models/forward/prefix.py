"""The loss of a model with many sets of blocks bypassed, each hidden state computed once.

Two sets that agree on blocks 0 … d − 1 give block d the same input. Sorted by their blocks, sets are the leaves of a
tree in depth-first order, so that it is enough to keep the block inputs (B, T, D) of the last set and to start
the next one at its first difference: every node of the tree is computed once, and memory holds one hidden state
a block of one batch. Embeddings, masks and the head run each time: they belong to the model's own ``forward``, which is
what makes this work for every family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from lwc.core import distributed
from lwc.models.batches import Batch
from lwc.models.families import BlockOutput, Family, block_list
from lwc.models.losses import example_accuracy, example_loss
from lwc.models.surgery import checked, computing
from lwc.models.types import Model


@dataclass(frozen=True)
class Outcome:
    """Mean loss (`example_loss`: nats, or squared error) and accuracy over all rows."""

    loss: float
    accuracy: float


def outcome(model: Model, batch: Batch) -> tuple[float, float]:
    """Sums over the rows of `example_loss` and `example_accuracy` of the model as it is."""
    logits = model(**batch.inputs).logits
    if logits.ndim == 2:  # over a vocabulary, doubles would take gigabytes
        logits = logits.double()
    loss = example_loss(logits, batch.labels).double().sum()
    return float(loss), float(example_accuracy(logits, batch.labels).sum())


@dataclass
class Course:
    """What the blocks do in the next forward: those before ``start`` nothing, those in ``gone`` pass their input on."""

    start: int = 0
    gone: frozenset[int] = frozenset()
    inputs: dict[int, Tensor] = field(default_factory=dict)


@contextmanager
def steered(blocks: nn.ModuleList, family: Family) -> Iterator[Course]:
    """Let a `Course` steer the blocks for a while. Nests with `bypass`."""
    course = Course()

    def steer(index: int, compute: Callable[..., BlockOutput]) -> Callable[..., BlockOutput]:
        def forward(hidden: Tensor, *args: Tensor, **kwargs: Tensor) -> BlockOutput:
            if index < course.start:
                return family.as_output(hidden)
            if index == course.start and index in course.inputs:
                # Also past what some encoders do between blocks (DeBERTa's convolution): it is in this input.
                hidden = course.inputs[index]
            course.inputs[index] = hidden
            return family.as_output(hidden) if index in course.gone else compute(hidden, *args, **kwargs)

        return forward

    with computing([(block, steer(index, block.forward)) for index, block in enumerate(blocks)]):
        yield course


def visiting_order(bypassed: Iterable[frozenset[int]], count: int) -> list[tuple[frozenset[int], int]]:
    """(set, block to start at) for each different set, so that as much as possible is shared. The first starts at 0."""
    order = sorted(set(bypassed), key=lambda gone: [index in gone for index in range(count)])
    starts = [0] + [min(one ^ other) for one, other in pairwise(order)]
    return list(zip(order, starts[: len(order)], strict=True))


@torch.inference_mode()
def outcomes(
    model: Model, family: Family, batches: Sequence[Batch], bypassed: Iterable[frozenset[int]]
) -> dict[frozenset[int], Outcome]:
    """Loss and accuracy of the model with each of these sets of blocks bypassed.

    Raises:
        ModelError: a set names a block that the model does not have.
    """
    blocks = block_list(model, family)
    course_of = visiting_order(bypassed, len(blocks))
    checked(len(blocks), {index for gone, _ in course_of for index in gone})
    loss = {gone: 0.0 for gone, _ in course_of}
    correct = {gone: 0.0 for gone, _ in course_of}

    def of(batch: Batch) -> list[tuple[float, float]]:
        found = []
        with steered(blocks, family) as course:
            for course.gone, course.start in course_of:
                found.append(outcome(model, batch))
        return found

    for found in distributed.spread(batches, of):
        for (gone, _), (more, right) in zip(course_of, found, strict=True):
            loss[gone] += more
            correct[gone] += right
    rows = sum(len(batch) for batch in batches)
    return {gone: Outcome(loss[gone] / rows, correct[gone] / rows) for gone, _ in course_of}
