"""Conductance of all blocks in one pass against a literal loop and against Captum, one block at a time."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LayerConductance
from grid import families, kept
from planted import with_identity
from tiny_models import tiny, tokens
from torch import Tensor, nn

from lwc.importance.conductance import conductance, path_conductance
from lwc.models.batches import batches
from lwc.models.families import FAMILIES, block_list, family_of, hidden_states
from lwc.recipe import Conductance

STEPS = 6
CONFIG = Conductance(method="conductance", steps=STEPS)
ENCODED = tokens(5, seed=2)
LABELS = np.arange(5) % 3


class OfEmbeddings(nn.Module):
    """The model as a function of embeddings (B, T, D), unpadded: log-probabilities (B, C)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, embeddings: Tensor) -> Tensor:
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
        return self.model(inputs_embeds=embeddings, attention_mask=mask).logits.log_softmax(dim=-1)


def ends(model: Any, text: list[int]) -> tuple[Tensor, Tensor]:
    """(baseline, embeddings) of one text, (1, T, D) both: the padding token in every place, and the tokens."""
    words = model.get_input_embeddings()  # a layer, not a table: Gemma's scales what it looks up
    table = words(torch.arange(len(words.weight))).detach()
    return table[[model.config.pad_token_id] * len(text)][None], table[text][None]


def trace(model: Any, embeddings: Tensor, label: int) -> tuple[list[Tensor], list[Tensor], list[Tensor], float]:
    """Inputs, outputs and gradients by the outputs of all blocks, and log p(label), at one point of the path."""
    inputs, outputs = [], []

    def keep(_: Any, args: Any, output: Any) -> None:
        inputs.append(args[0])
        outputs.append(hidden_states(output))

    handles = [block.register_forward_hook(keep) for block in block_list(model, family_of(model))]
    value = OfEmbeddings(model)(embeddings.requires_grad_())[0, label]
    for handle in handles:
        handle.remove()
    gradients = [torch.autograd.grad(value, output, retain_graph=True)[0] for output in outputs]
    return [x.detach() for x in inputs], [y.detach() for y in outputs], gradients, value.item()


def literal(
    model: Any, text: list[int], label: int, of: Callable[[Tensor, Tensor], Tensor]
) -> tuple[list[Tensor], float]:
    """Every point of the path by itself; of(h_in, h_out) is what is attributed. ([(1, T, D)] of the blocks, ΔF)."""
    start, end = ends(model, text)
    points = [trace(model, start + k / STEPS * (end - start), label) for k in range(STEPS + 1)]
    total = []
    for index in range(len(points[0][0])):
        activation = [of(inputs[index], outputs[index]) for inputs, outputs, _, _ in points]
        total.append(sum(points[k][2][index] * (activation[k + 1] - activation[k]) for k in range(STEPS)))
    return total, points[-1][3] - points[0][3]


# Without padding, so that positions that RoBERTa and MPNet count from token ids are the same from embeddings.
@pytest.mark.parametrize("model_type", families(sorted(FAMILIES)))
def test_scores_are_the_literal_sum(model_type: str) -> None:
    model = tiny(model_type, blocks=3)
    size, net, gap = np.zeros(3), np.zeros(3), np.zeros(3)
    for text, label in zip(ENCODED.ids, LABELS, strict=True):
        update, change = literal(model, text, int(label), lambda before, after: after - before)
        output, _ = literal(model, text, int(label), lambda before, after: after)
        size += [float(values.abs().sum()) for values in update]
        net += [float(values.sum()) for values in update]
        gap += [abs(float(values.sum()) - change) for values in output]
    for size_of_batch in (1, 3):
        data = batches(ENCODED, LABELS, size_of_batch, length_bucketed=False, seed=None)
        found = conductance(model, family_of(model), data, CONFIG)
        np.testing.assert_allclose(found.scores, size / 5, rtol=1e-4)
        np.testing.assert_allclose(found.details["net"], net / 5, rtol=1e-3, atol=1e-5 * size.max())
        np.testing.assert_allclose(found.details["convergence_delta"], gap / 5, rtol=1e-3, atol=1e-5 * size.max())


@pytest.mark.parametrize("steps", [2, 16])
@pytest.mark.parametrize("model_type", ["bert", "distilbert", "electra", "modernbert", "roberta"])
def test_outputs_are_captums(model_type: str, steps: int) -> None:
    """Conductance of block outputs, where the definitions coincide: to 1e-4 of the largest, element by element."""
    model = tiny(model_type, blocks=3)
    family = family_of(model)
    data = batches(ENCODED, LABELS, 3, length_bucketed=False, seed=None)
    for batch in data:
        found = path_conductance(model, family, batch, steps, of="output")
        for position, row in enumerate(batch.rows.tolist()):
            start, end = ends(model, ENCODED.ids[row])
            for index, block in enumerate(block_list(model, family)):
                captum = LayerConductance(OfEmbeddings(model), block).attribute(
                    end, start, target=int(LABELS[row]), n_steps=steps, method="riemann_trapezoid"
                )
                want = (captum[0] if isinstance(captum, tuple) else captum).detach()
                mine = found.total[index][position : position + 1, : want.shape[1]]
                torch.testing.assert_close(mine, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
                assert float(mine.abs().sum()) == pytest.approx(float(want.abs().sum()), rel=1e-4)


@pytest.mark.parametrize("model_type", kept(["bert", "modernbert", "deberta-v2", "mpnet"], ["modernbert"]))
def test_completeness_comes_with_steps(model_type: str) -> None:
    model = tiny(model_type, blocks=3)
    data = batches(ENCODED, LABELS, 5, length_bucketed=False, seed=None)
    deltas = [
        max(
            conductance(model, family_of(model), data, Conductance(method="conductance", steps=steps)).details[
                "convergence_delta"
            ]
        )
        for steps in (8, 64, 512)
    ]
    assert deltas[2] < deltas[0] / 4
    change = path_conductance(model, family_of(model), data[0], 2).change
    assert deltas[2] < 0.05 * float(change.abs().mean()) + 1e-3


def test_an_output_cannot_rank_blocks_but_an_update_can() -> None:
    """A dead block's output carries all of its predecessor's conductance; its update carries none."""
    model = with_identity("modernbert", 2)
    (batch,) = batches(ENCODED, LABELS, 5, length_bucketed=False, seed=None)
    output = path_conductance(model, family_of(model), batch, 16, of="output").total
    update = path_conductance(model, family_of(model), batch, 16).total
    torch.testing.assert_close(output[2], output[1])
    assert float(output[2].abs().sum()) > 0
    assert float(update[2].abs().sum()) == 0.0


def test_padding_gets_nothing() -> None:
    model = tiny("bert", blocks=3)
    (batch,) = batches(ENCODED, LABELS, 5, length_bucketed=False, seed=None)
    assert int((batch.mask == 0).sum()) > 0
    for total in path_conductance(model, family_of(model), batch, 4).total:
        assert float(total[batch.mask == 0].abs().max()) == 0.0


def test_tensors_alive_do_not_grow_with_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted at the last step back: what earlier steps held is gone."""
    model = tiny("bert", blocks=3)
    (batch,) = batches(ENCODED, LABELS, 5, length_bucketed=False, seed=None)
    alive: list[int] = []
    plain = torch.autograd.grad

    def counting(*args: Any, **kwargs: Any) -> Any:
        alive.append(sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()))
        return plain(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counting)
    path_conductance(model, family_of(model), batch, 12)
    assert len(alive) == 12
    assert max(alive[2:]) == min(alive[2:])
