"""Batches: every row once, the same for the same seed, padding never more than the longest row needs."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lwc.models.batches import Encoded, batches

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


def encoded_of(lengths: list[int]) -> Encoded:
    return Encoded([[row + 5] * length for row, length in enumerate(lengths)], None, 0, 64, 0)


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, size=st.integers(1, 9), bucketed=st.booleans(), seed=st.none() | st.integers(0, 9))
def test_every_row_once_with_its_own_tokens_and_label(
    lengths: list[int], size: int, bucketed: bool, seed: int | None
) -> None:
    encoded = encoded_of(lengths)
    labels = np.arange(len(lengths)) * 3
    groups = batches(encoded, labels, size, length_bucketed=bucketed, seed=seed)
    rows = np.concatenate([group.rows.numpy() for group in groups])
    assert sorted(rows.tolist()) == list(range(len(lengths)))
    for group in groups:
        assert 1 <= len(group) <= size
        assert group.mask.shape[1] == max(lengths[row] for row in group.rows.tolist())
        for position, row in enumerate(group.rows.tolist()):
            real = group.mask[position].bool()
            assert group.inputs["input_ids"][position][real].tolist() == encoded.ids[row]
            assert not group.inputs["input_ids"][position][~real].any()
            assert int(group.labels[position]) == labels[row]


@settings(max_examples=30, deadline=None)
@given(lengths=LENGTHS, size=st.integers(1, 9), seed=st.integers(0, 9))
def test_same_seed_same_batches(lengths: list[int], size: int, seed: int) -> None:
    encoded, labels = encoded_of(lengths), np.zeros(len(lengths))
    one, two = (batches(encoded, labels, size, length_bucketed=True, seed=seed) for _ in range(2))
    assert [a.rows.tolist() for a in one] == [b.rows.tolist() for b in two]


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 9), data=st.data())
def test_buckets_pad_no_more_than_the_plain_order(size: int, data: st.DataObject) -> None:
    # Full batches only: a short last one may hold the longest rows in either order.
    count = size * data.draw(st.integers(1, 6))
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=count, max_size=count))
    encoded, labels = encoded_of(lengths), np.zeros(len(lengths))
    plain, bucketed = (
        sum(group.mask.numel() for group in batches(encoded, labels, size, length_bucketed=flag, seed=None))
        for flag in (False, True)
    )
    assert bucketed <= plain
