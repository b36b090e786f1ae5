"""The one reading of the test split: base, unrecovered and compressed model, beside two floors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from lwc import distributed
from lwc.artifacts import write_json
from lwc.data.splits import Examples, load_labels, load_split
from lwc.errors import DataError, ModelError
from lwc.metrics import classification_quality, retention
from lwc.models.batches import batches, encode
from lwc.models.load import load_classifier, load_tokenizer
from lwc.recipe import Recipe
from lwc.training import predict

_SMALLEST = 1e-12  # stands for probability 0 under the logarithm


def majority_logits(train_labels: NDArray[np.int64], classes: int, rows: int) -> NDArray[np.float64]:
    """Log class frequencies of train, (rows, classes): a model that knows nothing but the balance."""
    share = np.bincount(train_labels, minlength=classes) / len(train_labels)
    return np.tile(np.log(np.maximum(share, _SMALLEST)), (rows, 1))


def tfidf_logits(train: Examples, texts: list[str], classes: int, seed: int) -> NDArray[np.float64]:
    """Log-probabilities (N, classes) of TF-IDF (1–2-grams) + logistic regression fitted on train only.

    Raises:
        DataError: train holds a single class, or no word occurs twice.
    """
    if len(np.unique(train.labels)) < 2:
        raise DataError("the train split holds a single class", "check the label column and scheme of `data`")
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, max_features=100_000, sublinear_tf=True)
    try:
        features = vectorizer.fit_transform(train.texts)
    except ValueError as error:
        raise DataError(
            f"the TF-IDF floor cannot be fitted on {len(train.texts)} train texts: {error}",
            "the train texts share too few words: use more rows or another text field",
        ) from error
    model = LogisticRegression(C=10, max_iter=1000, random_state=seed).fit(features, train.labels)
    out = np.full((len(texts), classes), np.log(_SMALLEST))
    # A class that train lacks has no column of its own: columns are placed by class id.
    out[:, model.classes_] = np.log(np.maximum(model.predict_proba(vectorizer.transform(texts)), _SMALLEST))
    return out


def model_logits(
    folder: Path, examples: Examples, batch_size: int, max_length: int
) -> tuple[NDArray[np.float64], dict[str, int]]:
    """Logits (N, C) of the checkpoint in ``folder``, and what its tokenizer truncated.

    Raises:
        ModelError: a logit is NaN or infinite.
    """
    tokenizer = load_tokenizer(folder)
    model = load_classifier(folder)
    encoded = encode(tokenizer, examples.texts, max_length)
    rows = batches(encoded, examples.labels, batch_size, length_bucketed=True, seed=None)
    logits = np.asarray(predict(model, rows), dtype=np.float64)
    bad = int((~np.isfinite(logits)).any(axis=1).sum())
    if bad:
        raise ModelError(
            f"{folder}: {bad} of {len(logits)} test rows have NaN or infinite logits",
            "lower the learning rate or train in fp32 (precision: fp32)",
        )
    return logits, {"count": int(encoded.truncated), "of": len(examples.texts), "max_length": max_length}


def evaluate(
    recipe: Recipe,
    data_dir: Path,
    base_dir: Path,
    unrecovered_dir: Path,
    compressed_dir: Path,
    out: Path,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure three models and two floors on the test split; write ``evaluation.json`` and predictions.

    Args:
        recipe: gives the seed, the resamples and the batch size.
        data_dir: folder of the data stage.
        base_dir: stage folder whose ``model/`` is the uncut model; ``unrecovered_dir`` holds it without the
            removed blocks, ``compressed_dir`` that one after recovery.
        out: where ``evaluation.json`` and ``predictions.parquet`` (id, label, base, unrecovered, compressed) go.
        progress: told what is being measured.

    Returns:
        The content of ``evaluation.json``.

    Raises:
        ModelError: a model answers with non-finite logits.
        DataError: the floors cannot be fitted on train.
    """
    say = progress or (lambda _: None)
    names = load_labels(data_dir)
    test = load_split(data_dir, "test")
    train = load_split(data_dir, "train")
    answers: dict[str, NDArray[np.float64]] = {}
    truncated: dict[str, int] = {}
    folders = {"base": base_dir, "unrecovered": unrecovered_dir, "compressed": compressed_dir}
    for name, stage in folders.items():
        folder = stage / "model"
        say(f"test split: {name} model on {len(test.texts)} texts")
        logits, truncated = model_logits(folder, test, recipe.evaluate.batch_size, recipe.model.max_length)
        if logits.shape[1] != len(names):
            raise ModelError(
                f"{folder} has {logits.shape[1]} classes, the data has {len(names)}",
                "the checkpoint was trained on other labels: run the train stage again",
            )
        answers[name] = logits

    def measure() -> dict[str, Any]:
        say("test split: majority and TF-IDF floors")
        return _measured(recipe, names, train, test, answers, truncated, out)

    return distributed.from_main(measure)


def _measured(
    recipe: Recipe,
    names: list[str],
    train: Examples,
    test: Examples,
    answers: dict[str, NDArray[np.float64]],
    truncated: dict[str, int],
    out: Path,
) -> dict[str, Any]:
    """Figures of the models' answers and of the two floors, written to ``out``."""
    n_boot, seed = recipe.evaluate.bootstrap, recipe.seed
    quality: dict[str, Any] = {
        name: classification_quality(test.labels, logits, n_boot, seed) for name, logits in answers.items()
    }
    predicted: dict[str, NDArray[np.int64]] = {name: logits.argmax(axis=1) for name, logits in answers.items()}
    majority = majority_logits(train.labels, len(names), len(test.texts))
    tfidf = tfidf_logits(train, test.texts, len(names), seed)
    quality["floors"] = {
        "majority": classification_quality(test.labels, majority, n_boot, seed),
        "tfidf": classification_quality(test.labels, tfidf, n_boot, seed),
    }
    base, cut, healed = predicted.values()
    result = {
        "n": len(test.texts),
        "n_train": len(train.texts),
        "label_names": names,
        "text_fields": list(recipe.data.text_fields),
        "truncated": truncated,
        "bootstrap": {"resamples": n_boot, "level": 0.95, "seed": seed},
        "quality": quality,
        "retention": retention(test.labels, base, healed, n_boot, seed),
        "retention_unrecovered": retention(test.labels, base, cut, n_boot, seed),
    }
    out.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": test.ids, "label": np.asarray(test.labels), **predicted})
    pq.write_table(table, out / "predictions.parquet")
    write_json(out / "evaluation.json", result)
    return result
