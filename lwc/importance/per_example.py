"""Per-example gradients of a block's parameters from one backward pass a batch.

For a linear layer y = x Wᵀ + b with inputs x (B, T, I) and output gradients g (B, T, O), the gradient of example n
is Gₙ = Σₜ gₙₜ xₙₜᵀ. Its squared norm is Σₜₛ (gₙₜ·gₙₛ)(xₙₜ·xₙₛ) (Goodfellow 2015; the "ghost norm" of Li et al.
2022), which needs no (B, O, I) tensor, and its product with row k of W is Σₜ gₙₜₖ (yₙₜₖ − bₖ).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import update_wrapper
from typing import Generic

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from lwc.core import distributed
from lwc.importance.types import LayerImportance, S
from lwc.models.batches import Batch
from lwc.models.families import Family, block_input, block_list
from lwc.models.forward.pieces import labels_of, part_of, pieces_of
from lwc.models.forward.undisturbed import undisturbed
from lwc.models.losses import example_loss
from lwc.models.types import Model

logger = logging.getLogger(__name__)
# Exact types: a subclass may compute something else with the same parameters.
COVERED = (nn.Linear, nn.LayerNorm)
_AGREES = 1e-4


@dataclass
class ExampleGradients:
    """Gradients g of each example's own loss, summed up per example and block: (B, L) in float64.

    ``squared`` is Σ g² over all parameters of the block. The other two leave out its normalisation layers: ``dot`` is
    Σ g·θ, and ``units`` Σₖ (gₖ·θₖ)² over the rows k of each parameter, one row an output unit.
    """

    squared: Tensor
    dot: Tensor
    units: Tensor

    @classmethod
    def zeros(cls, batch: Batch, blocks: int) -> ExampleGradients:
        """Nothing added yet."""
        shape, device = (len(batch), blocks), batch.labels.device
        return cls(*(torch.zeros(shape, dtype=torch.float64, device=device) for _ in fields(cls)))

    @classmethod
    def joined(cls, parts: Sequence[ExampleGradients]) -> ExampleGradients:
        """The rows of all parts, one after the other."""
        return cls(*(torch.cat([getattr(part, each.name) for part in parts]) for each in fields(cls)))

    def on_host(self, rows: Tensor) -> ExampleGradients:
        """These rows, in this order, in host memory."""
        return ExampleGradients(*(getattr(self, each.name)[rows].cpu() for each in fields(self)))

    def add(self, rows: slice, block: int, squared: Tensor, units: Tensor | None) -> None:
        """Add one parameter: its Σ g² (B,), and g·θ of each of its rows (B, K) unless it is a norm's."""
        self.squared[rows, block] += squared.double()
        if units is not None:
            self.dot[rows, block] += units.double().sum(dim=1)
            self.units[rows, block] += (units.double() ** 2).sum(dim=1)


def is_norm(module: nn.Module) -> bool:
    """Whether this is a normalisation layer (LayerNorm, an RMSNorm of any make).

    In a post-norm block its gain multiplies the residual stream itself, which a bypass leaves in place: g·θ of it says
    what is lost without the stream, not without the block. In a pre-norm block it repeats the next layer's g·θ.
    """
    return isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("Norm")


def _owned(block: nn.Module) -> Iterator[nn.Module]:
    return (module for module in block.modules() if any(True for _ in module.parameters(recurse=False)))


