"""Metrics against scikit-learn, and intervals against plain row resampling."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from lwc.metrics import classification as metrics


def _case(seed: int, n: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    return labels, logits


@pytest.mark.parametrize(("n", "classes"), [(40, 2), (200, 2), (300, 5)])
def test_equal_to_scikit_learn(n: int, classes: int) -> None:
    labels, logits = _case(n, n, classes)
    predictions = logits.argmax(1)
    assert metrics.accuracy(labels, predictions) == pytest.approx(sk.accuracy_score(labels, predictions))
    assert metrics.macro_f1(labels, predictions) == pytest.approx(sk.f1_score(labels, predictions, average="macro"))
    balanced = metrics.classification_quality(labels, logits, 10, 0)["balanced_accuracy"]["value"]
    assert balanced == pytest.approx(sk.balanced_accuracy_score(labels, predictions))
    expected = sk.confusion_matrix(labels, predictions, labels=range(classes))
    assert (metrics.confusion_matrix(labels, predictions, classes) == expected).all()


def test_class_only_ever_predicted_counts_as_zero_f1() -> None:
    labels, predictions = [0, 0, 1, 1], [0, 2, 1, 1]
    assert metrics.macro_f1(labels, predictions) == pytest.approx(
        sk.f1_score(labels, predictions, average="macro", zero_division=0)
    )


def test_majority_answers_look_good_in_accuracy_and_bad_in_macro_f1() -> None:
    labels = np.array([0] * 10 + [1])
    always = np.zeros(11, dtype=int)
    assert metrics.accuracy(labels, always) > 0.9
    assert metrics.macro_f1(labels, always) < 0.5
    quality = metrics.classification_quality(labels, np.eye(2)[always], 10, 0)
    assert quality["balanced_accuracy"]["value"] == 0.5


def test_calibration_error_by_hand() -> None:
    # Two rows at confidence 0.75, one right: |0.5 - 0.75|; two rows at 0.9, both right: |1 - 0.9|.
    p = np.array([[0.75, 0.25], [0.75, 0.25], [0.9, 0.1], [0.9, 0.1]])
    assert metrics.expected_calibration_error([0, 1, 0, 0], np.log(p)) == pytest.approx(0.5 * 0.25 + 0.5 * 0.1)


def test_cell_resampling_agrees_with_row_resampling() -> None:
    labels, logits = _case(3, 250, 3)
    quality = metrics.classification_quality(labels, logits, 4000, 1)
    rng = np.random.default_rng(9)
    predictions = logits.argmax(1)
    for name, value in [("macro_f1", metrics.macro_f1), ("accuracy", metrics.accuracy)]:
        rows = rng.integers(0, 250, size=(2000, 250))
        draws = [value(labels[r], predictions[r]) for r in rows]
        low, high = np.percentile(draws, [2.5, 97.5])
        assert quality[name]["low"] == pytest.approx(low, abs=0.01)
        assert quality[name]["high"] == pytest.approx(high, abs=0.01)


def test_paired_retention_of_a_model_with_itself_is_exactly_one() -> None:
    labels, logits = _case(4, 120, 3)
    predictions = logits.argmax(1)
    for entry in metrics.retention(labels, predictions, predictions, 500, 0).values():
        assert entry == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_pairing_narrows_the_retention_interval() -> None:
    labels, logits = _case(5, 400, 2)
    base = logits.argmax(1)
    other = base.copy()
    other[:4] = 1 - other[:4]
    paired = metrics.retention(labels, base, other, 2000, 0)["accuracy"]
    single = metrics.classification_quality(labels, logits, 2000, 0)["accuracy"]
    assert paired["low"] is not None
    assert paired["high"] is not None
    assert paired["high"] - paired["low"] < 0.5 * (single["high"] - single["low"])


def test_retention_of_a_base_that_is_never_right_is_not_a_number() -> None:
    assert metrics.retention([0, 0], [1, 1], [0, 0], 100, 0)["accuracy"]["value"] is None


def test_same_seed_same_intervals() -> None:
    labels, logits = _case(6, 90, 3)
    first = metrics.classification_quality(labels, logits, 300, 11)
    assert first == metrics.classification_quality(labels, logits, 300, 11)
    assert first["macro_f1"] != metrics.classification_quality(labels, logits, 300, 12)["macro_f1"]


def test_non_finite_logits_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 rows have non-finite logits"):
        metrics.classification_quality([0, 1], [[0.0, float("nan")], [0.0, 1.0]], 100, 0)
    with pytest.raises(ValueError, match="equal one-dimensional"):
        metrics.accuracy([0, 1], [0])
    with pytest.raises(ValueError, match="no examples"):
        metrics.accuracy([], [])
    with pytest.raises(ValueError, match="does not fit"):
        metrics.confusion_matrix([0, 3], [0, 1], 2)
