"""Trust: intervals that cover, stability that is one or less, predictions held against models really cut."""

from __future__ import annotations

import itertools
import json
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from planted import data, scale_output, with_identity
from scipy.stats import spearmanr
from tiny_models import tiny, tokens

from lwc.cli import terminal as render
from lwc.core.errors import DataError, RecipeError
from lwc.core.progress import Say, Step
from lwc.importance.resampling import Rows
from lwc.importance.score import Trial, score_blocks
from lwc.importance.statistics import bootstrap_interval, compare_predictions, rank_stability
from lwc.importance.subsets import CutModel, measure, random_subsets
from lwc.importance.trust import Scored, against_cut_models
from lwc.models.batches import Batch, batches
from lwc.models.families import family_of
from lwc.models.forward.predict import loss_and_accuracy
from lwc.models.surgery import remove_blocks
from lwc.recipe import Score, Trust
from lwc.report.build import report_schema
from lwc.report.importance import importance_section
from lwc.report.importance_plots import importance_figures

METHODS = [{"method": "block_influence"}, {"method": "taylor"}, {"method": "fisher"}, {"method": "ablation"}]


def importance_schema() -> dict[str, Any]:
    schema = report_schema()
    return {**schema["properties"]["importance"], "$defs": schema["$defs"]}


# --- draws of the calibration set ---------------------------------------------------------------


def rows_of(found: list[Batch]) -> list[int]:
    return sorted(int(row) for batch in found for row in batch.rows)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "mpnet"])
def test_rows_taken_again_are_the_same_rows(model_type: str) -> None:
    """Position ids of RoBERTa and MPNet depend on which token pads."""
    model = tiny(model_type, blocks=2)
    encoded, labels = tokens(9, longest=20), np.arange(9) % 3
    plain = batches(encoded, labels, 4, length_bucketed=False, seed=None)
    again = Rows(plain, model.config.pad_token_id).take(range(9))
    assert rows_of(again) == list(range(9))
    assert max(map(len, again)) == 4
    assert loss_and_accuracy(model, again) == pytest.approx(loss_and_accuracy(model, plain), rel=1e-5)


def test_draws_keep_every_class_and_depend_on_the_seed_alone() -> None:
    encoded, labels = tokens(13), np.array([0] * 8 + [1] * 4 + [2])
    one = Rows(batches(encoded, labels, 4, length_bucketed=True, seed=None), 1)
    other = Rows(batches(encoded, labels, 5, length_bucketed=False, seed=3), 1)
    assert rows_of(one.bootstrap(1)) == rows_of(other.bootstrap(1)), "however the rows were batched"
    assert rows_of(one.bootstrap(1)) != rows_of(one.bootstrap(2))
    for seed in range(5):
        drawn = torch.cat([batch.labels for batch in one.bootstrap(seed)])
        assert torch.bincount(drawn).tolist() == [8, 4, 1]
        assert len(set(rows_of(one.bootstrap(seed)))) < 13
        half = one.part(seed)
        assert torch.bincount(torch.cat([batch.labels for batch in half])).tolist() == [4, 2, 1]
        assert len(set(rows_of(half))) == 7


def test_texts_stay_with_their_rows() -> None:
    encoded = tokens(3)
    (plain,) = batches(encoded, np.arange(3), 3, length_bucketed=False, seed=None)
    named = Batch(plain.inputs, plain.labels, plain.rows, ("a", "b", "c"))
    (taken,) = Rows([named], 1).take([2, 0, 2])
    assert sorted(zip(taken.rows.tolist(), taken.texts or (), strict=True)) == [(0, "a"), (2, "c"), (2, "c")]
    assert Rows([plain], 1).take([0])[0].texts is None


# --- statistics ---------------------------------------------------------------------------------


def test_the_interval_covers_in_95_of_100() -> None:
    """The mean of 40 draws, rescored five times: Student's t makes up for so few resamples."""
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        sample = random.standard_normal(40) + 3
        again = np.array([[random.choice(sample, 40).mean()] for _ in range(5)])
        ((low, high),) = bootstrap_interval([float(sample.mean())], again)
        assert low <= sample.mean() <= high
        covered += low <= 3 <= high
    assert 920 <= covered <= 980


