"""`recover.start: linear`: the block before each gap learns, in closed form, the linear share of what was removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lwc.core.errors import ModelError
from lwc.models.batches import Batch
from lwc.models.families import BlockOutput, block_list, family_of, hidden_states
from lwc.models.losses import hidden_loss
from lwc.models.types import Model
from lwc.training.checkpoints import copied

# The penalty on the change, as a share of the mean square of the inputs: some of them are never active.
_RIDGE = 1e-3
# One batch of so many is not read by the fit and says how well it holds elsewhere.
_HELD_OUT = 8

Call = Callable[[Model, Batch], object]
"""One pass of a model over a batch."""
Seen = dict[str, Tensor]
Sides = tuple[Seen, Seen, Tensor]
"""What `Ending.watched` saw of the student's block and of the teacher's, and the mask (B, T) of real tokens."""


class Ridge:
    """Least squares with a penalty, of rows that come in batches: float64 sums of (F + D) · F numbers for any rows.

    ``features`` F, ``targets`` D.
    """

    def __init__(self, features: int, targets: int, device: torch.device | None = None) -> None:
        self._square = torch.zeros(features, features, dtype=torch.float64, device=device)
        self._cross = torch.zeros(features, targets, dtype=torch.float64, device=device)

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Further rows: inputs (N, F), targets (N, D)."""
        self._square += (inputs.T @ inputs).double()
        self._cross += (inputs.T @ targets).double()

    def solve(self, penalty: float) -> Tensor:
        """W (F, D) with the least ‖inputs · W − targets‖² + penalty · mean(diagonal of inputsᵀ inputs) · ‖W‖²."""
        square = self._square.clone()
        square.diagonal().add_(penalty * self._square.diagonal().mean())
        solution: Tensor = torch.linalg.solve(square, self._cross)
        return solution


@dataclass(frozen=True)
class Ending:
    """How a block ends: its last linear layer, which writes to the sum, and the norm of that sum, if any (names)."""

    linear: str
    norm: str | None

    @contextmanager
    def watched(self, block: nn.Module) -> Iterator[Seen]:
        """While entered, the last pass's ``input`` of the layer (B, T, F), ``sum`` (B, T, D) and ``output`` (B, T, D).

        The sum is the residual stream and what the layer adds to it, before the norm.
        """
        seen: Seen = {}

        def keep(name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name] = inputs[0].detach()

        def keep_output(_module: nn.Module, _inputs: tuple[Tensor, ...], output: BlockOutput) -> None:
            seen["output"] = hidden_states(output).detach().float()
            if self.norm is None:
                seen["sum"] = seen["output"]

        with ExitStack() as stack:
            layer = block.get_submodule(self.linear)
            stack.callback(layer.register_forward_pre_hook(partial(keep, "input")).remove)
            if self.norm is not None:
                norm = block.get_submodule(self.norm)
                stack.callback(norm.register_forward_pre_hook(partial(keep, "sum")).remove)
            stack.callback(block.register_forward_hook(keep_output).remove)
            yield seen


@dataclass(frozen=True)
class Started:
    """How far a kept block is from the teacher's block whose output it should give (`hidden_loss`), before and after.

    Measured on rows that the fit did not read.
    """

    block: int
    teacher_block: int
    before: float
    after: float


@torch.no_grad()
def ending_of(block: nn.Module, call: Callable[[], object], model_type: str) -> Ending:
    """Find the ending of a block in one pass, which ``call`` makes.

    Raises:
        ModelError: the block norms what it adds, so that no weight of it is linear in its output.
    """
    calls: list[tuple[str, nn.Module, Any]] = []

    def note(name: str, module: nn.Module, _inputs: tuple[Tensor, ...], output: object) -> None:
        calls.append((name, module, output))

    with ExitStack() as stack:
        for name, module in block.named_modules():
            if not any(True for _ in module.children()) and any(True for _ in module.parameters()):
                stack.callback(module.register_forward_hook(partial(note, name)).remove)
        result: list[BlockOutput] = []
        stack.callback(block.register_forward_hook(lambda _module, _inputs, output: result.append(output)).remove)
        call()
    name, last, output = calls[-1]
    if isinstance(last, nn.Linear | Conv1D):
        return Ending(name, None)
    before = calls[-2]
    if isinstance(before[1], nn.Linear | Conv1D) and torch.equal(output, hidden_states(result[0])):
        return Ending(before[0], name)
    raise ModelError(
        f"recover.start: linear does not know how a block of {model_type} ends: {type(last).__name__} comes last",
        "set recover.start: cut",
    )


