"""Evaluation of a language model: three models and a unigram floor on slices of the test split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

from lwc.arrays import Array
from lwc.losses import IGNORED
from lwc.models.batches import Batch, Encoded
from lwc.models.load import load_model
from lwc.token_metrics import TokenSums, token_quality, token_retention


@torch.inference_mode()
def read_tokens(folder: Path, groups: Sequence[Batch]) -> tuple[TokenSums, Array]:
    """Sums of each slice, and the most likely next tokens (N_tokens,) in order, of the checkpoint in ``folder``."""
    model = load_model(folder)
    sums: dict[str, list[float]] = {"loss": [], "right": [], "tokens": []}
    likely: list[Array] = []
    for batch in groups:
        logits = model(**batch.inputs).logits
        for row, tokens in zip(logits, batch.labels, strict=True):
            wanted = tokens[1:]
            read = wanted != IGNORED
            best = row[:-1][read].argmax(dim=-1)
            loss = functional.cross_entropy(row[:-1][read].float(), wanted[read], reduction="sum")
            sums["loss"].append(float(loss))
            sums["right"].append(float((best == wanted[read]).sum()))
            sums["tokens"].append(float(read.sum()))
            likely.append(best.numpy())
    return TokenSums(*(np.array(sums[name]) for name in ("loss", "right", "tokens"))), np.concatenate(likely)


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
    folders: dict[str, Path], groups: Sequence[Batch], train: Encoded, vocabulary: int, n_boot: int, seed: int
) -> dict[str, Any]:
    """``quality``, both retentions and ``agreement`` of ``evaluation.json``.

    ``agreement`` is the share of next tokens on which a model's first choice is the base's.
    """
    found = {name: read_tokens(folder, groups) for name, folder in folders.items()}
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
