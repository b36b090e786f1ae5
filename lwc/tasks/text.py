"""What tasks on texts share: splits, tokenizer, ordinary checkpoints, and the exported graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor
from transformers import set_seed

from lwc.core.arrays import Array
from lwc.core.errors import ModelError
from lwc.core.store import read_json
from lwc.data.own_splits import split_words
from lwc.data.splits import Examples, load_labels, load_split
from lwc.data.unlabelled import more_texts
from lwc.models.augment import Windows, near_words
from lwc.models.batches import Batch, Encoded, batches, encode
from lwc.models.checkpoint import check_checkpoint
from lwc.models.families import CLASSIFICATION, check_padding, family_of
from lwc.models.forward.answer import Answer
from lwc.models.forward.kept import asked_once
from lwc.models.head import Head
from lwc.models.load import build_from_config, check_weights, load_classifier, load_model, load_tokenizer
from lwc.models.load import save_checkpoint as save
from lwc.models.losses import label_loss
from lwc.models.placement import placed
from lwc.models.positions import positions
from lwc.models.saved import Saved
from lwc.models.source import checkpoint_folder, resolve_source
from lwc.models.tokenizer import train_wordpiece
from lwc.models.tokenizer_files import too_few_embeddings
from lwc.models.types import Model, Output, Tokenizer
from lwc.models.unknown import check_known
from lwc.recipe import Evaluate, FromConfig, Labels, Pretrained, Recipe, Recovery
from lwc.tasks.floors import check_features
from lwc.tasks.own_head import head_in, prepared
from lwc.tasks.task import MODELS, Checkpoint, Evaluation, Graph, Judge, Measure, Rows, Say
from lwc.tasks.text_endpoint import check_names

A = TypeVar("A")
# Label agreement is checked on this many test texts; logits parity does not depend on the texts' content.
PARITY_TEXTS = 200
_BATCHES = (1, 3, 8)
_PADDINGS = ("right", "left", "holes")


class TextTask:
    """One answer to each text: a label or a number. A language model answers each token, see `lwc.tasks.causal_lm`."""

    def prepare(self, recipe: Recipe, out: Path, scratch: Path, say: Say) -> dict[str, Any]:
        quality = prepared(recipe, self.labels, out, scratch, say)
        splits = quality["splits"]
        sizes = ", ".join(f"{splits[name]['rows']:,} {name}" for name in ("train", "validation", "test"))
        say(f"{sizes} texts of {read_json(out / 'source.json')['source']}, {split_words(quality)}")
        return quality

    def check(self, recipe: Recipe, data_dir: Path, stages: Collection[str]) -> None:
        """Names of outputs are lines of a file, and the floor needs words."""
        if "package" in stages:
            check_names(self.outputs(load_labels(data_dir)))
        if "evaluate" in stages:
            check_features(load_split(data_dir, "train").texts)

    def labels(self, head: Head, labels: Labels) -> Labels:
        """The labels of data that a checkpoint's own head answers; raises `ModelError` where it does not fit."""
        raise NotImplementedError

    def outputs(self, label_names: list[str]) -> list[str]:
        """Names of the head's outputs."""
        raise NotImplementedError

    def order(self, head: Head, labels: Labels, label_names: list[str]) -> list[int]:
        """For each of `outputs` that of a checkpoint's own head; raises `ModelError` where it does not fit."""
        raise NotImplementedError

    def targets(self, label_ids: Array, label_names: list[str]) -> Array:
        """What the head learns of label ids (N,)."""
        raise NotImplementedError

    def judged(self, groups: Sequence[Batch], labels: Array | None, teacher: Model | None = None) -> Judge:
        """`Task.judge` on these batches, whose rows have ``labels`` (N,) in their own order.

        Labels may be missing where a teacher is there to be close to. Tokens are their own.
        """
        raise NotImplementedError

    def quality(
        self, logits: dict[str, Array], test: Examples, train: Examples, names: list[str], settings: Evaluate, seed: int
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        """``quality`` and both retentions of ``evaluation.json``, and each model's predicted label ids (N,)."""
        raise NotImplementedError

    def start(self, recipe: Recipe, data_dir: Path, warn: Say) -> Checkpoint[Tokenizer]:
        source, names = recipe.model, load_labels(data_dir)
        if isinstance(source, FromConfig):
            tokenizer = train_wordpiece(load_split(data_dir, "train").texts, source.vocab_size, source.max_length)
            model = build_from_config(source, tokenizer, self.outputs(names), recipe.seed)
        else:
            if source.sha256 is not None:
                check_weights(source.source, Path(resolve_source(source.source)), source.sha256)
            folder, outputs, head = (
                checkpoint_folder(source.source, source.revision),
                self.outputs(names),
                head_in(recipe),
            )
            check_checkpoint(folder)
            order = None if head is None else self.order(head, recipe.data.labels, names)
            set_seed(recipe.seed)  # a new head is random: the same recipe gives the same model
            found = Saved(folder, CLASSIFICATION).head
            fresh = source.head == "new" and found is not None and found[1] == len(outputs)  # else it is made anyway
            model = load_classifier(folder, outputs, source.trust_remote_code, order, new_head=fresh)
            tokenizer = load_tokenizer(folder, source.trust_remote_code)
            check_vocabulary(tokenizer, model, source)
            cut_at(tokenizer, model, source)
            check_known(tokenizer, load_split(data_dir, "train").texts, source, warn)
        check_padding(model, family_of(model), tokenizer.pad_token_id)
        return Checkpoint(model, tokenizer)

    def trained(self, recipe: Recipe, base: Checkpoint[Tokenizer], rows: Rows, data_dir: Path) -> dict[str, Any]:
        return {"truncated": rows.encoded.truncated}

    def load(self, folder: Path) -> Checkpoint[Tokenizer]:
        return Checkpoint(load_model(folder), load_tokenizer(folder))

    def save(self, checkpoint: Checkpoint[Tokenizer], folder: Path) -> None:
        save(checkpoint.model, checkpoint.reader, folder)

    def encoded(self, recipe: Recipe, reader: Tokenizer, texts: Sequence[str], ids: Array, names: list[str]) -> Rows:
        """Token rows of texts with label ids (N,)."""
        return Rows(encode(reader, texts, recipe.model.max_length), self.targets(ids, names))

    def rows(self, recipe: Recipe, reader: Tokenizer, data_dir: Path, split: str) -> Rows:
        examples = load_split(data_dir, split)
        return self.encoded(recipe, reader, examples.texts, examples.labels, load_labels(data_dir))

    def recovery_rows(self, recipe: Recipe, teacher: Checkpoint[Tokenizer], data_dir: Path, say: Say) -> Rows:
        """Further texts have no label, and no loss reads one of them."""
        train, settings, reader = load_split(data_dir, "train"), recipe.recover, teacher.reader
        texts = train.texts
        if settings.unlabelled is not None:
            texts = [*texts, *more_texts(settings.unlabelled, recipe.data, data_dir, recipe.seed, say)]
        labels = np.pad(train.labels, (0, len(texts) - len(train)))
        rows = self.encoded(recipe, reader, texts, labels, load_labels(data_dir))
        return augmented(teacher, rows, texts, settings, recipe.seed)

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        return batch.inputs

    def logits(self, model: Model, output: Output, reader: Tokenizer) -> Tensor:
        return output.logits

    def loss(self, recipe: Recipe, reader: Tokenizer, model: Model, output: Output, batch: Batch) -> Tensor:
        return label_loss(output.logits, batch.labels)

    def ask(self, evaluation: Evaluation) -> Measure:
        """The predictions are id, label, base, unrecovered, compressed, as label ids."""
        recipe, data_dir = evaluation.recipe, evaluation.data_dir
        names, test = load_labels(data_dir), load_split(data_dir, "test")
        logits: dict[str, Array] = {}
        truncated: dict[str, int] = {}
        for name, folder in evaluation.folders.items():
            evaluation.say(f"test split: {name} model on {len(test)} texts")
            kept = evaluation.answers if name == "base" else None
            logits[name], truncated = model_logits(folder, test, recipe, kept)
            if logits[name].shape[1] != len(self.outputs(names)):
                raise ModelError(
                    f"{folder} has {logits[name].shape[1]} classes, the data has {len(names)}",
                    "the checkpoint was trained on other labels: run the train stage again",
                )

        def measure() -> dict[str, Any]:
            evaluation.say("test split: floors")
            train = load_split(data_dir, "train")
            measured, predicted = self.quality(logits, test, train, names, recipe.evaluate, recipe.seed)
            table = pa.table({"id": test.ids, "label": np.asarray(test.labels), **predicted})
            pq.write_table(table, evaluation.out / "predictions.parquet")
            return {**described(evaluation, len(train), names), "truncated": truncated, **measured}

        return measure

    def graph(self, recipe: Recipe, checkpoint: Checkpoint[Tokenizer], data_dir: Path) -> Graph:
        texts = load_split(data_dir, "test").texts
        chosen = [texts[row] for row in spread(len(texts), PARITY_TEXTS)]
        return text_graph(*checkpoint, chosen, recipe.model.max_length)


def augmented(teacher: Checkpoint[Tokenizer], rows: Rows, texts: Sequence[str], settings: Recovery, seed: int) -> Rows:
    """The rows of these texts, with other windows and words of them in each epoch where the settings ask for it."""
    if not settings.augment:
        return rows
    near = _near_words(teacher, rows.encoded) if settings.replace_words else {}
    windows = Windows(teacher.reader, texts, rows.encoded, settings.augment, seed, settings.replace_words, near)
    return Rows(rows.encoded, rows.labels, windows.epoch)


def _near_words(teacher: Checkpoint[Tokenizer], encoded: Encoded) -> dict[int, list[int]]:
    """Near words among the tokens that the texts contain: of others, a trimmed vocabulary would know nothing."""
    read = sorted({token for ids in encoded.ids for token in ids} - set(teacher.reader.all_special_ids))
    table = teacher.model.get_input_embeddings().weight.detach()[read]
    return near_words(table.float().cpu().numpy(), teacher.reader, read)


def compared(
    models: Mapping[str, A], floors: Mapping[str, A], quality: Callable[[A], Any], retention: Callable[[A, A], Any]
) -> dict[str, Any]:
    """``quality`` and both retentions of ``evaluation.json``, from the answers of three models and of the floors."""
    base, cut, healed = (models[name] for name in MODELS)
    beaten = {name: quality(answers) for name, answers in floors.items()}
    return {
        "quality": {**{name: quality(answers) for name, answers in models.items()}, "floors": beaten},
        "retention": retention(base, healed),
        "retention_unrecovered": retention(base, cut),
    }


def described(evaluation: Evaluation, n_train: int, names: list[str]) -> dict[str, Any]:
    """What ``evaluation.json`` says of the texts."""
    return {"n_train": n_train, "label_names": names, "text_fields": list(evaluation.recipe.data.text_fields)}


def check_vocabulary(tokenizer: Tokenizer, model: Model, source: Pretrained) -> None:
    """Raise `ModelError` where the tokenizer has tokens that the model has no embedding for."""
    fault = too_few_embeddings(
        source.source, max(tokenizer.get_vocab().values()) + 1, model.get_input_embeddings().num_embeddings
    )
    if fault is not None:
        raise ModelError(*fault)


def cut_at(tokenizer: Tokenizer, model: Model, source: Pretrained) -> None:
    """Make the tokenizer truncate at the recipe's length; raise `ModelError` where the model reads less."""
    limit = positions(model.config)
    if limit is not None and source.max_length > limit:
        raise ModelError(
            f"model.max_length is {source.max_length}, {source.source} reads at most {limit} tokens",
            f"set model.max_length to {limit} or less",
        )
    tokenizer.model_max_length = source.max_length


def model_logits(
    folder: Path, examples: Examples, recipe: Recipe, answers: Path | None = None
) -> tuple[Array, dict[str, int]]:
    """Logits (N, C) of the checkpoint in ``folder``, and what its tokenizer truncated.

    ``answers`` is where they are kept if other runs ask this model the same (`asked_once`).

    Raises:
        ModelError: a logit is NaN or infinite.
    """
    tokenizer, model = load_tokenizer(folder), placed(load_model(folder))
    encoded = encode(tokenizer, examples.texts, recipe.model.max_length)
    rows = batches(encoded, examples.labels, recipe.evaluate.batch_size, length_bucketed=True, seed=None)
    logits = np.asarray(asked_once(model, encoded, rows, answers), dtype=np.float64)
    bad = int((~np.isfinite(logits)).any(axis=1).sum())
    if bad:
        raise ModelError(
            f"{folder}: {bad} of {len(logits)} test rows have NaN or infinite logits",
            "lower the learning rate or train in fp32 (precision: fp32)",
        )
    return logits, {"count": encoded.truncated, "of": len(examples), "max_length": recipe.model.max_length}


def spread(count: int, rows: int | None) -> Array:
    """Positions of ``rows`` rows, evenly spaced: a split is in its file's order, and that may begin with one class."""
    wanted = count if rows is None else min(rows, count)
    return np.arange(wanted) * count // max(wanted, 1)


def text_graph(model: Model, tokenizer: Tokenizer, texts: Sequence[str] = (), max_length: int = 32) -> Graph:
    """Token ids in, logits out: (B, C), or (B, V) after the last real token of a language model.

    Parity is checked over batch {1, 3, 8} × length {2, 17, full} × right, left and scattered padding, and on ``texts``.
    """
    both = tokenizer(["a short text", "another text that is a little longer"], padding=True, return_tensors="pt")
    sample = {name: both[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in both}
    encoded = encode(tokenizer, texts, max_length) if texts else Encoded([], None, 0, max_length, 0)
    groups = batches(encoded, np.zeros(len(texts)), 16, length_bucketed=True, seed=None)
    return Graph(
        name=model.config.model_type,
        module=Answer(model, list(sample)).eval(),
        sample=sample,
        outputs=("logits",),
        axes=dict.fromkeys(sample, "length"),
        cases=_cases(
            model.get_input_embeddings().num_embeddings, "token_type_ids" in tokenizer.model_input_names, max_length
        ),
        rows=[{name: value.numpy() for name, value in batch.inputs.items()} for batch in groups],
        answers=lambda outputs: np.asarray(outputs[0].argmax(axis=1)),
    )


def _cases(vocabulary: int, types: bool, max_length: int) -> list[tuple[dict[str, Any], dict[str, Array]]]:
    random = np.random.default_rng(0)
    cases = []
    for batch in _BATCHES:
        for length in sorted({2, min(17, max_length), max_length}):
            for padding in _PADDINGS if batch > 1 else ("right",):
                ids = random.integers(0, vocabulary, (batch, length))
                inputs = {"input_ids": ids, "attention_mask": _mask(padding, batch, length, random)}
                if types:
                    inputs["token_type_ids"] = np.zeros_like(ids)
                cases.append(({"batch": batch, "length": length, "padding": padding}, inputs))
    return cases


def _mask(padding: str, batch: int, length: int, random: np.random.Generator) -> Array:
    """An attention mask (B, T) with ragged rows; the first row is always full."""
    mask = np.ones((batch, length), dtype=np.int64)
    for row in range(1, batch):
        real = int(random.integers(1, length + 1))
        if padding == "right":
            mask[row, real:] = 0
        elif padding == "left":
            mask[row, : length - real] = 0
        else:
            mask[row] = random.integers(0, 2, length)
            mask[row, 0] = 1  # a text without one real token has no answer to compare
    return mask
