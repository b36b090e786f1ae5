"""Shapley values of blocks: what each adds to the model, averaged over the company it may be in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

import numpy as np

from lwc.core.arrays import Array
from lwc.core.errors import ModelError
from lwc.importance.types import LayerImportance, scorer
from lwc.models.batches import Batch
from lwc.models.families import Family, block_list
from lwc.models.forward.prefix import outcomes
from lwc.models.types import Model
from lwc.recipe import Shap

Coalition = frozenset[int]
MOST_EXACT = 10
_SEED = 0
_ROUNDING = 1e-9


def antithetic(players: int, pairs: int, seed: int = _SEED) -> list[tuple[int, ...]]:
    """``pairs`` random orders of the players, each followed by its reverse."""
    random = np.random.default_rng(seed)
    drawn = [tuple(int(player) for player in random.permutation(players)) for _ in range(pairs)]
    return [order for one in drawn for order in (one, one[::-1])]


def growing(order: Sequence[int]) -> list[Coalition]:
    """The coalitions met while the players join in this order, from nobody to all: one more than there are players."""
    return [frozenset(order[:size]) for size in range(len(order) + 1)]


def all_coalitions(players: int) -> list[Coalition]:
    """Every subset of the players."""
    return [frozenset(chosen) for size in range(players + 1) for chosen in combinations(range(players), size)]


def marginals(value: Mapping[Coalition, float], order: Sequence[int]) -> Array:
    """(players,) what each adds to those who joined before it."""
    gains = np.zeros(len(order))
    for player, (before, after) in zip(order, pairwise(growing(order)), strict=True):
        gains[player] = value[after] - value[before]
    return gains


def sampled(value: Mapping[Coalition, float], orders: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """(values, standard errors) from antithetic ``orders``. One pair has no standard error: NaN."""
    gains = np.stack([marginals(value, order) for order in orders])
    # The two orders of a pair depend on each other; pairs do not.
    pairs = gains.reshape(len(orders) // 2, 2, -1).mean(axis=1)
    error = pairs.std(axis=0, ddof=1) / math.sqrt(len(pairs)) if len(pairs) > 1 else np.full(pairs.shape[1], np.nan)
    return pairs.mean(axis=0), error


def exact(value: Mapping[Coalition, float], players: int) -> Array:
    """Shapley 1953: φ_l = Σ_{S ∌ l} |S|! (n − |S| − 1)! / n! · (v(S ∪ {l}) − v(S)), S over all 2ⁿ⁻¹ coalitions."""
    scores = np.zeros(players)
    for coalition in all_coalitions(players):
        if len(coalition) == players:
            continue
        weight = 1 / (players * math.comb(players - 1, len(coalition)))
        for player in set(range(players)) - coalition:
            scores[player] += weight * (value[coalition | {player}] - value[coalition])
    return scores


def values_of(
    model: Model, family: Family, batches: Sequence[Batch], coalitions: Sequence[Coalition]
) -> dict[Coalition, float]:
    """v(S) = −mean loss (`example_loss`) with all blocks but those of S bypassed; each coalition measured once."""
    everyone = frozenset(range(len(block_list(model, family))))
    found = outcomes(model, family, batches, [everyone - coalition for coalition in coalitions])
    return {everyone - gone: -outcome.loss for gone, outcome in found.items()}


@scorer
def shap(model: Model, family: Family, batches: Sequence[Batch], settings: Shap) -> LayerImportance:
    """Shapley values of the blocks as players, v(S) = −mean loss with the blocks not in S bypassed, in nats.

    φ_l is the mean over orders of the blocks of v(S ∪ {l}) − v(S), S the blocks that come before l in the order, not
    in the model (Shapley 1953; Castro et al. 2009 sample the orders; Lundberg & Lee 2017 named SHAP). Each of the
    ``permutations`` orders is used with its reverse (antithetic pairs, Mitchell et al. 2022, section 4.1), and
    ``details["standard_error"]`` is over pairs: NaN with one pair, 0 if ``exact``, which enumerates all 2ⁿ coalitions.
    Efficiency, Σ φ_l = v(all) − v(none), holds for each order and is checked; ``details["share"]`` is φ_l in parts of
    that difference. Coalitions are measured once, prefixes shared (``prefix``). A negative value: the block does
    harm on the average. Deviation from feature SHAP: an absent block passes its input on, no background data
    is drawn. The orders are the same in every run.

    Raises:
        ModelError: ``exact`` is asked for and the model has more than 10 blocks.
    """
    players = len(block_list(model, family))
    check_players(settings, players)
    if settings.exact:
        value = values_of(model, family, batches, all_coalitions(players))
        scores, error = exact(value, players), np.zeros(players)
    else:
        orders = antithetic(players, settings.permutations)
        value = values_of(model, family, batches, [each for order in orders for each in growing(order)])
        scores, error = sampled(value, orders)
    total = value[frozenset(range(players))] - value[frozenset()]
    check_efficiency(scores, total)
    share = [score / total if total else math.nan for score in scores.tolist()]
    details = {"standard_error": error.tolist(), "share": share}
    return LayerImportance("shap", tuple(scores.tolist()), "nats", details=details)


def check_players(settings: Shap, players: int) -> None:
    """Raise `ModelError` where more blocks are to be enumerated than can be."""
    if settings.exact and players > MOST_EXACT:
        raise ModelError(
            f"exact Shapley values of {players} blocks need {2**players} runs of the calibration set; "
            f"at most {MOST_EXACT} blocks can be enumerated",
            "leave out exact: the sampled values come with their standard errors",
        )


def check_efficiency(scores: Array, total: float) -> None:
    """The values of all players make up what the whole is worth.

    Raises:
        ArithmeticError: they do not, beyond rounding: the sum over orders is wrong. NaN, of a model that is not
            finite, is no such error.
    """
    gap = abs(float(scores.sum()) - total)
    if gap > _ROUNDING * max(1.0, float(np.abs(scores).sum())):
        raise ArithmeticError(f"Shapley values sum to {scores.sum()}, not to v(all) - v(none) = {total}")
