"""The label information of representations: known answers, no bias, rows kept with their labels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from grid import THREE_FAMILIES, kept
from planted import data, with_identity
from sklearn.linear_model import LogisticRegression
from tiny_models import tiny, tokens

from lwc.importance import mutual_information as module
from lwc.importance.mutual_information import folds_of, mutual_information, pooled, v_information
from lwc.models.batches import batches
from lwc.models.families import FAMILIES, block_list, family_of, hidden_states, pooling_of
from lwc.recipe import MutualInformation


def information(features: np.ndarray, labels: np.ndarray, permutations: int = 0) -> np.ndarray:
    random = np.random.default_rng(5)
    folds = folds_of(np.arange(len(labels)), labels, random)
    columns = np.stack([labels, *[random.permutation(labels) for _ in range(permutations)]])
    return v_information(features, columns, np.ones(len(labels)), folds)


def gaussian(rows: int, shift: float, dimensions: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes, unit variance, means 2 · shift apart in the first dimension."""
    labels = np.arange(rows) % 2
    features = np.random.default_rng(seed).normal(size=(rows, dimensions))
    features[:, 0] += shift * (2 * labels - 1)
    return features, labels


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0])
def test_two_gaussians_have_the_information_they_have(shift: float) -> None:
    """A linear classifier is optimal here: V-information is what the true posterior says about these very rows."""
    features, labels = gaussian(4000, shift)
    margin = 2 * shift * features[:, 0] * (2 * labels - 1)
    want = math.log(2) - np.log1p(np.exp(-margin)).mean()
    assert float(information(features, labels)[0]) == pytest.approx(want, abs=0.01)


@pytest.mark.parametrize("dimensions", [4, 40, 400])
def test_nothing_known_is_never_something_whatever_the_dimension(dimensions: int) -> None:
    """Where a plug-in estimate grows with D."""
    features, labels = gaussian(100, 0.0, dimensions)
    truth, *null = information(features, labels, permutations=20)
    assert truth < 0.05
    assert np.mean(null) < 0.0
    assert abs(truth - np.mean(null)) < 4 * np.std(null)


def test_all_known() -> None:
    features, labels = gaussian(600, 20.0)
    assert 0.9 * math.log(2) < float(information(features, labels)[0]) <= math.log(2) + 1e-6


def test_the_probe_is_logistic_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    """sklearn's, fold by fold; the intercept is penalised here, which balanced classes do not show."""
    features, labels = gaussian(400, 1.0)
    monkeypatch.setattr(module, "PRIORS", (10.0,))
    monkeypatch.setattr(module, "ITERATIONS", 300)
    folds = folds_of(np.arange(400), labels, np.random.default_rng(1))
    found = float(v_information(features, labels[None], np.ones(400), folds)[0])
    centred = features - features.mean(axis=0)
    variance = centred.var(axis=0)
    scaled = centred / np.sqrt(variance + 1e-3 * variance.mean())
    scaled /= math.sqrt(scaled.var(axis=0).sum())
    want = 0.0
    for fold in range(5):
        held = folds == fold
        # Two columns of weights, each with this prior, are one difference with twice its variance.
        probe = LogisticRegression(C=20.0, tol=1e-10, max_iter=1000).fit(scaled[~held], labels[~held])
        want += math.log(2) * held.sum()
        want += probe.predict_log_proba(scaled[held])[np.arange(held.sum()), labels[held]].sum()
    assert found == pytest.approx(want / 400, abs=1e-4)


READS = kept([*((one, {}) for one in sorted(FAMILIES)), ("modernbert", {"classifier_pooling": "mean"})],
             [*((one, {}) for one in THREE_FAMILIES), ("modernbert", {"classifier_pooling": "mean"})])  # fmt: skip