def test_an_interval_of_equal_rescorings_is_a_point_and_one_rescoring_is_none() -> None:
    assert bootstrap_interval([1.0, 2.0], np.array([[1.0, 2.0]] * 3)) == [[1.0, 1.0], [2.0, 2.0]]
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_interval([1.0], np.array([[1.0]]))


def test_rank_stability_by_hand() -> None:
    assert rank_stability(np.array([[1, 2, 3], [10, 20, 30], [1, 2, 4]])) == pytest.approx(1)
    assert rank_stability(np.array([[1, 2, 3], [3, 2, 1]])) == pytest.approx(-1)
    assert rank_stability(np.array([[1, 2, 3], [1, 3, 2], [1, 2, 3]])) == pytest.approx((1 / 3 + 1 / 3 + 1) / 3)
    assert np.isnan(rank_stability(np.array([[1.0, 2.0], [1.0, np.nan]])))


def test_correlations_are_spearman_and_the_best_is_named() -> None:
    random = np.random.default_rng(2)
    actual = random.random(20).tolist()
    predicted = {"good": np.array(actual) + 0.1 * random.random(20), "bad": random.random(20), "still": np.ones(20)}
    fused = np.array(actual) + 0.4 * random.random(20)
    found = compare_predictions(predicted, fused, [3] * 20, actual, 300, 1)
    assert found is not None
    for name in ("good", "bad"):
        one = found["methods"][name]
        assert one["value"] == pytest.approx(spearmanr(predicted[name], actual).statistic)
        assert -1 <= one["low"] < one["value"] < one["high"] <= 1
    assert found["methods"]["still"] == {"value": None, "low": None, "high": None}
    assert found["best_single"] == "good"
    assert found["fusion_beats_best_single"] is False
    assert found["difference"]["value"] == pytest.approx(found["fused"]["value"] - found["methods"]["good"]["value"])
    assert found["size_only"] is None, "all sets have one size"
    assert found == compare_predictions(predicted, fused, [3] * 20, actual, 300, 1)
    better = compare_predictions({"bad": predicted["bad"]}, fused, list(range(20)), actual, 300, 1)
    assert better is not None
    assert better["fusion_beats_best_single"] is True
    assert better["size_only"] == pytest.approx(spearmanr(range(20), actual).statistic)
    assert compare_predictions({}, fused[:2], [1, 1], actual[:2], 300, 1) is None


