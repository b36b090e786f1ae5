"""Full-ranking metrics and floors, against plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lwc.tasks.next_item import floors, ranking
from lwc.tasks.next_item.histories import UNKNOWN
from lwc.tasks.next_item.splits import Train


def place_by_hand(scores: list[float], target: int, seen: list[int]) -> float:
    order = sorted((n for n in range(len(scores)) if n not in seen), key=lambda n: (-scores[n], n))
    return order.index(target) + 1 if target in order else math.inf


def test_places_are_those_of_a_sort_over_the_whole_catalogue() -> None:
    random = np.random.default_rng(0)
    scores = random.integers(0, 4, (60, 25)).astype(float)  # many ties
    targets = random.integers(0, 25, 60)
    seen = [random.permutation(25)[: random.integers(0, 12)].tolist() for _ in range(60)]
    targets[3] = UNKNOWN
    found = ranking.ranks(ranking.without_seen(scores, seen), targets)
    for row in range(60):
        assert found[row] == place_by_hand(scores[row].tolist(), int(targets[row]), seen[row])
    assert math.isinf(found[3])
    lists = ranking.top(ranking.without_seen(scores, seen), 5)
    for row in range(60):
        if found[row] <= 5:
            assert lists[row, int(found[row]) - 1] == targets[row]
        else:
            assert targets[row] not in lists[row]


def test_metrics_of_known_places() -> None:
    values = ranking.per_question(np.array([1.0, 3.0, 10.0, 11.0, math.inf]))
    assert values["hr_at_10"].tolist() == [1, 1, 1, 0, 0]
    assert values["ndcg_at_10"] == pytest.approx([1, 0.5, 1 / math.log2(11), 0, 0])
    assert values["mrr"] == pytest.approx([1, 1 / 3, 1 / 10, 1 / 11, 0])


def test_nan_scores_are_an_error_and_infinite_places_are_not() -> None:
    with pytest.raises(ValueError, match="1 of 2 rows"):
        ranking.without_seen(np.array([[0.0, 1.0], [np.nan, 1.0]]), [[], []])


def test_quality_and_its_intervals() -> None:
    scores = np.tile(np.arange(20, 0, -1, dtype=float), (50, 1))  # the same list for everybody
    targets = np.array([0] * 25 + [19] * 25)
    weights = ranking.resamples(50, 500, 1)
    found, values = ranking.quality(scores, targets, weights)
    assert found["n"] == 50
    assert found["hr_at_10"]["value"] == 0.5
    assert found["coverage"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    # A proportion of a half in 50: 1.96 · √(0.25 / 50) = 0.139.
    assert found["ndcg_at_10"]["low"] == pytest.approx(0.5 - 0.139, abs=0.03)
    assert found["ndcg_at_10"]["high"] == pytest.approx(0.5 + 0.139, abs=0.03)
    assert values["mrr"].mean() == pytest.approx((1 + 1 / 20) / 2)


def test_retention_is_paired_and_has_no_value_without_a_base() -> None:
    weights = ranking.resamples(40, 300, 1)
    base = ranking.per_question(np.array([1.0, 4.0] * 20))
    same = ranking.retention(base, base, weights)
    assert same["ndcg_at_10"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    worse = ranking.per_question(np.array([2.0, 50.0] * 20))
    left = ranking.retention(base, worse, weights)["ndcg_at_10"]
    assert left["value"] == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(5)))
    assert left["low"] < left["value"] < left["high"]
    nothing = ranking.per_question(np.full(40, np.inf))
    assert ranking.retention(nothing, base, weights)["mrr"]["value"] is None
    apart = ranking.difference(base["mrr"], worse["mrr"], weights)
    assert apart["low"] > 0


TRAIN = Train([[0, 1, 2], [0, 1], [2, 0], [3]], [[10, 20, 30], [15, 400], [25, 35], [500]])


def test_popularity_counts_and_recent_popularity_looks_back_only() -> None:
    assert floors.popularity(TRAIN, 5, 2).tolist() == [[3, 2, 2, 1, 0]] * 2
    day = floors.DAY
    train = Train([[0, 1, 2], [1]], [[0, day, 3 * day], [2 * day]])
    found = floors.recent_popularity(train, 3, np.array([2 * day, 3 * day]), 1)
    assert found.tolist() == [[0, 1, 0], [0, 1, 0]]
    assert floors.recent_popularity(train, 3, np.array([9 * day]), 30).tolist() == [[1, 2, 1]]


def test_item_knn_is_cosine_over_users() -> None:
    pytest.importorskip("implicit")
    matrix = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]], dtype=float)
    norms = np.linalg.norm(matrix, axis=0)
    cosine = matrix.T @ matrix / np.outer(norms, norms)
    found = floors.item_knn(TRAIN, 4, [[1], [0, 2], [3], []], 4)
    expected = np.stack([cosine[1], cosine[0] + cosine[2], cosine[3], np.zeros(4)])
    np.testing.assert_allclose(found, expected, atol=1e-9)
