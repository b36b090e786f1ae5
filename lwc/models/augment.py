"""Windows of known texts, with tokens dropped and words replaced: more unlabelled text for a teacher to label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lwc.core.arrays import Array
from lwc.models.batches import Encoded
from lwc.models.types import Tokenizer

# Texts are kept this many times longer than the model reads, so that windows can come from their later parts.
_REACH = 4
_DROPPED = 0.1
_JOINED = 1 / 3
# Where words are replaced: share of the varied rows with words replaced, and share with tokens dropped.
_CHANGED = 0.7
_NEAREST = 10
_TOGETHER = 512
_STARTS = ("Ġ", "▁")


def near_words(embeddings: Array, tokenizer: Tokenizer, read: Sequence[int]) -> dict[int, list[int]]:
    """For each word among the tokens ``read``, the ten of them whose embeddings have the highest cosine with its own.

    ``embeddings`` are the rows of the input embedding table for ``read``, (N, D). A word is a token that begins a word
    and consists of letters; names, numbers, punctuation and the insides of words have no neighbours. Fewer than two
    words give none.
    """
    names = tokenizer.convert_ids_to_tokens(list(read))
    marked = any(name.startswith(_STARTS) for name in names)
    words = [
        place
        for place, name in enumerate(names)
        if (name[1:] if marked else name).isalpha() and name.startswith(_STARTS) == marked
    ]
    unit = embeddings[words] / np.maximum(np.linalg.norm(embeddings[words], axis=1, keepdims=True), 1e-12)
    ids = np.asarray(read)[words]
    nearest = min(_NEAREST, len(words) - 1)
    found: dict[int, list[int]] = {}
    # One product for many words: one for each would read the whole table each time.
    for start in range(0, len(ids) if nearest > 0 else 0, _TOGETHER):
        closeness = unit[start : start + _TOGETHER] @ unit.T
        places = np.arange(len(closeness))
        closeness[places, start + places] = -np.inf
        near = np.argpartition(-closeness, nearest - 1, axis=1)[:, :nearest]
        found.update(zip(ids[start + places].tolist(), ids[near].tolist(), strict=True))
    return found


def _window(body: list[int], room: int, random: np.random.Generator) -> list[int]:
    """Half to all of the tokens that fit into ``room``, from a random place."""
    most = min(room, len(body))
    size = int(random.integers(max(1, most // 2), most + 1)) if most else 0
    start = int(random.integers(0, len(body) - size + 1))
    return body[start : start + size]


class Windows:
    """Draws varied versions of each text's token ids, the same ones for the same seed and epoch.

    A share of the rows, fresh in every epoch, becomes a random contiguous window (half to all of what the model reads),
    or, a third of them, two shorter windows of different texts joined; each then loses a tenth of its tokens with the
    same chance. The others stay as they are. Labels may be wrong for these; only a teacher's answers are used.

    With ``replaced`` > 0, that share of a varied row's tokens becomes one of their ``near`` words, in seven rows of ten
    (data augmentation of Jiao et al. 2020, algorithm 1, with the model's own embeddings instead of GloVe and BERT).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        texts: Sequence[str],
        plain: Encoded,
        share: float,
        seed: int,
        replaced: float = 0.0,
        near: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        self._plain, self._share, self._seed = plain, share, seed
        self._replaced, self._near = replaced, near or {}
        probe, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
        start = next(i for i in range(len(probe)) if probe[i : i + len(bare)] == bare)
        self._before, self._after = probe[:start], probe[start + len(bare) :]
        longest = _REACH * plain.max_length
        self._bodies: list[list[int]] = tokenizer(
            list(texts), add_special_tokens=False, truncation=True, max_length=longest
        )["input_ids"]
        self._room = plain.max_length - len(self._before) - len(self._after)

    def epoch(self, number: int) -> Encoded:
        """The rows of an epoch, in their own order."""
        random = np.random.default_rng([self._seed, 2, number])
        ids = [
            self._varied(body, random) if random.random() < self._share else self._plain.ids[row]
            for row, body in enumerate(self._bodies)
        ]
        types = [[0] * len(row) for row in ids] if self._plain.types is not None else None
        return Encoded(ids, types, self._plain.pad_id, self._plain.max_length, self._plain.truncated)

    def _varied(self, body: list[int], random: np.random.Generator) -> list[int]:
        if random.random() < _JOINED:
            other = self._bodies[int(random.integers(len(self._bodies)))]
            half = self._room // 2
            window = [*_window(body, half, random), *_window(other, half, random)]
        else:
            window = _window(body, self._room, random)
        if self._replaced and random.random() < _CHANGED:
            window = [self._replace(token, random) for token in window]
        if random.random() < (_CHANGED if self._replaced else self._share):
            kept = random.random(len(window)) >= _DROPPED
            window = [token for token, keep in zip(window, kept, strict=True) if keep] or window
        return [*self._before, *window, *self._after]

    def _replace(self, token: int, random: np.random.Generator) -> int:
        near = self._near.get(token)
        return near[int(random.integers(len(near)))] if near and random.random() < self._replaced else token
