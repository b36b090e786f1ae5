"""The next token of any text."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as functional

from lwc.core import distributed
from lwc.core.arrays import Array
from lwc.data.splits import load_labels, load_split
from lwc.metrics.causal_lm import TokenSums, token_quality, token_retention
from lwc.models.batches import Batch, Encoded, batches, encode, slices
from lwc.models.causal import load_causal, locate_causal
from lwc.models.families import check_padding, family_of
from lwc.models.forward.answer import Answer
from lwc.models.forward.predict import loss_and_accuracy
from lwc.models.load import check_weights, load_tokenizer
from lwc.models.losses import IGNORED
from lwc.models.placement import device_of, placed
from lwc.models.token_names import token_names
from lwc.models.types import Model, Tokenizer
from lwc.models.unknown import check_known
from lwc.recipe import Pretrained, Recipe
from lwc.tasks.endpoint import Endpoint
from lwc.tasks.task import MODELS, Checkpoint, Evaluation, Judge, Measure, Rows, Say, validation_batches
from lwc.tasks.text import TextTask, check_vocabulary, compared, cut_at, described
from lwc.tasks.text_endpoint import TextEndpoint

_BATCH = 8


class CausalLM(TextTask):
    """All texts are one stream of tokens, read in slices; every token is a label, in recovery too."""

    endpoint: Endpoint = TextEndpoint()

    def check(self, recipe: Recipe, data_dir: Path, stages: Collection[str]) -> None:
        """Any text is answered, by tokens."""

    def start(self, recipe: Recipe, data_dir: Path, warn: Say) -> Checkpoint[Tokenizer]:
        source = recipe.model
        assert isinstance(source, Pretrained)  # the recipe says so
        found = locate_causal(source.source)
        if source.sha256 is not None:
            check_weights(source.source, Path(found.place), source.sha256)
        model, _, tokenizer = load_causal(found)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token  # the mask says what is padding
        model.config.pad_token_id = tokenizer.pad_token_id
        check_vocabulary(tokenizer, model, source)
        cut_at(tokenizer, model, source)
        check_known(tokenizer, load_split(data_dir, "train").texts, source, warn)
        check_padding(model, family_of(model), tokenizer.pad_token_id)
        return Checkpoint(model, tokenizer)

    def encoded(self, recipe: Recipe, reader: Tokenizer, texts: Sequence[str], ids: Array, names: list[str]) -> Rows:
        """Slices of ``model.max_length`` tokens."""
        return Rows(slices(reader, texts, recipe.model.max_length), None)

    def judge(self, recipe: Recipe, reader: Tokenizer, data_dir: Path, teacher: Model | None = None) -> Judge:
        """By the loss, with a teacher too."""
        return self.judged(validation_batches(recipe, self.rows(recipe, reader, data_dir, "validation")), None)

    def judged(self, groups: Sequence[Batch], labels: Array | None, teacher: Model | None = None) -> Judge:
        def judge(model: Model) -> dict[str, float]:
            was_training = model.training
            model.eval()
            loss, accuracy = loss_and_accuracy(model, groups)
            model.train(was_training)
            return {"perplexity": math.exp(loss), "next_token_accuracy": accuracy, "score": -loss}

        return judge

    def ask(self, evaluation: Evaluation) -> Measure:
        """The right answer to a whole text is the uncut model's: nobody knows how the text continues."""
        recipe, folders, data_dir = evaluation.recipe, evaluation.folders, evaluation.data_dir
        tokenizer, test = load_tokenizer(folders["base"]), load_split(data_dir, "test")
        train = self.rows(recipe, tokenizer, data_dir, "train").encoded
        groups = self.rows(recipe, tokenizer, data_dir, "test").in_batches(recipe.evaluate.batch_size)
        slices_, count = sum(len(group) for group in groups), len(test.texts)
        texts = encode(tokenizer, test.texts, recipe.model.max_length)
        tokens: dict[str, tuple[TokenSums, Array]] = {}
        after: dict[str, list[str]] = {}
        for name, folder in folders.items():
            evaluation.say(f"test split: {name} model on {slices_} slices, and the token after each of {count} texts")
            model = placed(self.load(folder).model)
            tokens[name], after[name] = read_tokens(model, groups), next_tokens(model, tokenizer, texts)

        def measure() -> dict[str, Any]:
            table = pa.table({"id": test.ids, "label": after["base"], **after})
            pq.write_table(table, evaluation.out / "predictions.parquet")
            floor = unigram(train, groups, len(tokenizer))
            return {
                **described(evaluation, len(load_split(data_dir, "train")), load_labels(data_dir)),
                "truncated": None,
                **tokens_result(tokens, floor, recipe.evaluate.bootstrap, recipe.seed),
            }

        return measure


