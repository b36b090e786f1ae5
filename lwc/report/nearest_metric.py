"""Which metric a misspelled name means."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

_WORD = re.compile(r"[a-z]+[0-9]*|[0-9]+")
_LIKE = 0.75  # ratio of two words that are one word, misspelled
_ENOUGH = 0.35
# Of other models than the compressed one, and of part of a latency: meant only where they are named.
_SELDOM = frozenset({"base", "unrecovered", "floors", "wait"})


def _likeness(word: str, other: str) -> float:
    if word.isdigit() and other.isdigit():
        return 1 / (1 + abs(int(word) - int(other)))
    ratio = difflib.SequenceMatcher(None, word, other).ratio()
    return ratio if ratio >= _LIKE else 0.0


def nearest(name: str, metrics: Sequence[str]) -> list[str]:
    """The metric that shares most words with ``name``, misspelled or not, and a second one if it shares nearly as many.

    >>> nearest("latency_p95", ["ratios.latency", "serving.http.wait_ms.p95", "serving.http.latency_ms.p95"])
    ['serving.http.latency_ms.p95']
    """
    asked = _WORD.findall(name.lower())
    scores: dict[str, float] = {}
    for metric in metrics:
        words = _WORD.findall(metric.lower())
        met = sum(max(_likeness(word, other) for other in words) for word in asked)
        unasked = sum(not any(_likeness(one, word) for word in asked) for one in _SELDOM.intersection(words))
        same_end = metric.rpartition(".")[2] == name.rpartition(".")[2]
        scores[metric] = 2 * met / (len(asked) + len(words) + 2 * unasked) + 0.1 * same_end if asked else 0.0
    best = sorted(metrics, key=lambda metric: -scores[metric])[:2]
    return [one for one in best if scores[one] >= max(_ENOUGH, 0.95 * scores[best[0]])]
