"""The Python API on tiny models: what it takes, and that its scores are the pipeline's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_texts import LABELS, TEXTS, classifier, language_model

import lwc
from lwc.core.errors import LwcError
from lwc.importance.score import score_blocks
from lwc.models.batches import batches, encode
from lwc.models.families import family_of
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