@torch.inference_mode()
def read_tokens(model: Model, groups: Sequence[Batch]) -> tuple[TokenSums, Array]:
    """Sums of each slice, and the most likely next tokens (N_tokens,) in order."""
    device = device_of(model)
    read = distributed.spread(groups, lambda batch: _slices(model, batch.to(device)))
    found = [slice_ for group in read for slice_ in group]
    loss, right, tokens, likely = zip(*found, strict=True)
    return TokenSums(np.array(loss), np.array(right), np.array(tokens)), np.concatenate(likely)


def _slices(model: Model, batch: Batch) -> list[tuple[float, float, float, Array]]:
    """(summed loss, right ones, tokens, most likely ones (N_tokens,)) of each row's next tokens."""
    found = []
    logits = model(**batch.inputs).logits
    for row, labels in zip(logits, batch.labels, strict=True):
        wanted = labels[1:]
        read = wanted != IGNORED
        best = row[:-1][read].argmax(dim=-1)
        loss = functional.cross_entropy(row[:-1][read].float(), wanted[read], reduction="sum")
        found.append((float(loss), float((best == wanted[read]).sum()), float(read.sum()), best.cpu().numpy()))
    return found


@torch.inference_mode()
def next_tokens(model: Model, tokenizer: Tokenizer, texts: Encoded) -> list[str]:
    """The most likely token after each whole text, by name: what the endpoint answers."""
    names = token_names(tokenizer.backend_tokenizer, int(model.config.vocab_size))
    device = device_of(model)

    def answer(batch: Batch) -> list[str]:
        inputs = batch.to(device).inputs
        logits = Answer(model, list(inputs))(*inputs.values())
        return [names[index] for index in logits.argmax(dim=-1).tolist()]

    groups = batches(texts, None, _BATCH, length_bucketed=True, seed=None)
    found = [name for group in distributed.spread(groups, answer) for name in group]
    order = np.argsort(np.concatenate([group.rows.numpy() for group in groups]))
    return [found[place] for place in order]


def unigram(train: Encoded, groups: Sequence[Batch], vocabulary: int) -> TokenSums:
    """What a model knows that has only counted the tokens of train, one added to each count."""
    counts = np.ones(vocabulary)
    for ids in train.ids:
        np.add.at(counts, ids, 1)
    surprise, likeliest = -np.log(counts / counts.sum()), int(counts.argmax())
    loss, right, tokens = [], [], []
    for batch in groups:
        for row in batch.labels.numpy():
            wanted = row[1:][row[1:] != IGNORED]
            loss.append(surprise[wanted].sum())
            right.append(float((wanted == likeliest).sum()))
            tokens.append(float(len(wanted)))
    return TokenSums(np.array(loss), np.array(right), np.array(tokens))


def tokens_result(
    found: dict[str, tuple[TokenSums, Array]], floor: TokenSums, n_boot: int, seed: int
) -> dict[str, Any]:
    """``quality``, both retentions and ``agreement`` of ``evaluation.json``, from `read_tokens` of the three models.

    ``agreement`` is the share of next tokens on which a model's first choice is the base's.
    """
    measured = compared(
        {name: sums for name, (sums, _) in found.items()},
        {"unigram": floor},
        lambda sums: token_quality(sums, n_boot, seed),
        lambda base, cut: token_retention(base, cut, n_boot, seed),
    )
    likely = found["base"][1]
    return {**measured, "agreement": {name: float((found[name][1] == likely).mean()) for name in MODELS[1:]}}


TASK = CausalLM()
