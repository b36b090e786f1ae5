"""Ranking laws that hold for any scores."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lwc.tasks.next_item import ranking

SCORES = arrays(np.float64, (5, 12), elements=st.integers(-3, 3).map(float))


@settings(max_examples=60, deadline=None)
@given(SCORES, st.lists(st.integers(0, 11), max_size=8), st.integers(0, 11), st.floats(0.1, 9))
def test_a_place_is_a_place_in_the_list_and_order_is_all_that_counts(
    scores: np.ndarray, seen: list[int], target: int, factor: float
) -> None:
    left = ranking.without_seen(scores, [seen] * 5)
    places = ranking.ranks(left, np.full(5, target))
    lists = ranking.top(left, 12)
    for row in range(5):
        if target in seen:
            assert np.isinf(places[row])
        else:
            assert lists[row].tolist().index(target) + 1 == places[row]
            assert places[row] <= 12 - len(set(seen))
    np.testing.assert_array_equal(places, ranking.ranks(left * factor, np.full(5, target)))
    assert not np.isinf(scores).any(), "the caller's scores are left as they are"


@settings(max_examples=40, deadline=None)
@given(arrays(np.float64, 9, elements=st.integers(1, 40).map(float)))
def test_ndcg_lies_between_reciprocal_rank_and_hit_within_ten(places: np.ndarray) -> None:
    values = ranking.per_question(places)
    near = places <= 10
    assert (values["ndcg_at_10"] <= values["hr_at_10"]).all()
    assert (values["ndcg_at_10"][near] >= values["mrr"][near] - 1e-12).all()
    assert (values["ndcg_at_10"][~near] == 0).all()
