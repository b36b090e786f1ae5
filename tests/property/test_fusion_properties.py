"""Fusion treats blocks alike, does not mind a method's unit, and leaves out what says nothing."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lwc.importance.fusion import fuse, kendall_tau, predicted_damage, usable

NAMES = ("block_influence", "fisher", "taylor", "ablation")
WEIGHTS = st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.5])
WAYS = ("mean_rank", "z_score", "robust_rank")
BY_RANK = ("mean_rank", "robust_rank")
QUICK = settings(max_examples=40)
Case = tuple[dict[str, list[float]], dict[str, float]]


@st.composite
def cases(draw: st.DrawFn, least: int = 1, varied: bool = False) -> Case:
    """Integer-valued scores (exact under the transforms below, and full of ties) and weights."""
    count = draw(st.integers(least, 8))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    scores = {
        name: [float(value) for value in draw(st.lists(st.integers(-9, 9), min_size=count, max_size=count))]
        for name in names
    }
    assume(len(usable(scores)[0]) == len(scores) if varied else usable(scores)[0])
    return scores, {name: draw(WEIGHTS) for name in names}


@given(cases(), st.integers(1, 1000), st.integers(-50, 50), st.sampled_from(WAYS))
@QUICK
def test_scaling_shifting_and_monotone_transforms_change_nothing(case: Case, scale: int, shift: int, way: str) -> None:
    scores, weights = case
    want = fuse(scores, weights, way)
    moved = fuse({name: [scale * x + shift for x in values] for name, values in scores.items()}, weights, way)
    np.testing.assert_allclose(moved.scores, want.scores, atol=1e-9)
    if way in BY_RANK:
        for transform in (lambda x: scale * x + shift, lambda x: x**3, lambda x: float(np.exp(x))):
            assert fuse({name: [transform(x) for x in values] for name, values in scores.items()}, weights, way) == want


@given(cases(varied=True), st.sampled_from([1e-6, 0.5, 3.0, 1e8]), st.data())
@QUICK
def test_one_methods_unit_does_not_matter(case: Case, scale: float, data: st.DataObject) -> None:
    scores, weights = case
    name = data.draw(st.sampled_from(sorted(scores)))
    for way in WAYS:
        scaled = fuse({**scores, name: [scale * value for value in scores[name]]}, weights, way)
        np.testing.assert_allclose(scaled.scores, fuse(scores, weights, way).scores, atol=1e-9)


@given(cases(), st.data(), st.sampled_from(WAYS))
@QUICK
def test_renumbering_blocks_renumbers_the_result(case: Case, data: st.DataObject, way: str) -> None:
    scores, weights = case
    order = data.draw(st.permutations(range(len(next(iter(scores.values()))))))
    want = fuse(scores, weights, way).scores
    found = fuse({name: [values[i] for i in order] for name, values in scores.items()}, weights, way).scores
    np.testing.assert_allclose(found, [want[i] for i in order], atol=1e-11)


@given(cases(), st.sampled_from([0.1, 0.5, 3.0, 7.0]), st.sampled_from(WAYS))
@QUICK
def test_order_of_methods_and_unit_of_weights_do_not_matter(case: Case, factor: float, way: str) -> None:
    scores, weights = case
    want = fuse(scores, weights, way)
    assert fuse(dict(reversed(scores.items())), weights, way).ranking == want.ranking
    scaled = fuse(scores, {name: factor * weight for name, weight in weights.items()}, way)
    assert scaled.ranking == want.ranking
    np.testing.assert_allclose(scaled.scores, want.scores, atol=1e-11)


@given(cases(), st.data(), st.sampled_from(BY_RANK))
@QUICK
def test_a_higher_score_never_lowers_the_block(case: Case, data: st.DataObject, way: str) -> None:
    """In one method or in all of them. (A z-score is no rank: one huge score squeezes the distances of all others.)"""
    scores, weights = case
    block = data.draw(st.integers(0, len(next(iter(scores.values()))) - 1))
    chosen = data.draw(st.sampled_from([*([name] for name in sorted(scores)), sorted(scores)]))
    raised = {name: list(values) for name, values in scores.items()}
    for name in chosen:
        raised[name][block] += data.draw(st.sampled_from([0.5, 1.0, 20.0]))
    assume(set(usable(raised)[0]) == set(usable(scores)[0]))
    before, after = fuse(scores, weights, way), fuse(raised, weights, way)
    assert after.scores[block] >= before.scores[block] - 1e-12
    assert after.ranking.index(block) <= before.ranking.index(block)


@given(cases(), st.sampled_from(WAYS))
@QUICK
def test_shape_of_the_answer(case: Case, way: str) -> None:
    scores, weights = case
    fusion = fuse(scores, weights, way)
    count = len(fusion.scores)
    assert sorted(fusion.ranking) == list(range(count))
    keys = [(-fusion.scores[block], block) for block in fusion.ranking]
    assert keys == sorted(keys), "best first, ties to the earlier block"
    assert set(fusion.excluded) == set(scores) - set(usable(scores)[0])
    assert set(fusion.weights) == set(usable(scores)[0])
    assert fusion.method == way
    assert fusion.unit
    assert min(fusion.scores) >= 0
    if way == "mean_rank":
        assert max(fusion.scores) <= 1
        assert sum(fusion.scores) == pytest.approx(count / 2 if count > 1 else 1)
    if way == "z_score" and count > 1:
        assert min(fusion.scores) == 0


@given(cases(least=2, varied=True), st.sampled_from(WAYS))
@QUICK
def test_unanimous_methods_keep_their_order(case: Case, way: str) -> None:
    scores, weights = case
    fused = fuse(scores, weights, way).scores
    for one, other in itertools.permutations(range(len(fused)), 2):
        if all(values[one] > values[other] for values in scores.values()):
            assert fused[one] > fused[other]


@given(cases(), st.sampled_from(["nan", "inf", "constant", "rounding"]), WEIGHTS, st.sampled_from(WAYS))
@QUICK
def test_a_method_that_says_nothing_is_named_and_changes_nothing(case: Case, bad: str, weight: float, way: str) -> None:
    scores, weights = case
    count = len(next(iter(scores.values())))
    assume(bad in ("nan", "inf") or count > 1)
    first = {"constant": 2.0, "rounding": 2.0 + 1e-14, "nan": math.nan, "inf": math.inf}[bad]
    extra = [first, *([2.0] * (count - 1))]
    want = fuse(scores, weights, way)
    found = fuse({**scores, "new": extra}, {**weights, "new": weight}, way)
    assert (found.scores, found.ranking) == (want.scores, want.ranking)
    assert set(found.excluded) == {*want.excluded, "new"}
    assert kendall_tau({**scores, "new": extra}) == kendall_tau(scores)


@given(cases())
@QUICK
def test_kendall_tau_is_a_correlation(case: Case) -> None:
    scores, _ = case
    names, matrix = kendall_tau(scores)
    assert names == [name for name in scores if name in usable(scores)[0]]
    found = np.array(matrix)
    assert found.shape == (len(names), len(names))
    np.testing.assert_allclose(found, found.T, atol=1e-12)
    np.testing.assert_allclose(np.diag(found), 1.0)
    assert (np.abs(found) <= 1 + 1e-12).all()
    if len(scores[names[0]]) > 1:
        mirrored = kendall_tau({"a": scores[names[0]], "b": [-v for v in scores[names[0]]]})[1]
        assert mirrored[0][1] == pytest.approx(-1.0)


def test_kendall_tau_of_known_orders() -> None:
    names, matrix = kendall_tau({"a": [1, 2, 3], "b": [3, 2, 1], "c": [10, 20, 400], "still": [1, 1, 1]})
    assert names == ["a", "b", "c"]
    np.testing.assert_allclose(matrix, [[1, -1, 1], [-1, 1, -1], [1, -1, 1]])
    assert kendall_tau({"a": [0.3], "b": [2.0]})[1] == [[1.0, 1.0], [1.0, 1.0]]


def test_mean_rank_by_hand() -> None:
    fused = fuse({"a": [1.0, 2.0, 3.0], "b": [10.0, 30.0, 20.0]}, {"a": 3.0, "b": 1.0})
    assert fused.scores == pytest.approx((0.0, (2.25 - 1) / 2, (2.75 - 1) / 2))
    assert fused.ranking == (2, 1, 0)
    ties = fuse({"a": [5.0, 5.0, 1.0]}, {})
    assert ties.scores == pytest.approx((0.75, 0.75, 0.0))
    assert ties.ranking == (0, 1, 2)
    assert fuse({"a": [0.3]}, {}).scores == (1.0,)


def test_equal_means_that_differ_in_the_last_digit_are_equal() -> None:
    # 0.1·2 + 0.2·2 + 0.3·1 and 0.1·1 + 0.2·1 + 0.3·2: the same 0.9, but not in float64.
    fusion = fuse({"a": [1, 2], "b": [1, 2], "c": [2, 1]}, {"a": 0.1, "b": 0.2, "c": 0.3})
    assert fusion.scores == pytest.approx((0.5, 0.5))
    assert fusion.ranking == (0, 1)


def test_weights_weigh() -> None:
    scores = {"fisher": [1.0, 2.0, 3.0], "taylor": [3.0, 2.0, 1.0]}
    assert fuse(scores, {}).scores == (0.5, 0.5, 0.5)
    assert fuse(scores, {}).ranking == (0, 1, 2)
    assert fuse(scores, {"fisher": 3.0}).scores == (0.25, 0.5, 0.75)
    assert fuse(scores, {"fisher": 3.0}, "z_score").ranking == (2, 1, 0)
    assert fuse(scores, {"fisher": 3.0}, "robust_rank") == fuse(scores, {}, "robust_rank"), "the paper has no weights"


def test_z_score_by_hand() -> None:
    fused = fuse({"a": [0.0, 0.0, 3.0], "b": [1.0, 2.0, 3.0]}, {"a": 1.0, "b": 3.0}, "z_score")
    one, other = np.array([-1, -1, 2]) / math.sqrt(2), np.array([-1, 0, 1]) / math.sqrt(2 / 3)
    want = (one + 3 * other) / 4
    np.testing.assert_allclose(fused.scores, want - want.min(), atol=1e-12)


@given(cases(least=2, varied=True))
@settings(max_examples=30, deadline=None)
def test_robust_rank_is_the_paper(case: Case) -> None:
    """ρ = min_k P(k-th smallest of n uniform numbers ≤ r_(k)), the binomial sum written out."""
    scores, _ = case
    blocks, methods = len(next(iter(scores.values()))), len(scores)
    found = fuse(scores, {}, "robust_rank").scores
    for block in range(blocks):
        ranks = []
        for values in scores.values():
            above = sum(value > values[block] for value in values)
            equal = sum(value == values[block] for value in values)
            ranks.append((above + (equal + 1) / 2) / blocks)
        ranks.sort()
        rho = min(
            sum(math.comb(methods, m) * r**m * (1 - r) ** (methods - m) for m in range(k, methods + 1))
            for k, r in enumerate(ranks, start=1)
        )
        assert found[block] == pytest.approx(-math.log10(rho), abs=1e-9)


def test_robust_rank_favours_what_some_put_on_top() -> None:
    """Three methods agree on block 0 and on nothing else; the fourth puts it last, which a mean rank would mind."""
    scores = {"a": [99, *range(11)], "b": [99, *range(11, 0, -1)], "c": [99, 5, 2, 9, 1, 8, 4, 7, 3, 10, 6, 11]}
    scores["d"] = [0, *range(6, 12), *range(1, 6)]
    assert fuse(scores, {}, "robust_rank").ranking[0] == 0
    assert fuse({"a": scores["a"], "d": scores["d"]}, {}, "mean_rank").ranking[0] != 0


def planted(seed: int = 0, blocks: int = 8, count: int = 24, noise: float = 0.0) -> tuple[dict[str, Any], list[Any]]:
    """Loss rises by 3 × scores of the good method; the other two are noise."""
    random = np.random.default_rng(seed)
    scores = {name: random.random(blocks).tolist() for name in ("good", "noise", "more")}
    sets = [frozenset(random.choice(blocks, blocks // 2, replace=False).tolist()) for _ in range(count)]
    losses = [0.4 + 3 * sum(scores["good"][b] for b in one) + noise * random.standard_normal() for one in sets]
    return scores, list(zip(sets, losses, strict=True))


def test_learned_finds_the_method_that_predicts() -> None:
    scores, measured = planted()
    fused = fuse(scores, {}, "learned", measured)
    assert fused.unit == "nats, fitted"
    assert fused.weights["good"] == pytest.approx(3 * max(scores["good"]), rel=1e-3)
    assert max(fused.weights["noise"], fused.weights["more"]) < 1e-2
    np.testing.assert_allclose(fused.scores, 3 * np.array(scores["good"]), atol=2e-2)
    assert fused.learned is not None
    assert fused.learned["held_out_r2"] > 0.999
    assert fused.learned["subsets"] == 24
    assert fuse(scores, {}, "learned", measured) == fused, "nothing is drawn"


@given(st.integers(0, 50), st.sampled_from([1e-6, 1.0, 1e6]))
@settings(max_examples=20, deadline=None)
def test_learned_weights_are_not_negative_and_units_do_not_matter(seed: int, scale: float) -> None:
    scores, measured = planted(seed, noise=0.5)
    fused = fuse(scores, {}, "learned", measured)
    assert min(fused.weights.values()) >= 0
    scaled = fuse({**scores, "good": [scale * value for value in scores["good"]]}, {}, "learned", measured)
    np.testing.assert_allclose(scaled.scores, fused.scores, rtol=1e-6, atol=1e-9)
    order = list(range(7, -1, -1))
    moved = fuse({name: [values[i] for i in order] for name, values in scores.items()}, {}, "learned",
                 [(frozenset(7 - b for b in one), loss) for one, loss in measured])  # fmt: skip
    np.testing.assert_allclose(moved.scores, fused.scores[::-1], rtol=1e-6, atol=1e-9)


def test_learned_predictions_are_held_out() -> None:
    """Losses that have nothing to do with any method are remembered in-sample, and not predicted out of it."""
    scores, measured = planted(noise=0.0)
    noise = [(one, float(loss)) for (one, _), loss in zip(measured, np.random.default_rng(5).random(24), strict=True)]
    losses = np.array([loss for _, loss in noise])
    held_out = predicted_damage(scores, {}, "learned", noise)
    assert np.corrcoef(held_out, losses)[0, 1] < 0.3
    good = predicted_damage(scores, {}, "learned", measured)
    np.testing.assert_allclose(good, [loss for _, loss in measured], atol=2e-2)
    changed = [(one, loss + (100 if i == 3 else 0)) for i, (one, loss) in enumerate(measured)]
    assert predicted_damage(scores, {}, "learned", changed)[3] == good[3], "its own loss does not count"


def test_predicted_damage_is_the_sum_of_the_removed() -> None:
    scores = {"a": [1.0, 2.0, 3.0]}
    np.testing.assert_allclose(predicted_damage(scores, {}, "mean_rank", [({0, 2}, 9.0), ({1}, 9.0)]), [1.0, 0.5])


def test_learned_leaves_out_by_name_and_says_what_it_lacks() -> None:
    scores, measured = planted()
    found = fuse({**scores, "still": [1.0] * 8, "off": scores["noise"]}, {"off": 0.0}, "learned", measured)
    assert found.excluded == {"still": "all blocks score the same", "off": "weight 0"}
    assert set(found.weights) == {"good", "noise", "more"}
    for few in (None, [], measured[:3]):
        with pytest.raises(ValueError, match="losses of"):
            fuse(scores, {}, "learned", few)
    with pytest.raises(ValueError, match="not finite"):
        fuse(scores, {}, "learned", [*measured[:9], (measured[9][0], math.nan)])
    with pytest.raises(ValueError, match="nothing to learn"):
        fuse({"good": scores["good"]}, {}, "learned", [(one, -loss) for one, loss in measured])


@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_be_fused(way: str) -> None:
    with pytest.raises(ValueError, match="different numbers"):
        fuse({"a": [1.0], "b": [1.0, 2.0]}, {}, way)
    with pytest.raises(ValueError, match="a score is not finite"):
        fuse({"a": [1.0, math.nan]}, {}, way)
    with pytest.raises(ValueError, match="no method"):
        fuse({"a": [1.0, 2.0]}, {"a": 0.0}, way)
    assert fuse({"a": [1.0, 2.0], "b": [2.0, 1.0]}, {"b": 0.0}, way).excluded == {"b": "weight 0"}


def test_a_method_without_information_is_excluded_by_name() -> None:
    good = [0.1, 0.3, 0.2]
    fusion = fuse({"fisher": good, "taylor": [1.0, math.nan, 2.0], "ablation": [0.5] * 3}, {})
    assert fusion.excluded == {"taylor": "a score is not finite", "ablation": "all blocks score the same"}
    assert fusion.scores == fuse({"fisher": good}, {}).scores == (0.0, 1.0, 0.5)
    assert fusion.ranking == (1, 2, 0)
    assert set(usable({"a": [math.inf, 1.0], "b": [0.0, 0.0]})[1]) == {"a", "b"}
    assert set(usable({"a": [0.3, 0.1 + 0.2]})[1]) == {"a"}, "equal but for rounding is equal"
    assert usable({"a": []})[1] == {}
