"""What must hold of metrics for any labels and predictions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from lwc.metrics import classification as metrics

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


@given(pairs)
@settings(max_examples=60, deadline=None)
def test_bounds_and_scikit_learn(rows: list[tuple[int, int]]) -> None:
    labels, predictions = (np.array(column) for column in zip(*rows, strict=True))
    f1 = sk.f1_score(labels, predictions, average="macro", zero_division=0)
    assert metrics.macro_f1(labels, predictions) == pytest.approx(f1)
    for metric in (metrics.accuracy, metrics.macro_f1):
        assert 0 <= metric(labels, predictions) <= 1
    assert metrics.confusion_matrix(labels, predictions, 5).sum() == len(rows)


@given(pairs, st.integers(0, 2**31 - 1), st.permutations(range(5)))
@settings(max_examples=60, deadline=None)
def test_row_order_and_class_names_do_not_matter(rows: list[tuple[int, int]], seed: int, renamed: list[int]) -> None:
    labels, predictions = (np.array(column) for column in zip(*rows, strict=True))
    order = np.random.default_rng(seed).permutation(len(rows))
    name = np.array(renamed)
    for metric in (metrics.accuracy, metrics.macro_f1):
        value = metric(labels, predictions)
        assert metric(labels[order], predictions[order]) == pytest.approx(value)
        assert metric(name[labels], name[predictions]) == pytest.approx(value)


@given(pairs, st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_intervals_hold_their_value_and_pairing_shares_rows(rows: list[tuple[int, int]], seed: int) -> None:
    labels, predictions = (np.array(column) for column in zip(*rows, strict=True))
    draws = metrics.bootstrap(labels, {"a": predictions, "b": predictions}, 100, seed)
    for name in metrics.RESAMPLED:
        assert (draws["a"][name] == draws["b"][name]).all()
        assert ((draws["a"][name] >= 0) & (draws["a"][name] <= 1)).all()
    quality = metrics.classification_quality(labels, np.eye(5)[predictions] * 3, 100, seed)
    for name in (*metrics.RESAMPLED, "ece"):
        assert quality[name]["low"] <= quality[name]["value"] <= quality[name]["high"]


@given(pairs, st.floats(-50, 50))
@settings(max_examples=30, deadline=None)
def test_calibration_ignores_a_shift_of_all_logits(rows: list[tuple[int, int]], shift: float) -> None:
    labels, predictions = (np.array(column) for column in zip(*rows, strict=True))
    logits = np.eye(5)[predictions] * 2.0
    error = metrics.expected_calibration_error(labels, logits)
    assert 0 <= error <= 1
    assert metrics.expected_calibration_error(labels, logits + shift) == pytest.approx(error, abs=1e-6)
