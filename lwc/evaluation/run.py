"""The one reading of the test split: base, unrecovered and compressed model, beside two floors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from lwc.core import distributed
from lwc.core.arrays import Array
from lwc.core.errors import DataError, ModelError
from lwc.core.store import key_of, write_json
from lwc.data.splits import Examples, load_labels, load_split
from lwc.evaluation.causal_lm import next_tokens, read_tokens, tokens_result
from lwc.evaluation.floors import tfidf_features
from lwc.evaluation.regression import numbers_result
from lwc.metrics.causal_lm import TokenSums
from lwc.metrics.classification import classification_quality, retention
from lwc.models.batches import Batch, Encoded, batches, encode
from lwc.models.forward.predict import predict
from lwc.models.load import load_model, load_tokenizer
from lwc.models.placement import device_of, placed
from lwc.recipe import Recipe
from lwc.tasks.text import in_batches, numbers_of, split_rows
from lwc.training.teacher import answers_folder, write_whole

logger = logging.getLogger(__name__)

MODELS = ("base", "unrecovered", "compressed")
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
    features, asked = tfidf_features(train.texts, texts)
    model = LogisticRegression(C=10, max_iter=1000, random_state=seed).fit(features, train.labels)
    out = np.full((len(texts), classes), np.log(_SMALLEST))
    # A class that train lacks has no column of its own: columns are placed by class id.
    out[:, model.classes_] = np.log(np.maximum(model.predict_proba(asked), _SMALLEST))
    return out


def asked_once(model: Any, encoded: Encoded, rows: Sequence[Batch], folder: Path | None) -> Array:
    """`predict`, or what this very model said of these very batches before, to the bit: it is kept in ``folder``.

    Several processes that share the work ask anew.
    """
    if folder is None or distributed.count() > 1:
        return predict(model, rows)
    batched = [batch.rows.tolist() for batch in rows]
    read = {"ids": encoded.ids, "types": encoded.types, "batches": batched, "device": device_of(model).type}
    path = answers_folder(folder, model) / f"test-{key_of(read)[:32]}.npy"
    with suppress(OSError, EOFError, ValueError):  # not there, or not whole
        found: Array = np.load(path)
        return found
    answers = predict(model, rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, answers)
    except OSError as error:
        logger.warning("%s: the uncut model's answers are not kept: %s", folder, error)
    return answers


def model_logits(
    folder: Path, examples: Examples, batch_size: int, max_length: int, answers: Path | None = None
) -> tuple[NDArray[np.float64], dict[str, int]]:
    """Logits (N, C) of the checkpoint in ``folder``, and what its tokenizer truncated.

    ``answers`` is where they are kept if other runs ask this model the same (`asked_once`).

    Raises:
        ModelError: a logit is NaN or infinite.
    """
    tokenizer, model = load_tokenizer(folder), placed(load_model(folder))
    encoded = encode(tokenizer, examples.texts, max_length)
    rows = batches(encoded, examples.labels, batch_size, length_bucketed=True, seed=None)
    logits = np.asarray(asked_once(model, encoded, rows, answers), dtype=np.float64)
    bad = int((~np.isfinite(logits)).any(axis=1).sum())
    if bad:
        raise ModelError(
            f"{folder}: {bad} of {len(logits)} test rows have NaN or infinite logits",
            "lower the learning rate or train in fp32 (precision: fp32)",
        )
    return logits, {"count": int(encoded.truncated), "of": len(examples.texts), "max_length": max_length}


def class_result(
    logits: dict[str, NDArray[np.float64]], test: Examples, train: Examples, names: list[str], n_boot: int, seed: int
) -> dict[str, Any]:
    """``quality`` and both retentions of ``evaluation.json``; floors: the majority class, and TF-IDF + regression."""
    quality: dict[str, Any] = {
        name: classification_quality(test.labels, values, n_boot, seed) for name, values in logits.items()
    }
    majority = majority_logits(train.labels, len(names), len(test.texts))
    tfidf = tfidf_logits(train, test.texts, len(names), seed)
    quality["floors"] = {
        "majority": classification_quality(test.labels, majority, n_boot, seed),
        "tfidf": classification_quality(test.labels, tfidf, n_boot, seed),
    }
    base, cut, healed = (logits[name].argmax(axis=1) for name in MODELS)
    return {
        "quality": quality,
        "retention": retention(test.labels, base, healed, n_boot, seed),
        "retention_unrecovered": retention(test.labels, base, cut, n_boot, seed),
    }


def evaluate(
    recipe: Recipe,
    data_dir: Path,
    base_dir: Path,
    unrecovered_dir: Path,
    compressed_dir: Path,
    out: Path,
    progress: Callable[[str], None] | None = None,
    answers: Path | None = None,
) -> dict[str, Any]:
    """Measure three models and the floors on the test split; write ``evaluation.json`` and predictions.

    Args:
        recipe: gives the seed, the resamples and the batch size.
        data_dir: folder of the data stage.
        base_dir: stage folder whose ``model/`` is the uncut model; ``unrecovered_dir`` holds it without the
            removed blocks, ``compressed_dir`` that one after recovery.
        out: where ``evaluation.json`` and ``predictions.parquet`` (id, label, base, unrecovered, compressed) go. A
            language model's are the tokens after each whole text, by name, and the label is the uncut model's.
        progress: told what is being measured.
        answers: where the uncut model's logits are kept for other cuts of it (not a language model's).

    Returns:
        The content of ``evaluation.json``.

    Raises:
        ModelError: a model answers with non-finite logits.
        DataError: the floors cannot be fitted on train.
    """
    say = progress or (lambda _: None)
    names, train, test = load_labels(data_dir), load_split(data_dir, "train"), load_split(data_dir, "test")
    folders = dict(zip(MODELS, (base_dir / "model", unrecovered_dir / "model", compressed_dir / "model"), strict=True))
    if recipe.task.kind == "causal_lm":
        measure = _of_tokens(recipe, data_dir, test, folders, out, say)
        truncated = None
    else:
        measure, truncated = _of_answers(recipe, names, train, test, folders, out, say, answers)

    def written() -> dict[str, Any]:
        out.mkdir(parents=True, exist_ok=True)
        measured = measure()
        result = {
            "task": recipe.task.kind,
            "n": measured["quality"]["base"]["n"],
            "n_train": len(train.texts),
            "label_names": names,
            "text_fields": list(recipe.data.text_fields),
            "truncated": truncated,
            "bootstrap": {"resamples": recipe.evaluate.bootstrap, "level": 0.95, "seed": recipe.seed},
            **measured,
        }
        write_json(out / "evaluation.json", result)
        return result

    return distributed.from_main(written)


Measure = Callable[[], dict[str, Any]]
"""What the main process does with the models' answers."""


