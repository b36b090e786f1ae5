"""Fisher and Taylor against a loop over single examples, written from the formulas and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from grid import families
from tiny_models import tiny, tokens

from lwc.importance.fisher import fisher
from lwc.importance.per_example import fast_gradients, slow_gradients, uncovered
from lwc.importance.taylor import taylor
from lwc.models.batches import batches
from lwc.models.families import FAMILIES, block_list, family_of
from lwc.recipe import EmpiricalFisher, Taylor

FISHER, TAYLOR = EmpiricalFisher(method="fisher"), Taylor(method="taylor")

TYPES = sorted(FAMILIES)


def oracle(model: Any, texts: list[list[int]], labels: np.ndarray) -> dict[str, list[float]]:
    """One text at a time, without padding: its gradient of log p(label | text), then the sums of the docstrings."""
    blocks = block_list(model, family_of(model))
    sums = {name: np.zeros(len(blocks)) for name in ("trace", "fisher", "taylor")}
    for text, label in zip(texts, labels, strict=True):
        model.zero_grad()
        torch.log_softmax(model(input_ids=torch.tensor([text])).logits[0], dim=0)[label].backward()
        for index, block in enumerate(blocks):
            linear = 0.0
            for module in block.modules():
                for parameter in module.parameters(recurse=False):
                    if parameter.grad is None:
                        continue
                    gradient, weight = parameter.grad.double().numpy(), parameter.detach().double().numpy()
                    sums["trace"][index] += (gradient**2).sum()
                    if not type(module).__name__.endswith("Norm"):
                        rows = [np.sum(g * w) for g, w in zip(gradient, weight, strict=True)]
                        sums["fisher"][index] += sum(row**2 for row in rows)
                        linear += sum(rows)
            sums["taylor"][index] += abs(linear)
    model.zero_grad()
    return {name: list(values / len(texts)) for name, values in sums.items()}


@pytest.mark.parametrize("longest", [12, 30])
@pytest.mark.parametrize("model_type", families(TYPES))
def test_equals_the_loop(model_type: str, longest: int) -> None:
    model = tiny(model_type, blocks=3)
    encoded, labels = tokens(9, seed=2, longest=longest), np.arange(9) % 3
    expected = oracle(model, encoded.ids, labels)
    calibration = batches(encoded, labels, 4, length_bucketed=True, seed=None)
    found = fisher(model, family_of(model), calibration, FISHER)
    np.testing.assert_allclose(found.details["trace"], expected["trace"], rtol=1e-5)
    np.testing.assert_allclose(found.scores, expected["fisher"], rtol=1e-5)
    np.testing.assert_allclose(
        taylor(model, family_of(model), calibration, TAYLOR).scores, expected["taylor"], rtol=1e-4
    )


# Decoders have RMSNorm or Conv1D, which are scored one example at a time: exact, and slower.
BATCHED = ["bert", "camembert", "distilbert", "electra", "modernbert", "mpnet", "roberta", "xlm-roberta"]


@pytest.mark.parametrize("model_type", BATCHED)
def test_fast_way_covers_the_family_and_equals_the_slow_way(model_type: str) -> None:
    model = tiny(model_type, blocks=3)
    family = family_of(model)
    (batch,) = batches(tokens(6), np.arange(6) % 3, 6, length_bucketed=True, seed=None)
    assert uncovered(model, family, batch) is None
    fast, slow = fast_gradients(model, family, batch), slow_gradients(model, family, batch)
    for name in ("squared", "dot", "units"):
        expected = getattr(slow, name)
        torch.testing.assert_close(getattr(fast, name), expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def test_biases_and_gains_count() -> None:
    """With every parameter away from its initial 0 or 1, nothing is right by luck."""
    model = tiny("bert", blocks=2)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    encoded, labels = tokens(5), np.arange(5) % 3
    expected = oracle(model, encoded.ids, labels)
    found = fisher(model, family_of(model), batches(encoded, labels, 5, length_bucketed=True, seed=None), FISHER)
    np.testing.assert_allclose(found.details["trace"], expected["trace"], rtol=1e-5)
    np.testing.assert_allclose(found.scores, expected["fisher"], rtol=1e-5)
