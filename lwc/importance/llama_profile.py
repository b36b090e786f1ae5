"""LLaMA depth profile: what the blocks of a real causal LM do to the same texts, laid over the target's depth."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from lwc.core import distributed
from lwc.core.errors import DataError, ModelError
from lwc.core.machine import cache_dir
from lwc.core.store import key_of, read_json, write_json
from lwc.importance.block_influence import block_influence, turn
from lwc.importance.types import LayerImportance, scorer
from lwc.models.batches import Batch, Encoded, batches
from lwc.models.causal import LLAMA_FAMILY, CausalSource, load_causal, locate_causal
from lwc.models.families import Family, block_list
from lwc.models.forward.prefix import steered, visiting_order
from lwc.models.forward.watch import watched
from lwc.models.placement import device_of, placed
from lwc.models.types import Model, Tokenizer
from lwc.recipe import BlockInfluence, LlamaProfile

# Raise it when what is measured changes: cached measurements of other versions are not read.
_VERSION = 1
_BATCH = 4
_CHECKED = 8
# The wrong q/k order cost SmolLM2-135M 0.63 nats/token on 80 tokens of English. Chosen well below that, not fitted.
_WRONG_ORDER = 0.05
# Smaller influences are rounding: the target's block is the identity.
_IDENTITY = 1e-9


@dataclass(frozen=True)
class DepthProfile:
    """Per block of the LM: ``influence`` in 1 − cos(h_in, h_out), ``bypass_loss`` in nats/token; ``loss`` is whole."""

    loss: float
    influence: tuple[float, ...]
    bypass_loss: tuple[float, ...]
    texts: int
    tokens: int


@dataclass(frozen=True)
class _Measured:
    """Sums over one text: of the losses of its ``predicted`` tokens, whole and per block, and of 1 − cos of all."""

    tokens: int
    predicted: int
    loss: float
    bypassed: list[float]
    turned: list[float]


def chosen_texts(texts: Sequence[str], count: int) -> list[str]:
    """``count`` different texts in an order that is theirs alone: neither row order nor repeats change the choice."""
    return sorted(set(texts), key=lambda text: hashlib.sha256(text.encode()).digest())[:count]


def _token_losses(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of each next token, summed up per text: (B, T, V) and (B, T) to (B,)."""
    losses = functional.cross_entropy(logits[:, :-1].transpose(1, 2).float(), ids[:, 1:], reduction="none")
    return (losses.double() * mask[:, 1:]).sum(dim=1)


@torch.inference_mode()
def measure(model: Model, family: Family, ids: Tensor, mask: Tensor) -> list[_Measured]:
    """Run texts (B, T), padded on the right, through the LM once, and from each block on with that block bypassed."""
    blocks = block_list(model, family)
    turned: dict[int, Tensor] = {}
    losses: dict[frozenset[int], Tensor] = {}
    with steered(blocks, family) as course:

        def look(index: int, before: Tensor, after: Tensor) -> None:
            if not course.gone:
                turned[index] = (turn(before, after) * mask).sum(dim=1)

        alone = [frozenset([index]) for index in range(len(blocks))]
        with watched(model, family, look):
            for course.gone, course.start in visiting_order([frozenset(), *alone], len(blocks)):
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
                losses[course.gone] = _token_losses(logits, ids, mask)
    whole, bypassed = losses[frozenset()], [losses[gone] for gone in alone]
    tokens = mask.sum(dim=1)
    return [
        _Measured(int(tokens[row]), int(tokens[row]) - 1, float(whole[row]),
                  [float(value[row]) for value in bypassed], [float(turned[index][row]) for index in sorted(turned)])
        for row in range(len(ids))
    ]  # fmt: skip


def _batches(tokenizer: Tokenizer, texts: Sequence[str], max_length: int, device: torch.device) -> list[Batch]:
    """Batches of rows of about equal length; a text of fewer than two tokens predicts nothing and is left out."""
    rows = [(text, tokenizer(text, truncation=True, max_length=max_length)["input_ids"]) for text in texts]
    kept = [(text, ids) for text, ids in rows if len(ids) > 1]
    encoded = Encoded([ids for _, ids in kept], None, 0, max_length, 0, tuple(text for text, _ in kept))
    return [batch.to(device) for batch in batches(encoded, None, _BATCH, length_bucketed=True, seed=None)]


