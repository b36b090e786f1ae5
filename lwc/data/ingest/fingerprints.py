"""MinHash of word 3-grams, and the keys of its bands: texts that share a key are compared.

One permutation (Li, Owen & Zhang 2012) with optimal densification (Shrivastava 2017): one hash for each 3-gram instead
of sixty-four, and the same chance of agreement, the Jaccard similarity, in every slot.
"""

from __future__ import annotations

import numpy as np

from lwc.arrays import Array
from lwc.data.ingest.folding import mix

SLOTS = 64
_GRAM = 3
_NONE = np.uint32(0xFFFFFFFF)
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
# Attempt by slot: drawn, and in the end in turn, for texts of so few 3-grams that chance takes long.
_DRAWS = np.concatenate(
    [
        (mix(np.arange(SLOTS * SLOTS, dtype=np.uint64)) >> np.uint64(58)).astype(np.int64).reshape(SLOTS, SLOTS),
        (np.arange(SLOTS)[None, :] + np.arange(1, SLOTS)[:, None]) % SLOTS,
    ]
)


def bands_of(threshold: float) -> int:
    """Number of bands for a threshold: eight of 8 slots at 0.8 and above, sixteen of 4 below."""
    return 8 if threshold >= 0.8 else 16


def missed(similarity: float, bands: int) -> float:
    """Probability that two texts of a Jaccard similarity share no band (Leskovec et al., ch. 3)."""
    return float((1 - similarity ** (SLOTS // bands)) ** bands)


def shingles(words: Array, starts: Array) -> tuple[Array, Array]:
    """(hashes (S,), text of each (S,)) of the word 3-grams; a text of up to three words has one, of all its words."""
    padded = np.concatenate((words, np.zeros(_GRAM - 1, dtype=np.uint64)))
    index = np.arange(len(words))
    counts = np.diff(starts)
    text = np.repeat(np.arange(len(counts)), counts)
    ends = starts[1:][text]
    total = np.zeros(len(words), dtype=np.uint64)
    for step, factor in enumerate(_FACTORS):
        total += np.where(index + step < ends, padded[index + step] * factor, np.uint64(0))
    first = index == starts[:-1][text]
    kept = first | (index + _GRAM <= ends)
    return mix(total[kept]), text[kept]


def signatures(words: Array, starts: Array) -> Array:
    """MinHash (N, 64) as uint32 of texts that have a word each."""
    hashes, text = shingles(words, starts)
    count = len(starts) - 1
    found = np.full(count * SLOTS, _NONE, dtype=np.uint32)
    slot = text * SLOTS + (hashes >> np.uint64(58)).astype(np.int64)
    np.minimum.at(found, slot, (hashes & np.uint64(0x7FFFFFFF)).astype(np.uint32))
    filled = found != _NONE
    open_slots = np.flatnonzero(~filled)
    # An empty slot borrows from one that is filled, drawn by a hash of the slot and the attempt alone.
    for draws in _DRAWS:
        if not len(open_slots):
            break
        place = open_slots & (SLOTS - 1)
        other = open_slots - place + draws[place]
        hit = filled[other]
        found[open_slots[hit]] = found[other[hit]]
        open_slots = open_slots[~hit]
    return found.reshape(count, SLOTS)


def band_keys(signature: Array, bands: int) -> Array:
    """Keys (bands, N) of a signature (N, 64); a key of one band is never that of another."""
    rows = SLOTS // bands
    parts = signature.reshape(len(signature), bands, rows).astype(np.uint64)
    total = np.broadcast_to(np.arange(1, bands + 1, dtype=np.uint64), parts.shape[:2]).copy()
    for place in range(rows):
        total = mix(total * np.uint64(0x9E3779B97F4A7C15) + parts[:, :, place])
    return np.ascontiguousarray(total.T)
