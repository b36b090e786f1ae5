"""Muon: steps of matrices are orthogonal, and all other parameters are AdamW's."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import tiny

from lwc.models.families import block_list, family_of
from lwc.training.loop import parameter_groups
from lwc.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(24, 24), (16, 64), (64, 16)])
def test_orthogonal_keeps_the_directions_and_levels_their_sizes(shape: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(size, min(shape), generator=random))[0] for size in shape)
    sizes = torch.linspace(1.0, 0.1, min(shape))
    found = orthogonal(7.0 * (left * sizes) @ right.T).float()
    inner = left.T @ found @ right
    assert inner.diagonal().min() > 0.65
    assert inner.diagonal().max() < 1.25
    assert (inner - inner.diagonal().diag()).abs().max() < 0.1


def test_a_step_of_a_matrix_has_one_size_whatever_its_gradient() -> None:
    random = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(32, 128, generator=random))
    before, weight.grad = weight.detach().clone(), torch.randn(32, 128, generator=random)
    Muon([{"params": [weight], "orthogonal": True, "weight_decay": 0.0}], lr=1e-2).step()
    moved = (weight.detach() - before).square().mean().sqrt()
    assert float(moved) == pytest.approx(0.6 * 1e-2, rel=0.25)
    decayed = torch.nn.Parameter(before.clone())
    decayed.grad = torch.zeros_like(before)
    Muon([{"params": [decayed], "orthogonal": True, "weight_decay": 0.1}], lr=1e-2).step()
    torch.testing.assert_close(decayed.detach(), before * (1 - 1e-3))


def test_only_the_matrices_of_the_blocks_are_orthogonal() -> None:
    model = tiny("bert", blocks=2)
    groups = parameter_groups(model, 0.01, orthogonal=True)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    chosen = {id(p) for group in groups if group.get("orthogonal") for p in group["params"]}
    blocks = block_list(model, family_of(model))
    assert chosen == {id(p) for p in blocks.parameters() if p.ndim == 2}
    assert len(chosen) == 2 * 6


def test_all_other_parameters_take_the_steps_of_adamw() -> None:
    pairs = []
    for kind in (Muon, torch.optim.AdamW):
        matrix, other = (torch.nn.Parameter(torch.ones(*size)) for size in ((4, 4), (5,)))
        groups = [{"params": [matrix], "orthogonal": True}, {"params": [other]}]
        optimizer = kind(groups, lr=1e-2, fused=True)
        for step in range(3):
            matrix.grad, other.grad = torch.eye(4), torch.full((5,), math.cos(step))
            optimizer.step()
        pairs.append((matrix.detach(), other.detach()))
    torch.testing.assert_close(pairs[0][1], pairs[1][1], rtol=0, atol=0)
    assert not torch.equal(pairs[0][0], pairs[1][0])
