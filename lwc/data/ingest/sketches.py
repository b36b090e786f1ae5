"""Statistics of a stream in one pass and fixed memory: exact counts of few values, sketches of many."""

from __future__ import annotations

import base64
import functools
import math
import zlib
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lwc.core.arrays import Array
from lwc.data.ingest.folding import fold_many
from lwc.data.quality import ENGLISH

_BITS = 14
# Standard error of HyperLogLog (Flajolet et al. 2007).
HLL_ERROR = 1.04 / math.sqrt(1 << _BITS)
LONGEST_COUNTED = 2048  # words; longer texts count as this long
_WINDOW, _WINDOWS = 10_000, 10
_TELLING = 8  # words: the language of shorter texts cannot be told
_SHARE = 0.2
_PLACES = 16  # bits of a hash that identify a function word; no two agree in all of them
# Frequent function words; a word may belong to several languages.
_LANGUAGES = {
    "English": " ".join(sorted(ENGLISH)),
    "Spanish": "el la los las un una y o pero de que en con por para es son fue muy no se lo me mi su este esta como",
    "German": "der die das und oder aber ein eine ist sind war sehr nicht ich es sie er wir mit von zu auf für im den",
    "French": "le la les un une et ou mais de des du que qui en dans avec pour est sont très ne pas je il elle ce",
    "Italian": "il lo la gli le un una e o ma di che in con per è sono molto non si mi questo questa come più della",
    "Portuguese": "o a os as um uma e ou mas de que em com por para é são foi muito não se me meu este esta como mais",
}


class HyperLogLog:
    """Counts distinct 64-bit hashes in 16 KiB with a standard error of 0.8%; sketches of parts can be merged."""

    def __init__(self, registers: Array | None = None) -> None:
        self.registers = np.zeros(1 << _BITS, dtype=np.uint8) if registers is None else registers

    def add(self, hashes: Array) -> None:
        """Count hashes (N,), uint64 and well mixed."""
        place = (hashes >> np.uint64(64 - _BITS)).astype(np.int64)
        # The position of the first 1 in the other bits, at most 51 with the guard bit at their end, is the exponent of
        # a float, which represents them exactly.
        rest = (hashes << np.uint64(_BITS)) | np.uint64(1 << (_BITS - 1))
        exponent = (rest.astype(np.float64).view(np.uint64) >> np.uint64(52)).astype(np.int16)
        np.maximum.at(self.registers, place, (1023 + 64 - exponent).astype(np.uint8))

    def merge(self, other: HyperLogLog) -> None:
        """Add the sketch of another part."""
        np.maximum(self.registers, other.registers, out=self.registers)

    def estimate(self) -> int:
        """The number of distinct hashes (Ertl 2017, "New cardinality estimation algorithms", algorithm 6)."""
        size, longest = 1 << _BITS, 64 - _BITS
        counts = np.bincount(self.registers, minlength=longest + 2).tolist()
        total = size * _tau(1 - counts[longest + 1] / size)
        for rank in range(longest, 0, -1):
            total = 0.5 * (total + counts[rank])
        total += size * _sigma(counts[0] / size)
        return round(size * size / (2 * math.log(2) * total))

    def text(self) -> str:
        """The registers as text, for JSON."""
        return base64.b64encode(zlib.compress(self.registers.tobytes(), 1)).decode()

    @staticmethod
    def of(text: str) -> HyperLogLog:
        """The sketch with these registers."""
        return HyperLogLog(np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8).copy())


def _sigma(x: float) -> float:
    if x == 1:
        return math.inf
    y, z, before = 1.0, x, -1.0
    while z != before:
        x, before = x * x, z
        z, y = z + x * y, 2 * y
    return z


def _tau(x: float) -> float:
    if x in (0, 1):
        return 0.0
    y, z, before = 1.0, 1 - x, -1.0
    while z != before:
        x, before, y = math.sqrt(x), z, y / 2
        z -= (1 - x) ** 2 * y
    return z / 3


@functools.cache
def _function_words() -> tuple[Array, Array, Array]:
    """Place by the low bits of a hash, hashes of F words, and (F, L) whether a word is of a language."""
    words = sorted({word for text in _LANGUAGES.values() for word in text.split()})
    hashes = fold_many(pa.array(words)).words
    member = np.array([[word in text.split() for text in _LANGUAGES.values()] for word in words])
    table = np.zeros(1 << _PLACES, dtype=np.uint8)
    table[(hashes & np.uint64((1 << _PLACES) - 1)).astype(np.int64)] = np.arange(len(words))
    return table, hashes, member


def languages(words: Array, starts: Array) -> Counter[str]:
    """Number of texts by language: the one with most function words, at least 20% of all words."""
    table, hashes, member = _function_words()
    place = table[(words & np.uint64((1 << _PLACES) - 1)).astype(np.int64)]
    hit = np.flatnonzero(hashes[place] == words)
    counts = np.diff(starts)
    text = np.searchsorted(starts, hit, side="right") - 1
    found = np.stack([np.bincount(text[of], minlength=len(counts)) for of in member[place[hit]].T.astype(bool)], axis=1)
    shares = found / np.maximum(counts, 1)[:, None]
    best = np.where(shares.max(axis=1) >= _SHARE, shares.argmax(axis=1), len(_LANGUAGES))
    told = np.bincount(best[counts >= _TELLING], minlength=len(_LANGUAGES) + 1)
    result = Counter({name: int(n) for name, n in zip([*_LANGUAGES, "other"], told, strict=True) if n})
    result["too short to tell"] = int((counts < _TELLING).sum())
    return result


def lengths(starts: Array) -> Array:
    """Number of texts (2049,) by number of words; the last one counts all longer texts."""
    return np.bincount(np.minimum(np.diff(starts), LONGEST_COUNTED), minlength=LONGEST_COUNTED + 1)


def diversity(words: Array) -> tuple[int, int]:
    """Distinct words summed over at most ten windows of 10,000 words, and the number of windows."""
    windows = min(_WINDOWS, len(words) // _WINDOW)
    return sum(len(np.unique(words[i * _WINDOW : (i + 1) * _WINDOW])) for i in range(windows)), windows


def months(times: pa.Array, labels: pa.DictionaryArray) -> dict[str, dict[str, int]]:
    """Number of rows by month (``2014-03``) and label, without rows that have no time."""
    there = times.is_valid().to_numpy(zero_copy_only=False)
    month = pc.fill_null(times, 0).to_numpy().astype("datetime64[s]").astype("datetime64[M]").astype(np.int64)[there]
    names = labels.dictionary.to_pylist()
    found: dict[str, dict[str, int]] = {}
    both, counts = np.unique(month * len(names) + labels.indices.to_numpy()[there], return_counts=True)
    for one, count in zip(both.tolist(), counts.tolist(), strict=True):
        number, label = divmod(one, len(names))
        year = 1970 + number // 12
        name = f"{year:04d}-{number % 12 + 1:02d}" if 1 <= year <= 9999 else "beyond the calendar"
        of = found.setdefault(name, {})
        of[names[label]] = of.get(names[label], 0) + count
    return found


def quantile(counts: Array, share: float) -> int:
    """The least value that a share of the counted values does not exceed."""
    return int(np.searchsorted(np.cumsum(counts), share * counts.sum()))