# --- cut models ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("blocks", "count"), [(3, 20), (6, 20), (12, 20), (12, 60), (48, 20)])
def test_subsets_are_distinct_and_of_one_size_where_there_are_enough(blocks: int, count: int) -> None:
    found = random_subsets(blocks, count, 1)
    assert len(found) == len(set(found)) == min(count, 2**blocks - 2)
    assert all(0 < len(one) < blocks and one <= set(range(blocks)) for one in found)
    assert found == random_subsets(blocks, count, 1)
    if blocks > 3:
        assert {len(one) for one in found} == {blocks // 2}
        assert found != random_subsets(blocks, count, 2)


def test_subsets_keep_protected_blocks_and_the_size_that_is_asked() -> None:
    found = random_subsets(12, 20, 0, protected=(0, 40), size=8)
    assert {len(one) for one in found} == {8}
    assert not any(0 in one for one in found)
    assert random_subsets(1, 20, 0) == random_subsets(2, 20, 0, protected=(0, 1)) == []
    assert set(random_subsets(2, 20, 0)) == {frozenset({0}), frozenset({1})}
    assert {len(one) for one in random_subsets(6, 20, 0, size=5)} == {4, 5}, "the nearest sizes fill up"
    assert max(len(one) for one in random_subsets(4, 20, 0, size=9)) == 3


def test_measured_loss_is_that_of_the_removed_model() -> None:
    model = tiny("bert", blocks=4).train()
    family, calibration = family_of(model), data(tiny("bert", blocks=4))
    sets = [frozenset({1}), frozenset({0, 3})]
    seen: list[set[int]] = []
    found = measure(model, family, calibration, sets, lambda removed, say: seen.append(removed) or 0.25)
    assert model.training
    assert seen == [{1}, {0, 3}]
    for one in found:
        smaller = remove_blocks(model, family, one.removed).eval()
        assert one.loss == pytest.approx(loss_and_accuracy(smaller, calibration)[0], abs=1e-6)
        assert one.recovered == 0.25
    assert measure(model, family, calibration, sets)[0].recovered is None
    with pytest.raises(DataError, match=r"without blocks \[1\] is nan"):
        measure(model, family, calibration, sets, lambda removed, say: float("nan"))


def scored(fusion: str = "mean_rank", after: bool = False) -> Scored:
    """Block damages 1, 2, 4, 8, 16 that add up; ``right`` knows them, ``wrong`` has them backwards."""
    damage = [1.0, 2.0, 4.0, 8.0, 16.0]
    sets = [frozenset(one) for one in itertools.chain(*(itertools.combinations(range(5), k) for k in (2, 3)))]
    cut = [CutModel(one, sum(damage[b] for b in one), 20 - sum(damage[b] for b in one) if after else None)
           for one in sets]  # fmt: skip
    return Scored({"right": damage, "wrong": damage[::-1], "nan": [float("nan")] * 5}, {}, fusion, cut)


def test_the_verdict_names_the_best_single_method_and_both_numbers() -> None:
    found = against_cut_models(scored(), "validation", Trust(), 0)
    before = found["correlation"]["before_recovery"]
    assert before["methods"]["right"]["value"] == pytest.approx(1)
    assert set(before["methods"]) == {"right", "wrong"}
    assert found["correlation"]["after_recovery"] is None
    assert found["best_single"] == "right"
    assert found["fusion_beats_best_single"] is False
    assert found["cut_models"]["split"] == "validation"
    assert found["predicted"]["methods"]["right"] == found["cut_models"]["loss"]
    assert "1.00 (1.00 to 1.00) by the best single method (right)" in found["verdict"]
    assert "not better than the best single method" in found["verdict"]
    assert "validation split, before recovery" in found["verdict"]


def test_after_recovery_decides_where_it_was_measured() -> None:
    found = against_cut_models(scored(after=True), "calibration", Trust(), 0)
    assert found["correlation"]["after_recovery"]["methods"]["right"]["value"] == pytest.approx(-1)
    assert found["best_single"] == "wrong"
    assert "after recovery" in found["verdict"]
    assert scored(after=True).targets()[0][1] == 20 - scored(after=True).cut[0].loss, "learned on what matters"


def test_learned_is_judged_on_what_it_has_not_seen() -> None:
    found = against_cut_models(scored("learned"), "validation", Trust(), 0)
    assert found["predicted"]["cross_validated"]
    assert found["correlation"]["before_recovery"]["fused"]["value"] > 0.9
    assert "(learned)" in found["verdict"]


# --- the whole stage ----------------------------------------------------------------------------


def score(model: Any, blocks_data: list[Batch], **settings: Any) -> dict[str, Any]:
    trial = Trial(settings.pop("held_out", None), settings.pop("recover", None), settings.pop("removed", None))
    seed = settings.pop("seed", 0)
    config = Score.model_validate({"methods": METHODS, "trust": {}, **settings})
    return score_blocks(model, family_of(model), blocks_data, config, trial=trial, seed=seed)


@pytest.mark.parametrize("fusion", ["mean_rank", "z_score", "robust_rank", "learned"])
def test_content_follows_the_schema_and_repeats(fusion: str) -> None:
    model = with_identity("modernbert", 2)
    calibration = data(model)
    found = score(model, calibration, fusion=fusion)
    jsonschema.validate(found, importance_schema())
    json.dumps(found, allow_nan=False)
    assert found["fused"]["method"] == fusion
    assert (found["fused"]["learned"] is not None) == (fusion == "learned")
    trust = found["trust"]
    assert set(trust["intervals"]["methods"]) == set(trust["stability"]["methods"]) == set(found["methods"])
    for name, bands in {**trust["intervals"]["methods"], "fused": trust["intervals"]["fused"]}.items():
        own = found["fused"]["scores"] if name == "fused" else found["methods"][name]["scores"]
        assert all(low <= value <= high for value, (low, high) in zip(own, bands, strict=True))
    assert trust["intervals"]["methods"]["taylor"][2] == [0.0, 0.0], "an identity block is one on any texts"
    assert trust["not_rescored"] == []
    assert trust["cut_models"]["split"] == "calibration"
    assert trust["cut_models"]["recovered"] is None
    if fusion == "learned":
        again = score(model, calibration, fusion=fusion)
        assert again["trust"] == trust
        assert again["fused"] == found["fused"]


def test_validation_recovery_and_cut_are_used() -> None:
    model = tiny("bert", blocks=4)
    calibration = data(model)
    held_out = batches(tokens(9, seed=8), np.arange(9) % 3, 4, length_bucketed=True, seed=None)
    asked: list[set[int]] = []

    def recover(removed: set[int], say: Say) -> float:
        say(Step(5, 5))
        asked.append(removed)
        return 0.1 * sum(removed) + 1

    found = score(
        model, calibration, held_out=held_out, recover=recover, removed=1, seed=4, trust={"recovery_steps": 5}
    )
    cut = found["trust"]["cut_models"]
    assert cut["split"] == "validation"
    assert [sorted(one) for one in asked] == cut["removed"]
    assert cut["recovered"] == [0.1 * sum(one) + 1 for one in cut["removed"]]
    assert {len(one) for one in cut["removed"][:4]} <= {1, 2, 3}
    assert [one for one in cut["removed"] if len(one) == 1], "single blocks first, others fill up"
    one = cut["removed"].index([2])
    smaller = remove_blocks(model, family_of(model), [2])
    assert cut["loss"][one] == pytest.approx(loss_and_accuracy(smaller, held_out)[0], abs=1e-6)
    assert "after recovery" in found["trust"]["verdict"]
    with pytest.raises(RecipeError, match="recovery_steps"):
        score(model, calibration, trust={"recovery_steps": 5})


def test_no_trust_no_cost_and_learned_without_it_measures_all_the_same() -> None:
    model = tiny("bert", blocks=4)
    calibration = data(model)
    assert score(model, calibration, trust=None)["trust"] is None
    asked: list[set[int]] = []
    learned = score(model, calibration, trust=None, fusion="learned", recover=lambda one, say: asked.append(one) or 1.0)
    assert asked == [], "recovery_steps is 0"
    assert learned["trust"] is None
    assert learned["fused"]["learned"]["subsets"] == 14


@pytest.mark.parametrize("blocks", [1, 2])
def test_shallow_models_say_what_is_not_measured(blocks: int) -> None:
    model = tiny("bert", blocks=blocks)
    found = score(model, data(model))
    jsonschema.validate(found, importance_schema())
    assert found["trust"]["fusion_beats_best_single"] is None
    assert "not measured" in found["trust"]["verdict"]
    importance_section({"importance": found, "selection": None}, {})
    with pytest.raises(DataError, match="at least 4 cut models") as caught:
        score(model, data(model), fusion="learned")
    assert "mean_rank" in caught.value.hint


def test_the_report_and_the_terminal_say_the_verdict(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("modernbert", blocks=5, seed=1)
    scale_output(model, 3, 0.0)
    found = score(model, data(model), recover=lambda removed, say: 1.0 + sum(removed), trust={"recovery_steps": 1})
    figures = importance_figures(found, {"removed": [3]}, tmp_path)
    assert set(figures) == {"importance", "agreement", "prediction"}
    for figure in figures.values():
        assert (tmp_path / figure.file).read_bytes().startswith(b"\x89PNG")
    first = {name: (tmp_path / figure.file).read_bytes() for name, figure in figures.items()}
    importance_figures(found, {"removed": [3]}, tmp_path)
    assert first == {name: (tmp_path / figure.file).read_bytes() for name, figure in figures.items()}
    section = importance_section(
        {"importance": found, "selection": {"strategy": "fused", "removed": [3], "kept": [0, 1, 2, 4]}}, figures
    )
    assert found["trust"]["verdict"] in [getattr(block, "text", "") for block in section.blocks]
    with render.console.capture() as said:
        render.importance_table(found)
    assert found["trust"]["verdict"] in said.get()
    assert "ρ after recovery" in said.get()