@torch.no_grad()
def start_linearly(
    student: Model,
    teacher: Model,
    pairs: Sequence[tuple[int, int]],
    groups: Sequence[Batch],
    call: Call,
    say: Callable[[str], None],
) -> list[dict[str, float]]:
    """Refit the last linear layer of each block before a gap, in place, front to back; returns a `Started` of each.

    The layer's new weights are those with the least squared distance (ridge, towards the old weights) between the sum
    that the student's block ends with and that of the teacher's block whose output it should give, over the real
    tokens of the batches, each in units of its own size. Nothing is added to the model. Where a norm closes the block,
    it takes over the scale and shift of the teacher's.

    This is exact if the input of the layer determines the difference of the sums linearly. Otherwise ``after`` says
    what is left. A fit that does not come closer on held-out rows is dropped.

    Args:
        pairs: for each block of the student its own number in the teacher, and that of the block whose output it
            should give. Where both are the same, nothing was removed and nothing changes.
        groups: batches of train rows. Every eighth is held out from the fit.
    """
    blocks, originals = block_list(student, family_of(student)), block_list(teacher, family_of(teacher))
    held = groups[_HELD_OUT - 1 :: _HELD_OUT] or groups[-1:]
    fitted = [batch for batch in groups if not any(batch is one for one in held)] or groups
    started = []
    for place, (own, target) in enumerate(pairs):
        if own == target:
            continue
        say(f"block {own} takes over the linear share of the blocks removed after it")
        block, original = blocks[place], originals[target]
        ending = ending_of(block, partial(call, student, groups[0]), student.config.model_type)
        with ending.watched(block) as mine, ending.watched(original) as theirs:

            def sides(chosen: Sequence[Batch], mine: Seen = mine, theirs: Seen = theirs) -> Iterator[Sides]:
                for batch in chosen:
                    call(student, batch)
                    call(teacher, batch)
                    yield mine, theirs, batch.mask

            old, before = copied(block), _distance(sides(held))
            _refit(block, original, ending, sides(fitted))
            after = _distance(sides(held))
            if not after < before:  # the block was trained for this gap before, or there are hardly any rows
                block.load_state_dict(old)
            started.append(asdict(Started(own, target, before, min(before, after))))
    return started


def _distance(sides: Iterable[Sides]) -> float:
    return float(
        torch.stack([hidden_loss(mine["output"], theirs["output"], mask) for mine, theirs, mask in sides]).mean()
    )


def _refit(block: nn.Module, original: nn.Module, ending: Ending, sides: Iterable[Sides]) -> None:
    layer = block.get_submodule(ending.linear)
    assert isinstance(layer, nn.Linear | Conv1D)
    ridge: Ridge | None = None
    for mine, theirs, mask in sides:
        real = mask.bool()
        inputs, own, wanted = (one[real].float() for one in (mine["input"], mine["sum"], theirs["sum"]))
        if layer.bias is not None:
            inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
        size = wanted.square().mean(dim=1, keepdim=True).sqrt().clamp_min(torch.finfo(wanted.dtype).tiny)
        ridge = ridge or Ridge(inputs.shape[1], wanted.shape[1], inputs.device)
        ridge.add(inputs / size, (wanted - own) / size)
    assert ridge is not None, "no rows"
    change = ridge.solve(_RIDGE).to(layer.weight.dtype)
    if layer.bias is not None:
        layer.bias += change[-1]
        change = change[:-1]
    layer.weight += change if isinstance(layer, Conv1D) else change.T
    if ending.norm is not None:
        block.get_submodule(ending.norm).load_state_dict(original.get_submodule(ending.norm).state_dict())
