"""Fusion depends on order alone, treats blocks alike, and never punishes a block for scoring higher."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lwc.importance.fusion import fuse, kendall_tau, usable

NAMES = ("block_influence", "fisher", "taylor", "ablation")
WEIGHTS = st.sampled_from([0.1, 0.2, 0.3, 0.7, 1.0, 2.5])


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Integer-valued scores (exact under the transforms below, and full of ties) and weights."""
    count = draw(st.integers(1, 8))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    scores = {
        name: [float(value) for value in draw(st.lists(st.integers(-9, 9), min_size=count, max_size=count))]
        for name in names
    }
    assume(usable(scores)[0])
    return scores, {name: draw(WEIGHTS) for name in names}


@given(case=cases(), scale=st.integers(1, 1000), shift=st.integers(-50, 50))
def test_scaling_shifting_and_monotone_transforms_change_nothing(case, scale: int, shift: int) -> None:
    scores, weights = case
    want = fuse(scores, weights)
    for transform in (lambda x: scale * x + shift, lambda x: x**3, lambda x: float(np.exp(x))):
        assert fuse({name: [transform(x) for x in values] for name, values in scores.items()}, weights) == want


@given(case=cases(), data=st.data())
def test_blocks_are_treated_alike(case, data: st.DataObject) -> None:
    scores, weights = case
    count = len(next(iter(scores.values())))
    order = data.draw(st.permutations(range(count)))
    want = fuse(scores, weights).scores
    found = fuse({name: [values[i] for i in order] for name, values in scores.items()}, weights).scores
    assert found == tuple(want[i] for i in order)


@given(case=cases(), factor=st.sampled_from([0.1, 3.0, 7.0]))
def test_order_of_methods_and_unit_of_weights_do_not_matter(case, factor: float) -> None:
    scores, weights = case
    want = fuse(scores, weights)
    assert fuse(dict(reversed(scores.items())), weights) == want
    assert fuse(scores, {name: factor * weight for name, weight in weights.items()}).ranking == want.ranking


@given(case=cases(), data=st.data())
def test_a_higher_score_never_lowers_the_rank(case, data: st.DataObject) -> None:
    scores, weights = case
    block = data.draw(st.integers(0, len(next(iter(scores.values()))) - 1))
    raised = {name: list(values) for name, values in scores.items()}
    for values in raised.values():
        values[block] += data.draw(st.integers(1, 20))
    assume(usable(raised)[0])
    before, after = fuse(scores, weights), fuse(raised, weights)
    assert after.ranking.index(block) <= before.ranking.index(block)


@given(case=cases())
def test_shape_of_the_answer(case) -> None:
    scores, weights = case
    fusion = fuse(scores, weights)
    assert sorted(fusion.ranking) == list(range(len(fusion.scores)))
    assert all(0 <= score <= 1 for score in fusion.scores)
    keys = [(-fusion.scores[block], block) for block in fusion.ranking]
    assert keys == sorted(keys), "best first, ties to the earlier block"
    assert set(fusion.excluded) == set(scores) - set(usable(scores)[0])


@given(case=cases(), bad=st.sampled_from(["nan", "inf", "constant"]), weight=WEIGHTS)
def test_a_method_that_says_nothing_changes_nothing(case, bad: str, weight: float) -> None:
    scores, weights = case
    count = len(next(iter(scores.values())))
    assume(bad != "constant" or count > 1)
    extra = [0.5] * count if bad == "constant" else [float(bad), *range(count - 1)]
    want = fuse(scores, weights)
    found = fuse({**scores, "new": extra}, {**weights, "new": weight})
    assert (found.scores, found.ranking) == (want.scores, want.ranking)
    assert set(found.excluded) == {*want.excluded, "new"}


@given(case=cases())
def test_kendall_tau_is_symmetric_with_ones_on_the_diagonal(case) -> None:
    names, matrix = kendall_tau(case[0])
    found = np.array(matrix)
    assert found.shape == (len(names), len(names))
    np.testing.assert_allclose(found, found.T, atol=1e-12)
    np.testing.assert_allclose(np.diag(found), 1.0)
    assert (np.abs(found) <= 1 + 1e-12).all()


def test_kendall_tau_of_known_orders() -> None:
    names, matrix = kendall_tau({"a": [1, 2, 3], "b": [3, 2, 1], "c": [10, 20, 400], "still": [1, 1, 1]})
    assert names == ["a", "b", "c"]
    np.testing.assert_allclose(matrix, [[1, -1, 1], [-1, 1, -1], [1, -1, 1]])


def test_equal_means_that_differ_in_the_last_digit_are_equal() -> None:
    # 0.1·2 + 0.2·2 + 0.3·1 and 0.1·1 + 0.2·1 + 0.3·2: the same 0.9, but not in float64.
    fusion = fuse({"a": [1, 2], "b": [1, 2], "c": [2, 1]}, {"a": 0.1, "b": 0.2, "c": 0.3})
    assert fusion.scores == pytest.approx((0.5, 0.5))
    assert fusion.ranking == (0, 1)
