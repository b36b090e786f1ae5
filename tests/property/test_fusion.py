"""Fusion is about order only: units, block numbers and useless methods do not change it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lwc.importance.fusion import fuse, kendall_tau, usable

Scores = dict[str, list[float]]


@st.composite
def methods(draw: st.DrawFn, least: int = 2) -> tuple[Scores, dict[str, float]]:
    blocks = draw(st.integers(least, 8))
    names = draw(st.lists(st.sampled_from("abcde"), min_size=1, max_size=4, unique=True))
    scores = {name: [float(v) for v in draw(st.lists(st.integers(-9, 9), min_size=blocks, max_size=blocks))]
              for name in names}  # fmt: skip
    assume(all(len(set(values)) > 1 for values in scores.values()))
    return scores, {name: draw(st.sampled_from([0.5, 1.0, 2.0])) for name in names}


@given(methods(), st.sampled_from([1e-6, 0.5, 3.0, 1e8]), st.data())
def test_a_methods_unit_does_not_matter(
    case: tuple[Scores, dict[str, float]], scale: float, chosen: st.DataObject
) -> None:
    scores, weights = case
    name = chosen.draw(st.sampled_from(sorted(scores)))
    scaled = {**scores, name: [scale * value for value in scores[name]]}
    assert fuse(scaled, weights) == fuse(scores, weights)
    cubed = {**scores, name: [value**3 for value in scores[name]]}
    assert fuse(cubed, weights) == fuse(scores, weights)


@given(methods(), st.sampled_from([0.5, 4.0]))
def test_only_the_proportion_of_weights_matters(case: tuple[Scores, dict[str, float]], scale: float) -> None:
    scores, weights = case
    other = fuse(scores, {name: scale * weight for name, weight in weights.items()})
    np.testing.assert_allclose(other.scores, fuse(scores, weights).scores, atol=1e-12)


@given(methods(), st.randoms(use_true_random=False))
def test_renumbering_blocks_renumbers_the_result(case: tuple[Scores, dict[str, float]], random: object) -> None:
    scores, weights = case
    order = list(range(len(next(iter(scores.values())))))
    random.shuffle(order)  # type: ignore[attr-defined]
    moved = fuse({name: [values[i] for i in order] for name, values in scores.items()}, weights)
    plain = fuse(scores, weights)
    assert moved.scores == tuple(plain.scores[i] for i in order)


@given(methods(), st.data())
def test_a_higher_score_never_lowers_the_block(case: tuple[Scores, dict[str, float]], chosen: st.DataObject) -> None:
    scores, weights = case
    name = chosen.draw(st.sampled_from(sorted(scores)))
    block = chosen.draw(st.integers(0, len(scores[name]) - 1))
    raised = list(scores[name])
    raised[block] += chosen.draw(st.sampled_from([0.5, 1.0, 20.0]))
    assume(len(set(raised)) > 1)
    before, after = fuse(scores, weights), fuse({**scores, name: raised}, weights)
    assert after.scores[block] >= before.scores[block] - 1e-12
    assert after.ranking.index(block) <= before.ranking.index(block)


@given(methods())
def test_bounds_order_and_sum(case: tuple[Scores, dict[str, float]]) -> None:
    scores, weights = case
    fused = fuse(scores, weights)
    count = len(fused.scores)
    assert all(0 <= value <= 1 for value in fused.scores)
    assert sum(fused.scores) == pytest.approx(count / 2)
    assert sorted(fused.ranking) == list(range(count))
    ordered = [fused.scores[block] for block in fused.ranking]
    assert ordered == sorted(ordered, reverse=True)


@given(methods())
def test_unanimous_methods_keep_their_order(case: tuple[Scores, dict[str, float]]) -> None:
    scores, weights = case
    fused = fuse(scores, weights).scores
    for one in range(len(fused)):
        for other in range(len(fused)):
            if all(values[one] > values[other] for values in scores.values()):
                assert fused[one] > fused[other]


@given(methods(), st.sampled_from(["constant", "rounding", "nan", "inf"]))
def test_a_useless_method_is_named_and_changes_nothing(case: tuple[Scores, dict[str, float]], kind: str) -> None:
    scores, weights = case
    values = [2.0] * len(next(iter(scores.values())))
    values[0] = {"constant": 2.0, "rounding": 2.0 + 1e-14, "nan": float("nan"), "inf": float("inf")}[kind]
    with_it = fuse({**scores, "useless": values}, {**weights, "useless": 7.0})
    plain = fuse(scores, weights)
    assert (with_it.scores, with_it.ranking) == (plain.scores, plain.ranking)
    assert set(with_it.excluded) == {"useless"}
    assert kendall_tau({**scores, "useless": values}) == kendall_tau(scores)


@given(methods())
def test_kendall_tau_is_a_correlation(case: tuple[Scores, dict[str, float]]) -> None:
    scores, _ = case
    names, matrix = kendall_tau(scores)
    assert names == list(scores)
    np.testing.assert_allclose(matrix, np.transpose(matrix), atol=1e-12)
    np.testing.assert_allclose(np.diag(matrix), 1.0)
    assert np.abs(matrix).max() <= 1 + 1e-12
    mirrored = kendall_tau({"a": scores[names[0]], "b": [-v for v in scores[names[0]]]})[1]
    assert mirrored[0][1] == pytest.approx(-1.0)


def test_worked_example() -> None:
    fused = fuse({"a": [1.0, 2.0, 3.0], "b": [10.0, 30.0, 20.0]}, {"a": 3.0, "b": 1.0})
    assert fused.scores == pytest.approx((0.0, (2.25 - 1) / 2, (2.75 - 1) / 2))
    assert fused.ranking == (2, 1, 0)


def test_ties_share_their_rank() -> None:
    assert fuse({"a": [5.0, 5.0, 1.0]}, {}).scores == pytest.approx((0.75, 0.75, 0.0))
    assert fuse({"a": [5.0, 5.0, 1.0]}, {}).ranking == (0, 1, 2)


def test_one_block() -> None:
    assert fuse({"a": [0.3]}, {}).scores == (1.0,)
    assert kendall_tau({"a": [0.3], "b": [2.0]})[1] == [[1.0, 1.0], [1.0, 1.0]]


def test_what_cannot_be_fused() -> None:
    with pytest.raises(ValueError, match="different numbers"):
        fuse({"a": [1.0], "b": [1.0, 2.0]}, {})
    with pytest.raises(ValueError, match="a score is not finite"):
        fuse({"a": [1.0, float("nan")]}, {})
    with pytest.raises(ValueError, match="no method"):
        fuse({"a": [1.0, 2.0]}, {"a": 0.0})
    assert fuse({"a": [1.0, 2.0], "b": [2.0, 1.0]}, {"b": 0.0}).excluded == {"b": "weight 0"}
    assert usable({"a": []})[1] == {}