def _of_tokens(
    recipe: Recipe, data_dir: Path, test: Examples, folders: dict[str, Path], out: Path, say: Callable[[str], None]
) -> Measure:
    tokenizer = load_tokenizer(folders["base"])
    learnt = split_rows(recipe, tokenizer, data_dir, "train")[0]
    groups = in_batches(recipe, split_rows(recipe, tokenizer, data_dir, "test"), recipe.evaluate.batch_size)
    slices, count = sum(len(group) for group in groups), len(test.texts)
    texts = encode(tokenizer, test.texts, recipe.model.max_length)
    found: dict[str, tuple[TokenSums, Array]] = {}
    after: dict[str, list[str]] = {}
    for name, folder in folders.items():
        say(f"test split: {name} model on {slices} slices, and the token after each of {count} texts")
        model = placed(load_model(folder))
        found[name], after[name] = read_tokens(model, groups), next_tokens(model, tokenizer, texts)

    def measure() -> dict[str, Any]:
        # The right answer is the uncut model's: nobody knows how a whole text goes on.
        pq.write_table(pa.table({"id": test.ids, "label": after["base"], **after}), out / "predictions.parquet")
        return tokens_result(found, groups, learnt, len(tokenizer), recipe.evaluate.bootstrap, recipe.seed)

    return measure


def _of_answers(
    recipe: Recipe,
    names: list[str],
    train: Examples,
    test: Examples,
    folders: dict[str, Path],
    out: Path,
    say: Callable[[str], None],
    kept: Path | None,
) -> tuple[Measure, dict[str, int]]:
    answers: dict[str, NDArray[np.float64]] = {}
    truncated: dict[str, int] = {}
    for name, folder in folders.items():
        say(f"test split: {name} model on {len(test.texts)} texts")
        answers[name], truncated = model_logits(
            folder, test, recipe.evaluate.batch_size, recipe.model.max_length, kept if name == "base" else None
        )
    n_boot, seed = recipe.evaluate.bootstrap, recipe.seed

    def measure() -> dict[str, Any]:
        say("test split: floors")
        if recipe.task.kind == "regression":
            numbers = numbers_of(names)
            values = {name: found[:, 0] for name, found in answers.items()}
            predicted = {name: np.abs(found - numbers).argmin(axis=1) for name, found in answers.items()}
            measured = numbers_result(values, test, train, numbers, n_boot, seed)
        else:
            _check_classes(answers, folders, names)
            predicted = {name: found.argmax(axis=1) for name, found in answers.items()}
            measured = class_result(answers, test, train, names, n_boot, seed)
        table = pa.table({"id": test.ids, "label": np.asarray(test.labels), **predicted})
        pq.write_table(table, out / "predictions.parquet")
        return measured

    return measure, truncated


def _check_classes(logits: dict[str, NDArray[np.float64]], folders: dict[str, Path], names: list[str]) -> None:
    for name, found in logits.items():
        if found.shape[1] != len(names):
            raise ModelError(
                f"{folders[name]} has {found.shape[1]} classes, the data has {len(names)}",
                "the checkpoint was trained on other labels: run the train stage again",
            )
