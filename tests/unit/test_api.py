"""The Python API on tiny models: what it takes, what it gives, and that it is what the pipeline does."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from tiny_texts import LABELS, TEXTS, classifier, language_model
from transformers import AutoModelForSequenceClassification

import lwc
from lwc.api.state import own_state
from lwc.core.errors import LwcError
from lwc.importance.score import score_blocks
from lwc.models.batches import batches, encode
from lwc.models.families import block_list, family_of
from lwc.models.load import load_model, save_checkpoint
from lwc.recipe import Score


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


# --- import ---------------------------------------------------------------------------------------------------------


def test_import_is_lazy_and_every_public_name_is_there() -> None:
    code = (
        "import sys, lwc; assert not {'torch', 'transformers', 'pandas', 'pydantic'} & set(sys.modules);"
        "assert set(lwc.__all__) <= set(dir(lwc)); [getattr(lwc, name) for name in lwc.__all__]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (Path(lwc.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'scores'"):
        lwc.scores  # noqa: B018


@pytest.mark.parametrize("name", [name for name in lwc.__all__ if name not in ("__version__",)])
def test_every_public_name_is_documented(name: str) -> None:
    found = getattr(lwc, name)
    assert found.__doc__
    if not isinstance(found, type):
        assert "Raises:" in found.__doc__, "what can go wrong"
        assert "Args:" in found.__doc__


# --- score ----------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_score_stage(made: tuple[Any, Any], folder: Path) -> None:
    methods = ["ablation", "taylor", "fisher", "block_influence"]
    model, tokenizer = made
    mine = lwc.score(model, tokenizer, TEXTS, LABELS, methods=methods)
    stage = load_model(folder)
    labels = np.array([int(label == "good") for label in LABELS])
    groups = batches(encode(tokenizer, TEXTS, 40), labels, 16, length_bucketed=True, seed=None)
    settings = Score.model_validate({"methods": [{"method": name} for name in methods]})
    theirs = score_blocks(stage, family_of(stage), groups, settings)
    for one in (mine, lwc.score(str(folder), None, TEXTS, [int(label) for label in labels], methods=methods)):
        assert one.scores == {name: list(found["scores"]) for name, found in theirs["methods"].items()}
        assert one.ranking == theirs["fused"]["ranking"]


def test_scoring_leaves_the_model_as_it_was(made: tuple[Any, Any]) -> None:
    model, tokenizer = made
    model.train()
    model.set_attn_implementation("sdpa")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lwc.score(model, tokenizer, TEXTS[:8], LABELS[:8])
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()


def test_half_precision_is_scored_in_full_and_stays_half(made: tuple[Any, Any]) -> None:
    model, tokenizer = classifier()
    half = model.to(torch.bfloat16)
    found = lwc.score(half, tokenizer, TEXTS[:16], LABELS[:16], methods=["ablation"])
    whole = lwc.score(half.float(), tokenizer, TEXTS[:16], LABELS[:16], methods=["ablation"])
    assert found.scores == whole.scores
    smaller = lwc.remove_blocks(classifier()[0].to(torch.bfloat16), [0])
    assert smaller.dtype == torch.bfloat16


def test_importance_as_a_frame_a_picture_and_blocks_to_remove(made: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = made
    found = lwc.score(model, tokenizer, TEXTS[:16], LABELS[:16], methods=["ablation", "taylor"])
    frame = found.to_frame()
    assert list(frame.columns) == ["ablation", "taylor", "fused"]
    assert frame.index.name == "block"
    assert len(frame) == 4
    assert found.lowest(2) == sorted(found.ranking[-2:])
    assert found.lowest(0) == []
    with pytest.raises(LwcError, match="4 blocks of 4 cannot be removed"):
        found.lowest(4)
    figure: Any = found.plot(tmp_path / "blocks.png")
    assert figure._repr_png_() == (tmp_path / "blocks.png").read_bytes()
    assert "4 blocks by ablation, taylor" in repr(found)


def test_a_protected_block_is_never_among_the_lowest() -> None:
    model, tokenizer = classifier("modernbert")
    found = lwc.score(model, tokenizer, TEXTS[:8], LABELS[:8], methods=["block_influence"])
    assert found.protected == (0,)
    assert found.lowest(3) == [1, 2, 3]
    with pytest.raises(LwcError, match="4 blocks of 4") as caught:
        found.lowest(4)
    assert caught.value.hint == "ask for 0 to 3"


def test_labels_are_optional_where_the_methods_allow_it(made: tuple[Any, Any]) -> None:
    model, tokenizer = made
    assert list(lwc.score(model, tokenizer, TEXTS[:8]).scores) == ["block_influence"]
    one_class = lwc.score(model, tokenizer, TEXTS[:8], [1] * 8, methods=["block_influence", "angular_distance"])
    assert list(one_class.scores) == ["block_influence", "angular_distance"]
    with pytest.raises(LwcError, match="ablation: needs labels") as caught:
        lwc.score(model, tokenizer, TEXTS[:8], methods=["ablation", "block_influence"])
    assert "block_influence, angular_distance" in caught.value.hint


def test_a_language_model_needs_no_labels() -> None:
    model, tokenizer = language_model()
    found = lwc.score(model, tokenizer, TEXTS, methods=["ablation", "taylor"], max_length=16)
    assert sorted(found.ranking) == [0, 1, 2, 3]
    assert tokenizer.pad_token is None, "the caller's tokenizer is left alone"
    with pytest.raises(LwcError, match="its tokens are its labels"):
        lwc.score(model, tokenizer, TEXTS, LABELS)
    with pytest.raises(LwcError, match="mutual_information needs class labels"):
        lwc.score(model, tokenizer, TEXTS, methods=["mutual_information"])


def test_tables_columns_and_series_give_the_same_scores(made: tuple[Any, Any]) -> None:
    model, tokenizer = made
    frame = pd.DataFrame({"text": TEXTS[:16], "sentiment": LABELS[:16]})
    expected = lwc.score(model, tokenizer, TEXTS[:16], LABELS[:16], methods=["ablation"]).scores
    ids = np.array([label == "good" for label in LABELS[:16]])
    for texts, labels in (
        (frame, "sentiment"), (frame["text"], frame["sentiment"]), (np.array(TEXTS[:16]), ids.astype(np.int32)),
        (iter(TEXTS[:16]), [float(one) for one in ids]),
        (tuple(TEXTS[:16]), ["GOOD " if one else "Bad" for one in ids]),
    ):  # fmt: skip
        assert lwc.score(model, tokenizer, texts, labels, methods=["ablation"]).scores == expected


class _Feature:
    names = ("good", "bad")  # in another order than the model's


class _Dataset:
    """As much of a `datasets.Dataset` as is read of one."""

    column_names = ("review", "label")
    features: ClassVar[dict[str, Any]] = {"review": None, "label": _Feature()}

    def __len__(self) -> int:
        return 16

    def __getitem__(self, name: str) -> list[Any]:
        return {"review": TEXTS[:16], "label": [int(label == "bad") for label in LABELS[:16]]}[name]


def test_ids_of_a_dataset_are_mapped_by_name(made: tuple[Any, Any]) -> None:
    expected = lwc.score(*made, TEXTS[:16], LABELS[:16], methods=["ablation"]).scores
    dataset: Any = _Dataset()
    assert lwc.score(*made, dataset, "label", methods=["ablation"]).scores == expected


def test_a_real_dataset_is_taken(made: tuple[Any, Any]) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "y": datasets.ClassLabel(names=["good", "bad"])})
    found = datasets.Dataset.from_dict({"text": TEXTS[:16], "y": LABELS[:16]}, features=features)
    expected = lwc.score(*made, TEXTS[:16], LABELS[:16], methods=["ablation"]).scores
    assert lwc.score(*made, found, "y", methods=["ablation"]).scores == expected
    assert lwc.score(*made, found["text"], LABELS[:16], methods=["ablation"]).scores == expected


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        ("one text", None, "texts is one text"),
        ([], None, "no texts"),
        (["a", None], None, "text 1 is a NoneType"),
        (["a", " <br/> "], None, "text 1 is empty but for tags"),
        (["a", "b"], [1], "1 labels for 2 texts"),
        (["a", "b"], ["good", "fair"], "label 1 is 'fair'; the model's classes are bad, good"),
        (["a", "b"], [0, 2], "label 1 is 2"),
        (["a", "b"], [0, float("nan")], "label 1 is nan"),
        (["a", "b"], "stars", "texts is no table"),
        ({"train": ["a"]}, None, "a dictionary of splits"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), None, "no column 'text'; its columns are a, b"),
        (pd.DataFrame({"text": ["x"]}), "label", "no column 'label'"),
    ],
)
def test_bad_texts_and_labels_have_an_error_with_a_hint(
    made: tuple[Any, Any], texts: Any, labels: Any, message: str
) -> None:
    with pytest.raises(LwcError, match=message) as caught:
        lwc.score(*made, texts, labels)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["ablaton"]}, "no method 'ablaton'"),
        ({"methods": "ablation"}, "methods is one name"),
        ({"methods": [{"method": "shap", "permutation": 3}]}, "permutation"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_length": 100}, "the model reads at most 40 tokens"),
    ],
)
def test_bad_settings_have_an_error_with_a_hint(made: tuple[Any, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LwcError, match=message) as caught:
        lwc.score(*made, TEXTS[:8], LABELS[:8], **changes)
    assert caught.value.hint


def test_models_that_cannot_be_used_are_refused(made: tuple[Any, Any], tmp_path: Path) -> None:
    model, _ = made
    for wrong, message in (
        (torch.nn.DataParallel(model), "not a model of transformers"),
        (model.base_model, "neither a sequence classifier nor"),
        (tmp_path, "no config.json in this folder"),
        (tmp_path / "absent", "no such folder"),
        (classifier(problem_type="multi_label_classification")[0], "several labels"),
    ):
        with pytest.raises(LwcError, match=message) as caught:
            lwc.remove_blocks(wrong, [0])  # type: ignore[arg-type,unused-ignore]
        assert caught.value.hint
    with pytest.raises(LwcError, match="no tokenizer"):
        lwc.score(model, None, TEXTS)
    with pytest.raises(LwcError, match="no blocks \\[9\\]"):
        lwc.remove_blocks(model, [9])


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


# --- blocks by weights ----------------------------------------------------------------------------------------------


def test_tied_and_repeated_blocks_are_matched_in_order(made: tuple[Any, Any]) -> None:
    from lwc.models.origin import kept_blocks

    model, _ = classifier()
    blocks = block_list(model, family_of(model))
    blocks[2].load_state_dict(blocks[1].state_dict())
    assert kept_blocks(lwc.remove_blocks(model, [0]), model) == [1, 2, 3]
    assert kept_blocks(lwc.remove_blocks(model, [1]), model)[1:] in ([1, 3], [2, 3])
    assert kept_blocks(model, model) == [0, 1, 2, 3]
