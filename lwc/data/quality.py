"""The data quality report, to read before training."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lwc.core.arrays import Array
from lwc.data.duplicates import fold

# The most frequent English function words, over a third of all words in English prose.
ENGLISH = frozenset(
    re.findall(
        r"\w+",
        "the a an and or but of to in on for with is are was were be been it its this that i you he she they we my"
        " your not have has had do does did as at by from so if would will can just very all",
    )
)
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_PERCENTILES = (5, 25, 50, 75, 95, 99)


def english_share(text: str) -> float:
    """The share of words (0 to 1) that are English function words."""
    words = _WORD.findall(text.casefold())
    return sum(word in ENGLISH for word in words) / len(words) if words else 0.0


def balance(counts: Array, names: Sequence[str]) -> dict[str, Any]:
    """How many rows there are, how many of each class (C,), and the share of the largest one."""
    rows = int(counts.sum())
    labels = dict(zip(names, counts.tolist(), strict=True))
    return {"rows": rows, "labels": labels, "majority_share": max(labels.values()) / max(1, rows)}


def describe(texts: Sequence[str], labels: Array, names: Sequence[str]) -> dict[str, Any]:
    """Counts, label balance, lengths, language and lexical diversity of a set of rows."""
    lengths = np.array([len(text.split()) for text in texts])
    counts = np.bincount(labels, minlength=len(names))
    words = [word for text in texts for word in _WORD.findall(text.casefold())]
    shares = np.array([english_share(text) for text in texts])
    sample = words[:100_000]
    return {
        **balance(counts, names),
        "words": {f"p{p}": float(np.percentile(lengths, p)) for p in _PERCENTILES},
        # The language of texts with fewer than 8 words cannot be guessed.
        "english_by_function_words": float((shares[lengths >= 8] >= 0.2).mean()) if (lengths >= 8).any() else None,
        "distinct_words": len(set(words)),
        # The type-token ratio falls with length, so the number of words is fixed and stated.
        "type_token_ratio": {"words": len(sample), "ratio": len(set(sample)) / max(1, len(sample))},
    }


def leaks(texts: Sequence[str], users: Sequence[str | None], members: Mapping[str, Array]) -> dict[str, dict[str, int]]:
    """How many texts and users two of train, validation and test have in common; a random split may share users."""
    found: dict[str, dict[str, int]] = {}
    names = ("train", "validation", "test")
    content = {name: {fold(texts[index]) for index in members[name]} for name in names}
    people = {name: {users[index] for index in members[name]} - {None} for name in names}
    for position, one in enumerate(names):
        for other in names[position + 1 :]:
            found[f"{one}/{other}"] = {
                "texts": len(content[one] & content[other]),
                "users": len(people[one] & people[other]),
            }
    return found


SAMPLE = 20_000
"""Most texts that `giveaways` reads, evenly spaced."""
_GIVEAWAY_ROWS = 20  # a class with fewer rows shares a word by chance


def giveaways(texts: Sequence[str], labels: Array, names: Sequence[str]) -> list[dict[str, Any]]:
    """Words of train that give a class away: in at least half of its texts, and in at most 1% of all others.

    Words that people use, however telling, are in a small part of a class. The most frequent ten are returned.

    Args:
        labels: class ids (N,).
    """
    chosen = np.arange(min(SAMPLE, len(texts))) * len(texts) // max(1, min(SAMPLE, len(texts)))
    kept = np.asarray(labels)[chosen]
    rows = np.bincount(kept, minlength=len(names))
    found: dict[str, Counter[int]] = {}
    for index, label in zip(chosen.tolist(), kept.tolist(), strict=True):
        for word in set(fold(texts[index]).split()):
            found.setdefault(word, Counter())[label] += 1
    told: list[tuple[float, str, dict[str, Any]]] = []
    for word, counts in found.items():
        label, inside = counts.most_common(1)[0]
        own, others = int(rows[label]), len(kept) - int(rows[label])
        outside = counts.total() - inside
        if min(own, others) >= _GIVEAWAY_ROWS and 2 * inside >= own and 100 * outside <= min(others, inside):
            one = {"token": word, "label": names[label], "share": inside / own, "elsewhere": outside / others}
            told.append((-inside / own, word, one))
    return [one for _, _, one in sorted(told, key=lambda found: found[:2])[:10]]
