"""Parity: the same inputs through PyTorch and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lwc.core.arrays import Array
from lwc.core.machine import cpu_limit
from lwc.export.onnx import Answer
from lwc.export.session import cpu_session, run
from lwc.models.batches import batches, encode

BATCHES = (1, 3, 8)
PADDINGS = ("right", "left", "holes")


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


def check_parity(
    model: Any, tokenizer: Any, onnx_path: Path, texts: Sequence[str], tolerance: float, max_length: int
) -> dict[str, Any]:
    """max |Δ logit| over batch {1, 3, 8} × length {2, 17, full} × right, left and scattered padding; labels on texts.

    Also runs one batch twice: dropout left alive would answer differently.
    """
    session = cpu_session(onnx_path, cpu_limit())
    random = np.random.default_rng(0)
    cases = []
    worst = 0.0
    for batch in BATCHES:
        for length in sorted({2, min(17, max_length), max_length}):
            for padding in PADDINGS if batch > 1 else ("right",):
                ids = random.integers(0, model.config.vocab_size, (batch, length))
                inputs = {"input_ids": ids, "attention_mask": _mask(padding, batch, length, random)}
                if "token_type_ids" in tokenizer.model_input_names:
                    inputs["token_type_ids"] = np.zeros_like(ids)
                difference = float(np.abs(_torch(model, inputs) - run(session, inputs)).max())
                if not np.isfinite(difference):
                    difference = float(np.finfo(np.float32).max)  # JSON has no infinity; this fails every gate
                cases.append({"batch": batch, "length": length, "padding": padding, "max_abs_diff": difference})
                worst = max(worst, difference)
    again = run(session, inputs)
    repeatable = bool(np.array_equal(again, run(session, inputs)))
    agreement = _labels_agree(model, tokenizer, session, texts, max_length)
    return {
        "max_abs_diff": worst,
        "label_agreement": agreement,
        "texts": len(texts),
        "repeatable": repeatable,
        "tolerance": tolerance,
        "passed": worst <= tolerance and agreement == 1.0 and repeatable,
        "cases": cases,
    }


@torch.inference_mode()
def _torch(model: Any, inputs: dict[str, Array]) -> Array:
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    return np.asarray(Answer(model, list(tensors))(*tensors.values()).float().numpy())


def _labels_agree(model: Any, tokenizer: Any, session: Any, texts: Sequence[str], max_length: int) -> float:
    encoded = encode(tokenizer, texts, max_length)
    same = 0
    for batch in batches(encoded, np.zeros(len(texts)), 16, length_bucketed=True, seed=None):
        inputs = {name: value.numpy() for name, value in batch.inputs.items()}
        same += int((_torch(model, inputs).argmax(axis=1) == run(session, inputs).argmax(axis=1)).sum())
    return same / len(texts)
