"""Shapley values of blocks: their axioms, their sampling and their errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from planted import data
from tiny_models import tiny

from lwc.core.errors import ModelError
from lwc.importance.ablation import ablation
from lwc.importance.shap import all_coalitions, antithetic, check_efficiency, exact, growing, sampled, shap
from lwc.models.families import family_of
from lwc.models.forward.predict import loss_and_accuracy
from lwc.models.surgery import bypass
from lwc.recipe import Ablation, Shap

EXACT = Shap(method="shap", exact=True)


def test_orders_come_with_their_reverse_and_are_the_same_every_time() -> None:
    orders = antithetic(6, 3)
    assert len(orders) == 6
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert all(orders[one] == orders[one + 1][::-1] for one in (0, 2, 4))
    assert orders == antithetic(6, 3)
    assert orders != antithetic(6, 3, seed=1)
    assert growing((2, 0)) == [frozenset(), frozenset([2]), frozenset([0, 2])]


def test_a_glove_game_by_hand() -> None:
    """Player 0 has a left glove, 1 and 2 a right one; a pair is worth 1: the values are 2/3, 1/6, 1/6."""
    value = {each: float(0 in each and len(each) > 1) for each in all_coalitions(3)}
    np.testing.assert_allclose(exact(value, 3), [2 / 3, 1 / 6, 1 / 6])


def test_an_additive_game_has_no_sampling_error_and_an_even_interaction_none_with_reverses() -> None:
    worth = np.array([3.0, -1.0, 0.5, 0.0])
    value = {each: float(sum(worth[player] for player in each)) for each in all_coalitions(4)}
    scores, error = sampled(value, antithetic(4, 3))
    np.testing.assert_allclose(scores, worth)
    np.testing.assert_allclose(error, 0, atol=1e-12)
    pairs = {each: float(len(each) * (len(each) - 1) / 2) for each in all_coalitions(4)}
    scores, error = sampled(pairs, antithetic(4, 2))
    np.testing.assert_allclose(scores, exact(pairs, 4))
    np.testing.assert_allclose(error, 0, atol=1e-12)


def test_the_standard_error_is_that_of_pairs() -> None:
    random = np.random.default_rng(0)
    value = {each: float(random.normal()) for each in all_coalitions(5)}
    want = exact(value, 5)
    runs = [sampled(value, antithetic(5, 40, seed=seed)) for seed in range(200)]
    distance = np.array([(scores - want) / error for scores, error in runs])
    assert np.abs(distance.mean(axis=0)).max() < 0.3
    assert 0.85 < distance.std() < 1.2
    assert np.isnan(sampled(value, antithetic(5, 1))[1]).all()


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
@pytest.mark.parametrize("config", [Shap(method="shap"), EXACT, Shap(method="shap", permutations=1)])
def test_values_sum_to_what_all_blocks_are_worth(model_type: str, config: Shap) -> None:
    model = tiny(model_type)
    family, calibration = family_of(model), data(model)
    result = shap(model, family, calibration, config)
    with bypass(model, family, range(4)):
        none = loss_and_accuracy(model, calibration)[0]
    assert sum(result.scores) == pytest.approx(none - loss_and_accuracy(model, calibration)[0], abs=1e-9)
    assert sum(result.details["share"]) == pytest.approx(1.0)


def test_sampling_comes_near_the_exact_values() -> None:
    model = tiny("modernbert", blocks=5)
    family, calibration = family_of(model), data(model)
    want = np.array(shap(model, family, calibration, EXACT).scores)
    found = shap(model, family, calibration, Shap(method="shap", permutations=40))
    error = np.array(found.details["standard_error"])
    assert (error > 0).all()
    assert (np.abs(np.array(found.scores) - want) < 4 * error).all()


def test_one_block_is_worth_its_ablation() -> None:
    model = tiny("bert", blocks=1)
    calibration = data(model)
    want = ablation(model, family_of(model), calibration, Ablation(method="ablation")).scores
    for config in (Shap(method="shap"), EXACT):
        assert shap(model, family_of(model), calibration, config).scores == pytest.approx(want)


def test_too_many_blocks_to_enumerate_is_one_clear_error() -> None:
    model = tiny("bert", blocks=11)
    with pytest.raises(ModelError, match="at most 10 blocks") as caught:
        shap(model, family_of(model), data(model), EXACT)
    assert "standard errors" in caught.value.hint
    assert shap(tiny("bert", blocks=3), family_of(model), data(model), EXACT).details["standard_error"] == [0.0] * 3


def test_values_that_do_not_sum_up_are_a_bug_and_nan_is_not() -> None:
    check_efficiency(np.array([1.0, 2.0]), 3.0)
    check_efficiency(np.array([math.nan, 2.0]), math.nan)
    with pytest.raises(ArithmeticError, match="sum to"):
        check_efficiency(np.array([1.0, 2.0]), 3.1)
