"""Windows and token dropout of known texts: more unlabelled text for a teacher to label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lwc.models.batches import Encoded
from lwc.models.types import Tokenizer

# Texts are kept this many times longer than the model reads, so that windows can come from their later parts.
_REACH = 4
_DROPPED = 0.1
_JOINED = 1 / 3


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
    """

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str], plain: Encoded, share: float, seed: int) -> None:
        self._plain, self._share, self._seed = plain, share, seed
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
        if random.random() < self._share:
            kept = random.random(len(window)) >= _DROPPED
            window = [token for token, keep in zip(window, kept, strict=True) if keep] or window
        return [*self._before, *window, *self._after]