@contextmanager
def reordered(model: Model, family: Family) -> Iterator[None]:
    """Rows of q and k from the order GGUF stores them in to the one transformers computes with, for a moment.

    GGUF interleaves the two halves of each head's rotary pairs. Weights that are already right become wrong.
    """
    replaced: list[tuple[Any, Tensor]] = []
    try:
        for block in block_list(model, family):
            attention: Any = block.self_attn
            for projection in (attention.q_proj, attention.k_proj):
                for parameter in projection.parameters():
                    rows = parameter.data
                    pairs = rows.reshape(-1, attention.head_dim // 2, 2, *rows.shape[1:])
                    replaced.append((parameter, rows))
                    parameter.data = pairs.transpose(1, 2).reshape(rows.shape)
        yield
    finally:
        for parameter, rows in replaced:
            parameter.data = rows


@torch.inference_mode()
def check_loaded(
    model: Model, family: Family, tokenizer: Tokenizer, texts: Sequence[str], max_length: int, name: str
) -> float:
    """Mean loss in nats/token on a few texts, once it is sane.

    Raises:
        ModelError: the LM is no better than uniform guessing (ln V), or better with its q/k rows reordered: a GGUF file
            whose permutation was not undone loads without a word and gives a plausible, wrong profile.
    """
    few = _batches(tokenizer, texts[:_CHECKED], max_length, device_of(model))

    def mean_loss() -> float:
        losses, tokens = 0.0, 0
        for batch in few:
            logits = model(**batch.inputs, use_cache=False).logits
            losses += float(_token_losses(logits, batch.inputs["input_ids"], batch.mask).sum())
            tokens += int(batch.mask[:, 1:].sum())
        return losses / tokens

    loss, uniform = mean_loss(), float(np.log(model.config.vocab_size))
    with reordered(model, family):
        other = mean_loss()
    if other < loss - _WRONG_ORDER:
        raise ModelError(
            f"{name}: loaded with the rows of q and k in the wrong order: loss {loss:.2f} nats/token, {other:.2f} once "
            "they are reordered",
            "use another version of transformers or gguf, or a safetensors checkpoint",
        )
    if not loss < uniform:
        raise ModelError(
            f"{name}: loss {loss:.2f} nats/token on the calibration texts, no better than guessing ({uniform:.2f})",
            "name a trained LM that knows the language of the texts",
        )
    return loss


def _folder(source: CausalSource, max_length: int) -> Path:
    key = key_of({"version": _VERSION, "source": source.digest, "max_length": max_length, **source.libraries})
    return cache_dir() / "llama_profile" / key[:24]


def profile(source: str, texts: Sequence[str], max_length: int = 128, gguf_file: str | None = None) -> DepthProfile:
    """Block influence and bypass loss of each block of a LLaMA-family LM on these texts, every token counted once.

    Each text's measurement is cached by the content of the weights and of the text (no text is stored), so that
    another choice of texts, a resample say, measures only what is new.

    Raises:
        ModelError: no LM of the family, or its weights were not loaded right (`check_loaded`).
        MissingDependency: the package, file reader or hub id is not there.
        DataError: no text has two tokens.
    """
    found = locate_causal(source, gguf_file)
    folder = _folder(found, max_length)
    files = {text: folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json" for text in dict.fromkeys(texts)}
    missing = [text for text, file in files.items() if not file.is_file()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        model, family, tokenizer = load_causal(found, LLAMA_FAMILY)
        placed(model)
        readable = [
            text for text in files if len(tokenizer(text, truncation=True, max_length=max_length)["input_ids"]) > 1
        ]
        if readable:
            # On the first of all texts, not of the missing ones: a single odd text is no sample.
            check_loaded(model, family, tokenizer, readable, max_length, source)
        for text in set(missing).difference(readable):
            write_json(files[text], None)
        usable = [text for text in missing if text in set(readable)]
        for batch in _batches(tokenizer, usable, max_length, device_of(model)):
            measured_rows = measure(model, family, batch.inputs["input_ids"], batch.mask)
            for text, measured in zip(batch.texts or (), measured_rows, strict=True):
                write_json(files[text], asdict(measured))
    rows = [_Measured(**row) for row in (read_json(file) for file in files.values()) if row is not None]
    if not rows:
        raise DataError("no calibration text has two tokens", "raise data.calibration")
    predicted, tokens = sum(row.predicted for row in rows), sum(row.tokens for row in rows)
    loss = sum(row.loss for row in rows) / predicted
    bypassed = np.array([row.bypassed for row in rows]).sum(axis=0) / predicted
    turned = np.array([row.turned for row in rows]).sum(axis=0) / tokens
    return DepthProfile(loss, tuple(turned.tolist()), tuple((bypassed - loss).tolist()), len(rows), tokens)


def interpolate(values: Sequence[float], blocks: int) -> tuple[float, ...]:
    """Values at relative depths (i + ½)/n, linearly between their own; constant outside the first and the last."""
    depths = (np.arange(blocks) + 0.5) / blocks
    own = (np.arange(len(values)) + 0.5) / len(values)
    return tuple(np.interp(depths, own, values).tolist())


@scorer
def llama_profile(model: Model, family: Family, batches: Sequence[Batch], settings: LlamaProfile) -> LayerImportance:
    """s_l = ΔL((l + ½)/n): the bypass loss of a causal LM (Touvron et al. 2023) at the same relative depth.

    ΔL_k = mean over tokens of −log p(next) with LM block k the identity on the residual stream, minus that of the whole
    LM, on the raw texts of the calibration set (``settings.texts`` of them, (B, T) in the LM's own tokens); linear in
    between. Unit: nats/token. ``details["block_influence"]`` is the interpolated 1 − cos(h_in, h_out) of the LM.

    A prior, not a measurement: it says where LMs keep their work, and nothing of this model's weights. Deviation: a
    block that is the identity on the calibration set (influence below 1e-9) scores 0, or lowest where others are
    negative.
    """
    texts: list[str] = []
    for batch in batches:
        if batch.texts is None:
            raise DataError(
                "llama_profile reads raw texts, and the batches carry none", "make them with encode and pad"
            )
        texts.extend(batch.texts)
    chosen = chosen_texts(texts, settings.texts)
    measured = distributed.from_main(lambda: profile(settings.source, chosen, settings.max_length, settings.gguf_file))
    own = block_influence(model, family, batches, BlockInfluence(method="block_influence")).scores
    scores = list(interpolate(measured.bypass_loss, len(own)))
    influence = list(interpolate(measured.influence, len(own)))
    lowest = min(0.0, *scores)
    for index, value in enumerate(own):
        if value < _IDENTITY:
            scores[index], influence[index] = lowest, 0.0
    return LayerImportance("llama_profile", tuple(scores), "nats/token", details={"block_influence": influence})