def _linear(module: nn.Linear, x: Tensor, y: Tensor, g: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    if x.shape[1] * (x.shape[2] + g.shape[2]) <= x.shape[2] * g.shape[2]:
        squared = ((g @ g.transpose(1, 2)) * (x @ x.transpose(1, 2))).sum(dim=(1, 2))
    else:  # texts longer than the layer is wide: the gradient itself is smaller than the (B, T, T) products
        squared = ((g.transpose(1, 2) @ x) ** 2).sum(dim=(1, 2))
    product = y * g if module.bias is None else (y - module.bias).mul_(g)
    yield squared, product.sum(dim=1)
    if module.bias is not None:
        bias = g.sum(dim=1)
        yield (bias**2).sum(dim=1), bias * module.bias


def _norm(module: nn.LayerNorm, x: Tensor, g: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    normal = functional.layer_norm(x, module.normalized_shape, None, None, module.eps)
    yield ((g * normal).sum(dim=1) ** 2).sum(dim=1), None
    if module.bias is not None:
        yield (g.sum(dim=1) ** 2).sum(dim=1), None


@contextmanager
def _hooked(blocks: nn.ModuleList, hook: Callable[[int, nn.Module, Tensor, Tensor], None]) -> Iterator[None]:
    """Call ``hook(block, module, inputs, output)`` in the forward pass of every module that owns parameters."""

    def forward_hook(index: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, args, output: hook(index, module, args[0], output)

    with ExitStack() as stack:
        for index, block in enumerate(blocks):
            for module in _owned(block):
                stack.callback(module.register_forward_hook(forward_hook(index)).remove)
        yield


def uncovered(model: Model, family: Family, batch: Batch) -> str | None:
    """Why the fast way is not exact for this model, None where it is. Runs the first rows of the batch both ways."""
    few = part_of(batch, torch.arange(min(2, len(batch)), device=batch.labels.device))
    blocks = block_list(model, family)
    kinds = {type(module) for block in blocks for module in _owned(block)}
    foreign = sorted(kind.__name__ for kind in kinds if kind not in COVERED)
    if foreign:
        return f"its blocks hold parameters in {', '.join(foreign)}"
    calls: list[int] = []
    shapes: set[bool] = set()

    def note(_: int, module: nn.Module, inputs: Tensor, output: Tensor) -> None:
        calls.append(id(module))
        shapes.add(inputs.ndim == 3 and inputs.shape[0] == len(few))

    with torch.no_grad(), _hooked(blocks, note):
        model(**few.inputs)
    if len(calls) != len(set(calls)):
        return "a layer is used more than once in a pass"
    if False in shapes:
        return "a layer reads something else than one (T, D) input an example"
    # Weights that are tied, or used past their own layer, show only in the result.
    fast, slow = fast_gradients(model, family, few), slow_gradients(model, family, few)
    floor = _AGREES / 100 * float(slow.squared.nan_to_num().max())
    if not torch.allclose(fast.squared, slow.squared, rtol=_AGREES, atol=floor, equal_nan=True):
        return "weights are shared, or used outside their own layer"
    return None


def fast_gradients(model: Model, family: Family, batch: Batch) -> ExampleGradients:
    """All examples in one backward pass. Exact where ``uncovered`` is None."""
    blocks = block_list(model, family)
    result = ExampleGradients.zeros(batch, len(blocks))
    entry: list[Tensor] = []

    def enter(
        _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        # The pass back ends here; no gradient of a weight is formed, so none need require one.
        hidden = block_input(args, kwargs).detach().requires_grad_()
        entry.append(hidden)
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    def watch(block: int, module: nn.Module, inputs: Tensor, output: Tensor) -> None:
        x, y = inputs.detach(), output.detach()

        def back(grad: Tensor) -> None:
            # Used up at once: the gradients of all layers together would need as much memory as the activations.
            with torch.no_grad():
                parts = _linear(module, x, y, grad) if isinstance(module, nn.Linear) else _norm(module, x, grad)  # type: ignore[arg-type]
                for squared, units in parts:
                    result.add(slice(None), block, squared, units)

        output.register_hook(back)  # type: ignore[no-untyped-call]

    first = blocks[0].register_forward_pre_hook(enter, with_kwargs=True)
    try:
        with torch.enable_grad(), _hooked(blocks, watch):
            logits = model(**batch.inputs).logits
            # A sum, so that an example's gradient does not depend on its company.
            loss = example_loss(logits, batch.labels).sum()
            torch.autograd.grad(loss, entry, allow_unused=True)
    finally:
        first.remove()
    return result


def slow_gradients(model: Model, family: Family, batch: Batch) -> ExampleGradients:
    """The same, one backward pass an example: for layers the fast way does not cover, and as its oracle."""
    blocks = block_list(model, family)
    result = ExampleGradients.zeros(batch, len(blocks))
    # Keyed by block and parameter: one that two modules of a block share counts once.
    places = {
        (index, parameter): is_norm(module)
        for index, block in enumerate(blocks)
        for module in _owned(block)
        for parameter in module.parameters(recurse=False)
    }
    parameters = [parameter for _, parameter in places]
    for row in range(len(batch)):
        length = int(batch.mask[row].nonzero().max()) + 1
        inputs = {name: value[row : row + 1, :length] for name, value in batch.inputs.items()}
        with torch.enable_grad():
            loss = example_loss(model(**inputs).logits, labels_of(batch, slice(row, row + 1), length)).sum()
            grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        for ((block, parameter), norm), found in zip(places.items(), grads, strict=True):
            if found is None:  # nothing flows through it: a dead branch
                continue
            grad = found.double()
            units = None if norm else (grad * parameter.detach()).reshape(1, len(grad), -1).sum(dim=2)
            result.add(slice(row, row + 1), block, (grad**2).sum()[None], units)
    return result


def example_gradients(model: Model, family: Family, batches: Sequence[Batch]) -> list[ExampleGradients]:
    """Per-example gradients of every batch: the fast way where it is exact for this model, else the slow one."""
    # The largest batch: in a batch of one, what all rows share (DeBERTa's positions) looks like a row's own input.
    reason = uncovered(model, family, max(batches, key=len))
    if reason is not None:
        logger.warning("%s: gradients are taken one example at a time, since %s", family.model_type, reason)
    width = int(model.config.hidden_size)

    def of(batch: Batch) -> ExampleGradients:
        # Each process may hold its own on a GPU of its own.
        if reason is not None:
            return slow_gradients(model, family, batch).on_host(torch.arange(len(batch)))
        pieces = pieces_of(batch, width)
        found = ExampleGradients.joined([fast_gradients(model, family, part_of(batch, rows)) for rows in pieces])
        back = torch.argsort(torch.cat(pieces))
        return found.on_host(back)

    return distributed.spread(batches, of)


def collect(model: Model, family: Family, batches: Sequence[Batch]) -> ExampleGradients:
    """(N, L) of all rows in the order of the batches, in one pass."""
    with undisturbed(model):
        return ExampleGradients.joined(example_gradients(model, family, batches))


class GradientScorer(Generic[S]):
    """Makes a `Scorer` of a function that reads the per-example gradients only: several such share one `collect`.

    Example:
        >>> @GradientScorer
        ... def norm(gradients: ExampleGradients, settings: Method) -> LayerImportance:
        ...     return LayerImportance("norm", tuple(gradients.squared.mean(dim=0).tolist()), "nats²")
    """

    def __init__(self, of: Callable[[ExampleGradients, S], LayerImportance]) -> None:
        self.of = of
        update_wrapper(self, of)

    def __call__(self, model: Model, family: Family, batches: Sequence[Batch], settings: S) -> LayerImportance:
        return self.of(collect(model, family, batches), settings)
