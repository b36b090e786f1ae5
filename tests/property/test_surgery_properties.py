"""Any subset of blocks: removing equals bypassing, and what is kept keeps its order and weights."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny, tokens

from lwc.models.batches import batches
from lwc.models.families import FAMILIES, block_list, family_of
from lwc.models.forward.predict import predict
from lwc.models.surgery import bypass, parameter_counts, remove_blocks

BLOCKS = 6
MODELS = {name: tiny(name, blocks=BLOCKS) for name in sorted(FAMILIES)}
DATA = batches(tokens(3), np.zeros(3), 3, length_bucketed=True, seed=None)


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(MODELS)), removed=st.sets(st.integers(0, BLOCKS - 1), max_size=BLOCKS - 1))
def test_removed_equals_bypassed(name: str, removed: set[int]) -> None:
    model = MODELS[name]
    family = family_of(model)
    removed -= set(family.protected)
    with bypass(model, family, removed):
        bypassed = predict(model, DATA)
    smaller = remove_blocks(model, family, removed)
    np.testing.assert_allclose(predict(smaller, DATA), bypassed, atol=1e-6, rtol=0)
    assert sum(p.numel() for p in smaller.parameters()) == parameter_counts(model, family).without(removed)
    kept = [index for index in range(BLOCKS) if index not in removed]
    assert getattr(smaller.config, family.depth_field) == smaller.config.num_hidden_layers == len(kept)
    for block, index in zip(block_list(smaller, family), kept, strict=True):
        pairs = zip(block.parameters(), block_list(model, family)[index].parameters(), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(sorted(MODELS)),
    first=st.sets(st.integers(0, BLOCKS - 1), max_size=BLOCKS),
    second=st.sets(st.integers(0, BLOCKS - 1), max_size=BLOCKS),
)
def test_nesting_is_union(name: str, first: set[int], second: set[int]) -> None:
    model = MODELS[name]
    family = family_of(model)
    with bypass(model, family, first), bypass(model, family, second):
        nested = predict(model, DATA)
    with bypass(model, family, first | second):
        assert np.array_equal(predict(model, DATA), nested)
