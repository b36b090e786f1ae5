"""Evaluation: floors fitted on train only, and what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lwc.core.errors import DataError, ModelError
from lwc.data.splits import Examples
from lwc.evaluation.run import evaluate
from lwc.models.forward import kept
from lwc.models.load import build_from_config, save_checkpoint
from lwc.models.tokenizer import train_wordpiece
from lwc.recipe import FromConfig, Recipe
from lwc.tasks import classification, text
from lwc.tasks.task import MODELS, Evaluation

GOOD, BAD = "really good tasty food", "awful stale bad taste"


def _examples(labels: list[int], texts: list[str] | None = None) -> Examples:
    ids = np.arange(len(labels), dtype=np.int64)
    words = texts or [GOOD if label else BAD for label in labels]
    return Examples(ids=ids, texts=words, labels=np.asarray(labels, dtype=np.int64))


def _recipe(batch_size: int = 16, max_length: int = 128) -> Recipe:
    return Recipe.model_validate(
        {
            "schema_version": 1,
            "name": "tiny",
            "model": {"kind": "config", "max_length": max_length},
            "target": {"ratio": 2, "of": "blocks"},
            "evaluate": {"bootstrap": 100, "batch_size": batch_size},
        }
    )


def _data(folder: Path) -> None:
    folder.mkdir()
    for name, labels in {"train": [0, 1, 1] * 10, "test": [1, 0, 1, 1, 0, 1]}.items():
        n = len(labels)
        columns: dict[str, Any] = {
            "id": pa.array(range(100, 100 + n), pa.int64()),
            "text": [GOOD if label else BAD for label in labels],
            "label": pa.array(labels, pa.int64()),
            "user": pa.nulls(n, pa.string()),
            "item": pa.nulls(n, pa.string()),
            "time": pa.nulls(n, pa.int64()),
        }
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    (folder / "labels.json").write_text(json.dumps(["other", "great"]))


def test_majority_is_that_of_train_not_of_test() -> None:
    logits = classification.majority_logits(np.array([2, 2, 0]), 3, 4)
    assert logits.shape == (4, 3)
    assert (logits.argmax(1) == 2).all()
    assert np.isfinite(logits).all()
    assert np.exp(logits[0]) == pytest.approx([1 / 3, 0, 2 / 3], abs=1e-9)


def test_tfidf_knows_train_words_only_and_keeps_class_ids() -> None:
    # Class 1 is missing from train: its column must stay empty, not shift class 2 into it.
    train = _examples([0, 2] * 5, [BAD, GOOD] * 5)
    logits = classification.tfidf_logits(train, [GOOD, BAD, "unseen words"], 3, 0)
    assert logits.argmax(1)[:2].tolist() == [2, 0]
    assert (logits[:, 1] < -20).all()
    assert np.exp(logits).sum(1) == pytest.approx(np.ones(3))


def test_floor_on_hopeless_train_data_is_a_clear_error() -> None:
    with pytest.raises(DataError, match="single class"):
        classification.tfidf_logits(_examples([1, 1]), [GOOD], 2, 0)
    with pytest.raises(DataError, match="cannot be fitted on 2 train texts"):
        classification.tfidf_logits(_examples([0, 1], ["one", "two"]), [GOOD], 2, 0)


def _answers(monkeypatch: pytest.MonkeyPatch, classes: int = 2) -> list[Path]:
    asked: list[Path] = []

    def fake(folder: Path, examples: Examples, recipe: Recipe, answers: Path | None) -> Any:
        asked.append(folder)
        assert (answers is not None) == (folder.parent.name == "base"), "of other models nobody asks twice"
        right = 1.0 if folder.parent.name != "cut" else -1.0
        logits = right * np.eye(classes)[examples.labels]
        return logits, {"count": 1, "of": len(examples.texts), "max_length": recipe.model.max_length}

    monkeypatch.setattr(text, "model_logits", fake)
    return asked


def _evaluated(root: Path, folders: list[Path], answers: Path | None) -> dict[str, Any]:
    models = {name: folder / "model" for name, folder in zip(MODELS, folders, strict=True)}
    evaluation = Evaluation(_recipe(), root / "data", models, root / "out", lambda line: None, answers)
    return evaluate(classification.TASK, evaluation)


def test_evaluate_writes_metrics_and_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _data(tmp_path / "data")
    asked = _answers(monkeypatch)
    folders = [tmp_path / name for name in ("base", "cut", "healed")]
    result = _evaluated(tmp_path, folders, tmp_path / "said")
    assert asked == [folder / "model" for folder in folders]
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text("utf-8")) == result
    assert result["quality"]["base"]["accuracy"]["value"] == 1.0
    assert result["quality"]["unrecovered"]["accuracy"]["value"] == 0.0
    assert result["retention"]["macro_f1"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert result["retention_unrecovered"]["accuracy"]["value"] == 0.0
    assert result["quality"]["floors"]["majority"]["accuracy"]["value"] == pytest.approx(4 / 6)
    assert result["quality"]["floors"]["tfidf"]["accuracy"]["value"] == 1.0
    assert result["truncated"] == {"count": 1, "of": 6, "max_length": 128}
    table = pq.read_table(tmp_path / "out" / "predictions.parquet")
    assert table.column_names == ["id", "label", "base", "unrecovered", "compressed"]
    assert table["id"].to_pylist() == list(range(100, 106))
    assert table["compressed"].to_pylist() == table["label"].to_pylist()


def test_checkpoint_with_other_labels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _data(tmp_path / "data")
    _answers(monkeypatch, classes=3)
    with pytest.raises(ModelError, match="has 3 classes, the data has 2"):
        _evaluated(tmp_path, [tmp_path / "m"] * 3, None)


def test_logits_of_a_real_checkpoint_are_in_row_order(tmp_path: Path) -> None:
    texts = [f"{GOOD} {BAD} {GOOD}", BAD, f"{GOOD} " * 30, GOOD, f"{BAD} {BAD}"]
    tokenizer = train_wordpiece(texts * 5, 300, 16)
    settings = FromConfig(kind="config", blocks=2, hidden=16, heads=2, intermediate=32, norm="post", vocab_size=300)
    model = build_from_config(settings, tokenizer, ["other", "great"], 0)
    save_checkpoint(model, tokenizer, tmp_path / "model")
    examples = _examples([1, 0, 1, 1, 0], texts)
    logits, truncated = text.model_logits(tmp_path / "model", examples, _recipe(2, 16))
    assert truncated == {"count": 1, "of": 5, "max_length": 16}
    for i in (0, 3, 4):
        alone, _ = text.model_logits(tmp_path / "model", _examples([0], [texts[i]]), _recipe(1, 16))
        assert logits[i] == pytest.approx(alone[0], abs=1e-5)


def test_non_finite_logits_name_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = train_wordpiece([GOOD, BAD] * 5, 300, 16)
    settings = FromConfig(kind="config", blocks=1, hidden=16, heads=2, intermediate=32, norm="post", vocab_size=300)
    save_checkpoint(build_from_config(settings, tokenizer, ["a", "b"], 0), tokenizer, tmp_path / "model")
    monkeypatch.setattr(kept, "predict", lambda model, rows: np.array([[0.0, np.nan], [1.0, 0.0]]))
    with pytest.raises(ModelError, match="1 of 2 test rows have NaN"):
        text.model_logits(tmp_path / "model", _examples([0, 1]), _recipe(2, 16))
