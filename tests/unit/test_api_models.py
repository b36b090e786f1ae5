"""The Python API on tiny models: cutting, recovery, export and packaging."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from tiny_texts import LABELS, TEXTS, classifier, language_model
from transformers import AutoModelForSequenceClassification

import lwc
from lwc.api.state import own_state
from lwc.core.errors import LwcError
from lwc.models.families import block_list, family_of
from lwc.models.load import save_checkpoint


@pytest.fixture(scope="module")
def made() -> tuple[Any, Any]:
    return classifier()


@pytest.fixture(scope="module")
def folder(made: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(*made, place)
    return place


@pytest.fixture(scope="module")
def recovered(made: tuple[Any, Any]) -> lwc.RecoveryResult:
    model, tokenizer = made
    return lwc.recover(lwc.remove_blocks(model, [1, 2]), model, tokenizer, TEXTS, LABELS, epochs=1, batch_size=8)


def _logits(model: Any, tokenizer: Any) -> np.ndarray:
    with torch.inference_mode():
        return model(**tokenizer(TEXTS[:4], padding=True, return_tensors="pt")).logits.numpy()


# --- folders --------------------------------------------------------------------------------------------------------


def test_a_trainers_output_folder_is_its_best_checkpoint(made: tuple[Any, Any], folder: Path, tmp_path: Path) -> None:
    model, tokenizer = made
    for step in (5, 10, 100):
        model.config.step = step
        model.save_pretrained(tmp_path / f"checkpoint-{step}")
    del model.config.step
    tokenizer.save_pretrained(tmp_path)
    assert lwc.remove_blocks(tmp_path, [0]).config.step == 100
    state = {"best_model_checkpoint": "/elsewhere/checkpoint-10"}
    (tmp_path / "checkpoint-100" / "trainer_state.json").write_text(json.dumps(state))
    assert lwc.remove_blocks(str(tmp_path), [0]).config.step == 10
    expected = lwc.score(folder, None, TEXTS[:8], LABELS[:8]).scores
    assert lwc.score(tmp_path, None, TEXTS[:8], LABELS[:8]).scores == expected, "with the tokenizer beside them"


# --- remove and recover ---------------------------------------------------------------------------------------------


def test_the_cut_model_is_an_ordinary_one(made: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = made
    smaller = lwc.remove_blocks(model, np.array([1, 2]))
    assert smaller.config.num_hidden_layers == 2
    assert model.config.num_hidden_layers == 4, "the model that was passed is left alone"
    smaller.save_pretrained(tmp_path)
    assert set(json.loads((tmp_path / "config.json").read_text())) == set(model.config.to_dict()) & set(
        json.loads((tmp_path / "config.json").read_text())
    ), "no field of lwc's own"
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    np.testing.assert_allclose(_logits(again, tokenizer), _logits(smaller, tokenizer), atol=1e-6)


def test_recovery_brings_the_cut_model_closer(made: tuple[Any, Any], recovered: lwc.RecoveryResult) -> None:
    model, tokenizer = made
    assert recovered.kept == [0, 3]
    assert {"step", "score", "accuracy", "macro_f1", "train_loss"} <= recovered.history[0].keys()
    assert len(recovered.held_out) == 6
    assert recovered.steps == 7, "54 texts, 8 a step"
    cut = lwc.remove_blocks(model, [1, 2])

    def apart(other: Any) -> float:
        return float(np.abs(_logits(other, tokenizer) - _logits(model, tokenizer)).mean())

    assert apart(recovered.model) < apart(cut)
    assert not recovered.model.training
    assert all(weight.requires_grad for weight in recovered.model.parameters())


@pytest.fixture
def _fresh_process() -> Iterator[None]:
    with own_state():
        yield


@pytest.mark.usefixtures("_fresh_process")
def test_recovery_needs_no_labels_and_leaves_everything_else_alone(made: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = made
    lwc.remove_blocks(model, [2]).save_pretrained(tmp_path / "cut")
    cut = AutoModelForSequenceClassification.from_pretrained(tmp_path / "cut")
    before = {name: value.clone() for one in (model, cut) for name, value in one.state_dict().items()}
    trainers = Accelerator(mixed_precision="bf16", cpu=True)
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    drawn = torch.rand(1).item(), random.random(), np.random.rand()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    found = lwc.recover(cut, model, tokenizer, texts=TEXTS, epochs=1, scratch=tmp_path / "work")
    assert (torch.rand(1).item(), random.random(), np.random.rand()) == drawn
    assert trainers.mixed_precision == "bf16"
    assert found.kept == [0, 1, 3]
    assert {"kl_divergence", "score"} <= found.history[0].keys()
    after = {name: value for one in (model, cut) for name, value in one.state_dict().items()}
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    twice = lwc.recover(found, model, tokenizer, TEXTS, validation=TEXTS[:5], epochs=1)
    assert twice.kept == [0, 1, 3], "blocks are still recognised after training"
    assert twice.held_out == TEXTS[:5]


def test_a_language_model_recovers() -> None:
    model, tokenizer = language_model()
    found = lwc.recover(lwc.remove_blocks(model, [1]), model, tokenizer, TEXTS, epochs=1, max_length=16)
    assert found.kept == [0, 2, 3]
    assert "perplexity" in found.history[0]


def test_a_student_of_another_model_is_refused(made: tuple[Any, Any]) -> None:
    model, tokenizer = made
    stranger = lwc.remove_blocks(classifier(seed=5)[0], [0])
    with pytest.raises(LwcError, match="resembles no block of the teacher"):
        lwc.recover(stranger, model, tokenizer, TEXTS)
    with pytest.raises(LwcError, match="hidden_size of the student is 32"):
        lwc.recover(classifier(hidden_size=32)[0], model, tokenizer, TEXTS)
    with pytest.raises(LwcError, match="kept is \\[3, 0, 1\\]"):
        lwc.recover(stranger, model, tokenizer, TEXTS, kept=[3, 0, 1])
    assert lwc.recover(stranger, model, tokenizer, TEXTS, kept=[0, 2, 3], epochs=1).kept == [0, 2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"unlabelled": None}}, "settings has 'unlabelled'"),
        ({"settings": {"epochs": 1}}, "settings has 'epochs'"),
        ({"settings": {"hidden_wieght": 1}}, "hidden_wieght"),
        ({"settings": {"label_weight": 1.0}}, "label_weight without labels"),
        ({"texts": ()}, "no texts"),
        ({"texts": ["one"]}, "1 text to train on"),
    ],
)
def test_bad_recovery_settings_have_an_error_with_a_hint(
    made: tuple[Any, Any], changes: dict[str, Any], message: str
) -> None:
    model, tokenizer = made
    with pytest.raises(LwcError, match=message) as caught:
        lwc.recover(lwc.remove_blocks(model, [0]), model, tokenizer, **{"texts": TEXTS, **changes})
    assert caught.value.hint


@pytest.mark.usefixtures("_fresh_process")
def test_a_model_that_a_trainer_prepared_in_half_precision_is_measured_in_full(tmp_path: Path) -> None:
    model, tokenizer = classifier()
    expected = lwc.score(model, tokenizer, TEXTS[:16], LABELS[:16], methods=["ablation"]).scores
    prepared = Accelerator(mixed_precision="bf16", cpu=True).prepare_model(model, evaluation_mode=True)
    wrapper = prepared.__dict__["forward"]
    assert lwc.score(prepared, tokenizer, TEXTS[:16], LABELS[:16], methods=["ablation"]).scores == expected
    exported = lwc.export_onnx(prepared, tokenizer, tmp_path / "out", shapes=[(1, 8)], repeats=3)
    assert exported.parity["passed"]
    assert prepared.__dict__["forward"] is wrapper, "the Trainer's model is left as it was"
    smaller = lwc.remove_blocks(prepared, [1])
    assert "forward" not in smaller.__dict__
    found = lwc.recover(smaller, prepared, tokenizer, TEXTS, epochs=1)
    np.testing.assert_allclose(_logits(found.model, tokenizer), _logits(copy.deepcopy(found.model), tokenizer))


# --- export ---------------------------------------------------------------------------------------------------------


def test_an_export_is_a_folder_that_other_libraries_read(
    made: tuple[Any, Any], recovered: lwc.RecoveryResult, tmp_path: Path
) -> None:
    found = lwc.export_onnx(recovered, None, tmp_path / "out", int8=True, shapes=[(1, 8)], repeats=3)
    assert found.path.is_file()
    assert found.precision in ("fp32", "int8")
    assert bool(found.why) == (found.precision == "fp32")
    assert found.parity["passed"]
    assert found.parity["texts"] == 6, "those that recovery held out"
    row = found.latency["shapes"][0]
    assert {"pytorch_ms", "fp32_ms"} <= row.keys()
    assert {"model.onnx", "config.json", "tokenizer.json", "export.json"} <= {
        one.name for one in found.folder.iterdir()
    }
    config = json.loads((found.folder / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["num_hidden_layers"] == 2
    assert lwc.Exported.read(found.folder) == found
    again = lwc.export_onnx(recovered, None, tmp_path / "out", shapes=[(1, 8)], repeats=3)
    assert again.precision == "fp32", "an earlier export is replaced"
    assert not (tmp_path / "out" / "model.int8.onnx").exists()


def test_an_export_overwrites_nothing_else_and_leaves_nothing_half_done(
    made: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(LwcError, match="exists and is not an earlier result"):
        lwc.export_onnx(*made, tmp_path)
    with pytest.raises(LwcError, match="logits differ from PyTorch's") as caught:
        lwc.export_onnx(*made, tmp_path / "new", tolerance=0.0)
    assert caught.value.hint
    with pytest.raises(LwcError, match="int8 is checked on texts"):
        lwc.export_onnx(*made, tmp_path / "new", int8=True)
    model, tokenizer = language_model()
    with pytest.raises(LwcError, match="this model does causal_lm"):
        lwc.export_onnx(model, tokenizer, tmp_path / "new", int8=True)
    assert [one.name for one in tmp_path.iterdir()] == ["notes.txt"]


def test_a_repository_needs_what_its_endpoint_reads(made: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = classifier(num_labels=1, id2label={0: "stars"}, label2id={"stars": 0})
    found = lwc.export_onnx(model, tokenizer, tmp_path / "out", shapes=[(1, 8)], repeats=3)
    with pytest.raises(LwcError, match="the numbers that its labels stand for") as caught:
        lwc.package(found, "stars", tmp_path / "models")
    assert "config.numbers" in caught.value.hint
    with pytest.raises(LwcError, match="name is 'a b'; it must be"):
        lwc.package(tmp_path / "out", "a b")
    with pytest.raises(LwcError, match="one ONNX graph is needed, found none"):
        lwc.package(tmp_path, "x", tmp_path / "models")


def test_a_folder_of_another_exporter_is_packaged(recovered: lwc.RecoveryResult, tmp_path: Path) -> None:
    found = lwc.export_onnx(recovered, None, tmp_path / "out", shapes=[(1, 8)], repeats=3)
    shutil.move(found.folder / "export.json", tmp_path)
    place = lwc.package(found.folder, "reviews", tmp_path / "models")
    assert sorted(one.name for one in place.iterdir()) == ["README.md", "reviews", "reviews_tokens"]
    assert (place / "reviews" / "labels.txt").read_text() == "bad\ngood\n"
    assert lwc.package(str(found.folder), "reviews", tmp_path / "models") == place, "Triton models are replaced"


def test_a_regression_takes_numbers_and_recovers_without_them(tmp_path: Path) -> None:
    model, tokenizer = classifier(num_labels=1, id2label={0: "stars"}, label2id={"stars": 0})
    stars = [1 + number % 5 for number in range(len(TEXTS))]
    found = lwc.score(model, tokenizer, TEXTS, stars, methods=["ablation"])
    assert found.units == {"ablation": "squared error"}
    assert lwc.score(model, tokenizer, TEXTS, [str(one) for one in stars], methods=["ablation"]).scores == found.scores
    with pytest.raises(LwcError, match="label 0 is 'great', and the model gives numbers"):
        lwc.score(model, tokenizer, TEXTS[:1], ["great"])
    recovered = lwc.recover(lwc.remove_blocks(model, [1]), model, tokenizer, TEXTS, epochs=1)
    assert recovered.history[0]["squared_distance"] == -recovered.history[0]["score"]
    recovered.model.config.numbers = [1.0, 2.0, 3.0, 4.0, 5.0]
    exported = lwc.export_onnx(recovered, None, tmp_path / "out", shapes=[(1, 8)], repeats=3)
    place = lwc.package(exported, "stars", tmp_path / "models")
    assert (place / "stars" / "labels.txt").read_text() == "1\n2\n3\n4\n5\n"


def test_a_language_model_is_exported_and_packaged(tmp_path: Path) -> None:
    model, tokenizer = language_model()
    exported = lwc.export_onnx(model, tokenizer, tmp_path / "out", texts=TEXTS[:4], shapes=[(1, 8)], repeats=3)
    assert exported.parity["texts"] == 4
    place = lwc.package(exported, "next", tmp_path / "models")
    assert len((place / "next" / "labels.txt").read_text().splitlines()) == len(tokenizer)


# --- blocks by weights ----------------------------------------------------------------------------------------------


def test_tied_and_repeated_blocks_are_matched_in_order(made: tuple[Any, Any]) -> None:
    from lwc.models.origin import kept_blocks

    model, _ = classifier()
    blocks = block_list(model, family_of(model))
    blocks[2].load_state_dict(blocks[1].state_dict())
    assert kept_blocks(lwc.remove_blocks(model, [0]), model) == [1, 2, 3]
    assert kept_blocks(lwc.remove_blocks(model, [1]), model)[1:] in ([1, 3], [2, 3])
    assert kept_blocks(model, model) == [0, 1, 2, 3]
