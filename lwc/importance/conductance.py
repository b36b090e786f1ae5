"""Layer conductance (Dhamdhere, Sundararajan, Yan 2018, "How important is a neuron?", eq. 3) of all blocks at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lwc.core import distributed
from lwc.importance.types import LayerImportance, scorer
from lwc.models.batches import Batch
from lwc.models.families import Family, block_list
from lwc.models.forward.watch import watched
from lwc.models.losses import example_loss
from lwc.models.types import Model
from lwc.recipe import Conductance

Of = Literal["update", "output"]


@dataclass(frozen=True)
class PathConductance:
    """Conductance of every block over one batch.

    ``total`` has one (B, T, D) tensor a block. ``reached`` (B, L) is the conductance of each block's *output*, summed
    over tokens and dimensions, which by completeness is ``change`` (B,) = F(x) − F(baseline). Both are float64.
    """

    total: list[Tensor]
    reached: Tensor
    change: Tensor


@contextmanager
def _on_path(model: Model, fraction: list[float]) -> Iterator[None]:
    """Token embeddings are baseline + fraction[0] · (embedding − baseline); the pass back ends there."""
    table = model.get_input_embeddings()
    padding = getattr(model.config, "pad_token_id", None)
    # Looked up, not read from the table: Gemma's embedding layer scales what it gives.
    baseline = torch.zeros_like(table.weight[0])
    if padding is not None:
        baseline = table(torch.tensor(padding, device=table.weight.device)).detach()

    def interpolate(_: nn.Module, __: tuple[Tensor, ...], embedded: Tensor) -> Tensor:
        return (baseline + fraction[0] * (embedded.detach() - baseline)).requires_grad_()

    handle = table.register_forward_hook(interpolate)
    try:
        yield
    finally:
        handle.remove()


def path_conductance(model: Model, family: Family, batch: Batch, steps: int, of: Of = "update") -> PathConductance:
    """Σₖ ∂F/∂h_out(αₖ) · (y(αₖ₊₁) − y(αₖ)), αₖ = k / steps, y each block's update or output (B, T, D).

    The sum is the one Captum's ``LayerConductance`` takes with ``method="riemann_trapezoid"`` and ``n_steps=steps``
    for y = h_out. F is −`example_loss`: the log-probability of the true label, for a classifier. All blocks share one
    pass forward and one back a step. Memory does not grow with steps: kept are sum, gradient and activation of each
    block at the last point.
    """
    count = len(block_list(model, family))
    total: list[Tensor] = []
    gradients: tuple[Tensor, ...] = ()
    previous: list[Tensor] = []
    before: list[Tensor] = []
    reached = torch.zeros(len(batch), count, dtype=torch.float64, device=batch.labels.device)
    fraction = [0.0]
    values: list[Tensor] = []
    outputs: dict[int, Tensor] = {}
    activations: dict[int, Tensor] = {}

    def look(index: int, before: Tensor, after: Tensor) -> None:
        outputs[index] = after
        activations[index] = after.detach() - before.detach() if of == "update" else after.detach()

    with torch.enable_grad(), _on_path(model, fraction), watched(model, family, look):
        for step in range(steps + 1):
            fraction[0] = step / steps
            logits = model(**batch.inputs).logits
            value = -example_loss(logits, batch.labels)
            if step in (0, steps):
                values.append(value.detach().double())
            reach = [outputs[index] for index in range(count)]
            now = [hidden.detach() for hidden in reach]
            here = [activations[index] for index in range(count)]
            if step == 0:
                total = [torch.zeros_like(hidden) for hidden in here]
            for index, gradient in enumerate(gradients):
                total[index].addcmul_(gradient, here[index] - previous[index])
                reached[:, index] += (gradient * (now[index] - before[index])).double().sum(dim=(1, 2))
            previous, before = here, now
            # The last point only ends the last step. A sum: examples do not mix.
            gradients = torch.autograd.grad(value.sum(), reach) if step < steps else ()
    return PathConductance(total, reached, values[1] - values[0])


@scorer
def conductance(model: Model, family: Family, batches: Sequence[Batch], settings: Conductance) -> LayerImportance:
    """E_n Σ_td |cₙₗₜ|, c = ∫₀¹ ∂F/∂y · ∂y/∂α dα over real tokens t and dimensions d of the block's update y (B, T, D).

    F is −`example_loss`, for a classifier the log-probability of the true label (unit: nats). The path is straight,
    from the embedding of the padding token in every place (zeros where the model has none; models trained with
    ``padding_idx`` mostly hold zeros there anyway) to the embeddings of the text. Positions and token types stay as
    they are, and so does the mask.

    y = h_out − h_in, for a block that normalises its output too. The gradient of F by the update, with the skip path
    held, is the gradient by h_out. Deviations: the paper attributes outputs. By completeness every block's output
    carries the whole of F(x) − F(baseline), so that an output cannot rank blocks; the update of an identity block is 0
    all along the path. Absolute values are taken after the integral, so that parts that help and parts that harm do not
    cancel. The sum is Captum's (see ``path_conductance``).

    ``details``: ``net``, the same without absolute value; ``convergence_delta``, E_n |Σ conductance of the block's
    output − (F(x) − F(baseline))| in nats, which shows whether there were enough steps (the last entry is the model's;
    it stays large for a block that the model reads around, such as DeBERTa's block 0 under a convolution).
    """

    def of(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        found = path_conductance(model, family, batch, settings.steps)
        real = batch.mask.bool().unsqueeze(-1)
        totals = [total.masked_fill(~real, 0.0).double() for total in found.total]
        size = torch.stack([total.abs().sum(dim=(1, 2)) for total in totals], dim=1)
        net = torch.stack([total.sum(dim=(1, 2)) for total in totals], dim=1)
        return size.cpu(), net.cpu(), (found.reached - found.change[:, None]).abs().cpu()

    every = zip(*distributed.spread(batches, of), strict=True)
    means = [torch.cat(values).mean(dim=0).tolist() for values in every]
    details = {"net": means[1], "convergence_delta": means[2]}
    return LayerImportance("conductance", tuple(means[0]), "nats", details=details)
