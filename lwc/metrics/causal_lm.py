"""Metrics of a language model on slices of text and their bootstrap intervals, in plain numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lwc.core.arrays import Array
from lwc.metrics.classification import interval, quotient, ratio_interval


@dataclass(frozen=True)
class TokenSums:
    """Of each slice (N,): summed loss of its next tokens in nats, how many were right, and how many there are."""

    loss: Array
    right: Array
    tokens: Array


def _figures(sums: TokenSums, weights: Array) -> dict[str, Array]:
    """Perplexity and next-token accuracy of each row of ``weights`` (R, N): how often a slice was drawn."""
    tokens = weights @ sums.tokens
    return {"perplexity": np.exp(weights @ sums.loss / tokens), "next_token_accuracy": weights @ sums.right / tokens}


def _weights(n: int, n_boot: int, seed: int) -> tuple[Array, Array]:
    """(1, N) of ones, and (R, N) of draws: slices are drawn, since the tokens of one are not independent."""
    random = np.random.default_rng(seed)
    return np.ones((1, n)), random.multinomial(n, np.full(n, 1 / n), size=n_boot).astype(np.float64)


def token_quality(sums: TokenSums, n_boot: int, seed: int) -> dict[str, Any]:
    """``{"n", "tokens", "perplexity", "next_token_accuracy"}``, the last two with 95% intervals over slices."""
    once, drawn = _weights(len(sums.tokens), n_boot, seed)
    value, samples = _figures(sums, once), _figures(sums, drawn)
    measured = {name: interval(float(value[name][0]), samples[name]) for name in value}
    return {"n": len(sums.tokens), "tokens": int(sums.tokens.sum()), **measured}


def token_retention(base: TokenSums, compressed: TokenSums, n_boot: int, seed: int) -> dict[str, Any]:
    """How much of the base's quality is left, 1 = all: base ÷ compressed perplexity, compressed ÷ base accuracy."""
    once, drawn = _weights(len(base.tokens), n_boot, seed)

    def ratios(weights: Array) -> dict[str, Array]:
        whole, cut = _figures(base, weights), _figures(compressed, weights)
        accuracy = quotient(cut["next_token_accuracy"], whole["next_token_accuracy"])
        return {"perplexity": whole["perplexity"] / cut["perplexity"], "next_token_accuracy": accuracy}

    value, samples = ratios(once), ratios(drawn)
    return {name: ratio_interval(float(value[name][0]), samples[name]) for name in value}
