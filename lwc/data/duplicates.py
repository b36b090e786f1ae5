"""Exact and near duplicates of texts."""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np

_PICTURES = ((0x2600, 0x27BF), (0x2B00, 0x2BFF), (0x1F000, 0x1FAFF))
"""Emoji and symbols such as stars: most of a short review may be in them."""
_NO_CONTENT = ((0xFE00, 0xFE0F), (0x1F3FB, 0x1F3FF), (0xE0100, 0xE01EF))
"""How a character is drawn (variation selectors), and skin tones."""


class _Content(dict[int, str]):
    """What `fold` makes of each character, found out on its first use."""

    def __missing__(self, code: int) -> str:
        character, kept = chr(code), " "
        if any(low <= code <= high for low, high in _NO_CONTENT):
            kept = ""
        elif any(low <= code <= high for low, high in _PICTURES):
            kept = f" {character} "
        # Marks are vowels in many scripts of Asia.
        elif character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M":
            kept = character
        self[code] = kept
        return kept


_CONTENT = _Content()


def fold(text: str) -> str:
    """The letters, marks, digits and emoji of a text in one case; equal for texts that count as duplicates."""
    return " ".join(text.casefold().translate(_CONTENT).split())


def exact_duplicates(folded: Sequence[str], labels: Sequence[int]) -> tuple[set[int], set[int]]:
    """Later copies of a text, and all copies of a text that has different labels."""
    first: dict[str, int] = {}
    copies: dict[str, list[int]] = {}
    for index, text in enumerate(folded):
        if text in first:
            copies.setdefault(text, [first[text]]).append(index)
        else:
            first[text] = index
    repeats: set[int] = set()
    conflicts: set[int] = set()
    for group in copies.values():
        if len({labels[index] for index in group}) > 1:
            conflicts.update(group)
        else:
            repeats.update(group[1:])
    return repeats, conflicts


_PERMUTATIONS = 64
_PRIME = np.uint64((1 << 61) - 1)
_SHINGLE = 3


def _shingles(folded: str) -> set[int]:
    words = folded.split()
    if len(words) <= _SHINGLE:
        return {zlib.crc32(folded.encode())}
    return {zlib.crc32(" ".join(words[i : i + _SHINGLE]).encode()) for i in range(len(words) - _SHINGLE + 1)}


def near_duplicates(folded: Sequence[str], threshold: float, whole: int = 0) -> set[int]:
    """Texts whose word 3-gram Jaccard similarity with an earlier kept text is at least ``threshold``.

    The first ``whole`` texts are all kept.

    MinHash with banding (Broder 1997; Leskovec et al., Mining of Massive Datasets, ch. 3) finds candidates, whose exact
    similarity decides: there are no false positives, and at 0.9 about 1% of the pairs are missed.
    """
    random = np.random.default_rng(1)
    a = random.integers(1, 1 << 28, _PERMUTATIONS, dtype=np.uint64)
    b = random.integers(0, 1 << 60, _PERMUTATIONS, dtype=np.uint64)
    per_band = 8 if threshold >= 0.8 else 4
    tables: list[dict[bytes, list[int]]] = [{} for _ in range(_PERMUTATIONS // per_band)]
    dropped: set[int] = set()
    shingles: list[set[int]] = []
    for index, text in enumerate(folded):
        mine = _shingles(text)
        shingles.append(mine)
        values = np.fromiter(mine, dtype=np.uint64, count=len(mine))
        # 32-bit hashes times 28-bit factors stay below 2^61: no overflow before the modulus.
        signature = ((values[None, :] * a[:, None] + b[:, None]) % _PRIME).min(axis=1)
        keys = [signature[start : start + per_band].tobytes() for start in range(0, _PERMUTATIONS, per_band)]
        candidates = {other for table, key in zip(tables, keys, strict=True) for other in table.get(key, ())}
        if index >= whole and any(_jaccard(mine, shingles[other]) >= threshold for other in candidates):
            dropped.add(index)
            continue
        for table, key in zip(tables, keys, strict=True):
            table.setdefault(key, []).append(index)
    return dropped


def _jaccard(one: set[int], other: set[int]) -> float:
    return len(one & other) / len(one | other)
