"""MinHash of word 3-grams, and the keys of its bands; texts that share a key are compared.

One permutation (Li, Owen & Zhang 2012) with optimal densification (Shrivastava 2017): one hash per 3-gram instead of
64, and in every slot the same probability of agreement, the Jaccard similarity.
"""

from __future__ import annotations

import itertools

import numpy as np

from lwc.core.arrays import Array
from lwc.data.ingest.folding import mix

SLOTS = 64
_GRAM = 3
_NONE = np.uint32(0xFFFFFFFF)
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
# Attempt by slot: at random, and finally in turn, for texts with so few 3-grams that chance takes long.
_DRAWS = np.concatenate(
    [
        (mix(np.arange(SLOTS * SLOTS, dtype=np.uint64)) >> np.uint64(58)).astype(np.int64).reshape(SLOTS, SLOTS),
        (np.arange(SLOTS)[None, :] + np.arange(1, SLOTS)[:, None]) % SLOTS,
    ]
)
_AT_ONCE = 4
_ATTEMPTS = (_AT_ONCE, 8, 12, 16, 22, 30, 42, 64, len(_DRAWS))


def bands_of(threshold: float) -> int:
    """The number of bands for a threshold: eight of 8 slots from 0.8, sixteen of 4 below."""
    return 8 if threshold >= 0.8 else 16


def missed(similarity: float, bands: int) -> float:
    """The probability that two texts with this Jaccard similarity share no band (Leskovec et al., ch. 3)."""
    return float((1 - similarity ** (SLOTS // bands)) ** bands)


def shingles(words: Array, starts: Array) -> tuple[Array, Array]:
    """Hashes (S,) of the word 3-grams and their texts (S,); a shorter text counts as one 3-gram."""
    counts = np.diff(starts)
    total = words * _FACTORS[0]
    for step in range(1, _GRAM):
        total[:-step] += words[step:] * _FACTORS[step]
    kept = np.ones(len(words), dtype=bool)
    for step in range(1, _GRAM):  # the last words of a text begin no 3-gram
        kept[np.maximum(starts[1:] - step, starts[:-1])[counts > 0]] = False
    few = np.flatnonzero((counts > 0) & (counts < _GRAM))
    total[starts[few]] = 0
    for step in range(_GRAM - 1):
        more = few[counts[few] > step]
        total[starts[more]] += words[starts[more] + step] * _FACTORS[step]
    kept[starts[few]] = True
    whole = counts >= _GRAM
    kept[starts[:-1][whole]] = True
    text = np.repeat(np.arange(len(counts)), np.where(whole, counts - _GRAM + 1, np.minimum(counts, 1)))
    return mix(total[kept]), text


def signatures(words: Array, starts: Array) -> Array:
    """MinHash (N, 64) as uint32 of texts with at least one word."""
    hashes, text = shingles(words, starts)
    count = len(starts) - 1
    found = np.full(SLOTS * count, _NONE, dtype=np.uint32)
    slot = (hashes >> np.uint64(58)).astype(np.int64) * count + text
    np.minimum.at(found, slot, (hashes & np.uint64(0x7FFFFFFF)).astype(np.uint32))
    signature: Array = _borrowed(found.reshape(SLOTS, count)).T
    return signature


def _borrowed(found: Array) -> Array:
    """Minima (64, N) in which empty slots borrow from full ones, chosen by a hash of slot and attempt only."""
    full, empty = found.copy(), found == _NONE
    single = np.count_nonzero(empty, axis=0) == SLOTS - 1  # only one slot to borrow from
    full[:, single], empty[:, single] = found[:, single].min(axis=0), False
    for draws in _DRAWS[:_AT_ONCE]:  # first whole rows, while many slots are empty
        other = found[draws]
        np.copyto(full, other, where=empty)
        empty &= other == _NONE
    slot, text = np.nonzero(empty)
    for begin, end in itertools.pairwise(_ATTEMPTS):  # then several attempts at a time for the rest
        others = found[_DRAWS[begin:end, slot], text]
        first = (others != _NONE).argmax(axis=0)
        drawn = others[first, np.arange(len(slot))]
        full[slot, text] = drawn
        still = drawn == _NONE
        slot, text = slot[still], text[still]
    return full


def band_keys(signature: Array, bands: int) -> Array:
    """Keys (bands, N) of signatures (N, 64); keys of different bands differ."""
    rows = SLOTS // bands
    parts = np.ascontiguousarray(signature.T).reshape(bands, rows, len(signature))
    total = np.repeat(np.arange(1, bands + 1, dtype=np.uint64)[:, None], len(signature), axis=1)
    for place in range(rows):
        total *= np.uint64(0x9E3779B97F4A7C15)
        total += parts[:, place]
        total = mix(total)
    return total
