"""Texts to token ids to padded batches, the same way everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lwc.core.arrays import Array
from lwc.core.errors import ModelError
from lwc.models.losses import IGNORED
from lwc.models.types import Tokenizer


@dataclass(frozen=True)
class Encoded:
    """Token ids of each text, unpadded. ``truncated`` texts were longer than ``max_length``; ``texts`` are whole."""

    ids: list[list[int]]
    types: list[list[int]] | None
    pad_id: int
    max_length: int
    truncated: int
    texts: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Batch:
    """Model inputs (B, T), labels, and the positions (B,) of the rows in the data they came from.

    Labels are class ids (B,), numbers (B,) floating, or the tokens (B, T): see `lwc.models.losses.example_loss`.

    ``texts`` are the B raw texts, for whoever reads them with another tokenizer; None where they are not known.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    rows: Tensor
    texts: tuple[str, ...] | None = None

    @property
    def mask(self) -> Tensor:
        """The attention mask (B, T): 1 where a token is real."""
        return self.inputs["attention_mask"]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Batch:
        """The same batch with inputs and labels on a device; the rows' positions stay where they are."""
        inputs = {name: value.to(device) for name, value in self.inputs.items()}
        return Batch(inputs, self.labels.to(device), self.rows, self.texts)


def encode(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> Encoded:
    """Tokenize with truncation to ``max_length`` tokens, special ones included."""
    if not texts:
        raise ValueError("no texts to encode")
    full = tokenizer(list(texts), add_special_tokens=True, truncation=True, max_length=max_length,
                     return_overflowing_tokens=False, return_length=False)  # fmt: skip
    # A text was cut when one token more would have been kept.
    longer = tokenizer(list(texts), add_special_tokens=True, truncation=True, max_length=max_length + 1)
    truncated = sum(len(ids) > max_length for ids in longer["input_ids"])
    types = full.get("token_type_ids")
    return Encoded(full["input_ids"], types, int(tokenizer.pad_token_id), max_length, truncated, tuple(texts))


def slices(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> Encoded:
    """All texts as one stream of tokens, each text ended by the end-of-text token, cut into rows of ``length`` tokens.

    The last, shorter row is kept if it has two tokens or more: one token has nothing to predict.

    Raises:
        ModelError: the tokenizer has no end-of-text token.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise ModelError("the tokenizer has no end-of-text token", "set eos_token and save it again")
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    stream = [token for ids in encoded for token in (*ids, int(end))]
    rows = [stream[start : start + length] for start in range(0, len(stream), length)]
    if len(rows) > 1 and len(rows[-1]) < 2:
        rows.pop()
    return Encoded(rows, None, int(tokenizer.pad_token_id), length, 0)


def pad(encoded: Encoded, rows: Sequence[int], labels: Array | None) -> Batch:
    """One batch of these rows, padded on the right to its longest text. No labels: the tokens are their own."""

    def padded(values: Sequence[Sequence[int]], fill: int) -> Tensor:
        return pad_sequence([torch.tensor(row, dtype=torch.long) for row in values], True, fill)

    tokens = [encoded.ids[row] for row in rows]
    ids, mask = padded(tokens, encoded.pad_id), padded([[1] * len(row) for row in tokens], 0)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if encoded.types is not None:
        inputs["token_type_ids"] = padded([encoded.types[row] for row in rows], 0)
    index = np.asarray(rows)
    texts = None if encoded.texts is None else tuple(encoded.texts[row] for row in rows)
    if labels is None:
        return Batch(inputs, ids.masked_fill(mask == 0, IGNORED), torch.from_numpy(index), texts)
    kind = np.float32 if np.issubdtype(labels.dtype, np.floating) else np.int64
    return Batch(inputs, torch.from_numpy(labels[index].astype(kind)), torch.from_numpy(index), texts)


# Rows of about equal length are batched together within windows of this many batches, so that batches
# carry little padding and their order is still random.
_WINDOW = 16


def row_groups(encoded: Encoded, batch_size: int, *, length_bucketed: bool, seed: int | None) -> list[list[int]]:
    """Which rows make up each batch, nothing padded yet. ``seed`` shuffles; None keeps a fixed order."""
    count = len(encoded)
    lengths = np.array([len(ids) for ids in encoded.ids])
    order = np.arange(count)
    random = np.random.default_rng(seed) if seed is not None else None
    if random is not None:
        order = random.permutation(count)
    if length_bucketed:
        if random is None:
            order = np.argsort(lengths, kind="stable")
        else:
            window = batch_size * _WINDOW
            chunks = [order[start : start + window] for start in range(0, count, window)]
            order = np.concatenate([chunk[np.argsort(lengths[chunk], kind="stable")] for chunk in chunks])
    groups = [order[start : start + batch_size] for start in range(0, count, batch_size)]
    if length_bucketed and random is not None:
        random.shuffle(groups)
    return [[int(row) for row in group] for group in groups]


def batches(
    encoded: Encoded, labels: Array | None, batch_size: int, *, length_bucketed: bool, seed: int | None
) -> list[Batch]:
    """All rows in batches, grouped by `row_groups`; the same seed gives the same batches."""
    groups = row_groups(encoded, batch_size, length_bucketed=length_bucketed, seed=seed)
    return [pad(encoded, group, labels) for group in groups]