@pytest.mark.parametrize(("model_type", "changes"), READS)
def test_the_head_reads_what_its_family_says(model_type: str, changes: dict[str, str]) -> None:
    """Which of the last block's outputs the logits depend on, by their gradient."""
    model = tiny(model_type, blocks=2, **changes)
    seen: list[torch.Tensor] = []

    def keep(_: Any, args: Any, output: Any) -> None:
        hidden_states(output).retain_grad()
        seen.append(hidden_states(output))

    block_list(model, family_of(model))[-1].register_forward_hook(keep)
    (batch,) = batches(tokens(4, seed=5), np.arange(4), 4, length_bucketed=False, seed=None)
    model(**batch.inputs).logits.square().sum().backward()
    read = seen[-1].grad.abs().amax(dim=-1) > 0
    lengths = batch.mask.sum(dim=1, keepdim=True)
    assert lengths.min() < lengths.max()
    place = torch.arange(read.shape[1])
    want = {"first": place == 0 * lengths, "mean": place < lengths, "last": place == lengths - 1}
    assert torch.equal(read, want[pooling_of(model, family_of(model))])


@pytest.mark.parametrize(("model_type", "changes"), READS)
def test_features_are_what_the_head_reads(model_type: str, changes: dict[str, str]) -> None:
    model = tiny(model_type, blocks=2, **changes)
    pooling = pooling_of(model, family_of(model))
    encoded = tokens(5)
    with torch.no_grad():
        found, labels, rows = pooled(
            model, family_of(model), batches(encoded, np.arange(5), 2, length_bucketed=True, seed=1)
        )
        assert found.shape == (2, 2, 5, 16)
        assert np.array_equal(labels, rows), "rows stay with their labels"
        seen: list[Any] = []
        handle = block_list(model, family_of(model))[1].register_forward_hook(
            lambda _, args, output: seen.append((args[0][0], hidden_states(output)[0]))
        )
        for position, row in enumerate(rows):
            model(input_ids=torch.tensor([encoded.ids[row]]))
            for side in (0, 1):
                hidden = seen[-1][side]
                want = {"first": hidden[0], "mean": hidden.mean(dim=0), "last": hidden[-1]}[pooling]
                np.testing.assert_allclose(found[side, 1, position], want, rtol=1e-4, atol=1e-5)
        handle.remove()


def test_an_identity_block_gains_exactly_nothing_and_is_no_surprise() -> None:
    model = with_identity("modernbert", 2)
    result = mutual_information(
        model, family_of(model), data(model, 60), MutualInformation(method="mutual_information")
    )
    assert result.scores[2] == 0.0
    assert result.details["p_value"][2] == 1.0
    assert result.details["before"][2] == result.details["after"][2]
    assert set(result.details) == {"before", "after", "null_before", "null_after", "p_value"}
    np.testing.assert_allclose(
        result.scores, np.subtract(result.details["after"], result.details["before"]), atol=1e-12
    )
    assert result.details["after"][0] == result.details["before"][1]


def test_labels_of_other_rows_are_no_information() -> None:
    """Rows and labels out of step: nothing is left."""
    model = tiny("modernbert")
    encoded = tokens(200)
    first = np.array([ids[0] % 2 for ids in encoded.ids])
    settings = MutualInformation(method="mutual_information")
    right, wrong = (
        mutual_information(
            model, family_of(model), batches(encoded, labels, 16, length_bucketed=True, seed=1), settings
        )
        for labels in (first, np.roll(first, 1))
    )
    assert right.details["before"][0] > 0.1
    assert abs(wrong.details["before"][0]) < 0.05


def test_permutations_come_from_the_recipe() -> None:
    model = tiny("bert", blocks=2)
    config = MutualInformation(method="mutual_information", permutations=3)
    result = mutual_information(model, family_of(model), data(model), config)
    assert all(round(4 * value, 9) in (1, 2, 3, 4) for value in result.details["p_value"])


def test_one_row_of_a_class_and_nan() -> None:
    """A class that some folds never see costs, and breaks nothing; NaN stays NaN: its method is left out by name."""
    features, labels = gaussian(12, 1.0)
    labels[3] = 2
    assert np.isfinite(information(features, labels, 3)).all()
    assert (information(np.zeros((12, 4)), labels) <= 0).all()
    features[2, 1] = np.nan
    assert np.isnan(information(features, labels, 3)).all()


def test_repeated_rows_share_a_fold_and_weigh_more() -> None:
    rows = np.array([4, 4, 7, 9, 9, 1, 2, 0, 3, 4])
    folds = folds_of(rows, rows % 2, np.random.default_rng(0))
    assert len({folds[index] for index in (0, 1, 9)}) == 1
    assert folds[3] == folds[4]
    assert set(folds.tolist()) == {0, 1, 2, 3, 4}
