"""Evaluation of a language model: three models and a unigram floor on slices of the test split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

from lwc.core import distributed
from lwc.core.arrays import Array
from lwc.export.onnx import Answer
from lwc.metrics.causal_lm import TokenSums, token_quality, token_retention
from lwc.models.batches import Batch, Encoded, batches
from lwc.models.losses import IGNORED
from lwc.models.placement import device_of
from lwc.models.token_names import token_names

_BATCH = 8


@torch.inference_mode()
def read_tokens(model: Any, groups: Sequence[Batch]) -> tuple[TokenSums, Array]:
    """Sums of each slice, and the most likely next tokens (N_tokens,) in order."""
    device = device_of(model)
    read = distributed.spread(groups, lambda batch: _slices(model, batch.to(device)))
    found = [slice_ for group in read for slice_ in group]
    loss, right, tokens, likely = zip(*found, strict=True)
    return TokenSums(np.array(loss), np.array(right), np.array(tokens)), np.concatenate(likely)


def _slices(model: Any, batch: Batch) -> list[tuple[float, float, float, Array]]:
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
def next_tokens(model: Any, tokenizer: Any, texts: Encoded) -> list[str]:
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
    found: dict[str, tuple[TokenSums, Array]],
    groups: Sequence[Batch],
    train: Encoded,
    vocabulary: int,
    n_boot: int,
    seed: int,
) -> dict[str, Any]:
    """``quality``, both retentions and ``agreement`` of ``evaluation.json``, from `read_tokens` of the three models.

    ``agreement`` is the share of next tokens on which a model's first choice is the base's.
    """
    quality: dict[str, Any] = {name: token_quality(sums, n_boot, seed) for name, (sums, _) in found.items()}
    floor = unigram(train, groups, vocabulary)
    quality["floors"] = {"unigram": token_quality(floor, n_boot, seed)}
    base, likely = found["base"]
    cut = ("unrecovered", "compressed")
    return {
        "quality": quality,
        "retention": token_retention(base, found["compressed"][0], n_boot, seed),
        "retention_unrecovered": token_retention(base, found["unrecovered"][0], n_boot, seed),
        "agreement": {name: float((found[name][1] == likely).mean()) for name in cut},
    }
