"""Augmented rows: the same for the same seed and epoch, well-formed, never longer than the model reads."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lwc.models.augment import Windows, near_words
from lwc.models.batches import encode
from lwc.models.tokenizer import train_wordpiece

WORDS = ["good", "bad", "thing", "works", "never", "again"]
TOKENIZER = train_wordpiece([" ".join(WORDS)] * 5, 200, 16)
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join), min_size=1, max_size=12)


def within(tokens: list[int], text: str) -> bool:
    """Whether the tokens stand in the text, in order."""
    rest = iter(TOKENIZER(text, add_special_tokens=False)["input_ids"])
    return all(token in rest for token in tokens)


@settings(max_examples=40, deadline=None)
@given(texts=TEXTS, share=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 5), epoch=st.integers(0, 5))
def test_rows_are_windows_of_their_own_text_or_two_joined(
    texts: list[str], share: float, seed: int, epoch: int
) -> None:
    plain = encode(TOKENIZER, texts, 16)
    rows = Windows(TOKENIZER, texts, plain, share, seed).epoch(epoch)
    assert rows.ids == Windows(TOKENIZER, texts, plain, share, seed).epoch(epoch).ids
    assert len(rows) == len(texts)
    for row, text in zip(rows.ids, texts, strict=True):
        assert len(row) <= 16
        assert (row[0], row[-1]) == (TOKENIZER.cls_token_id, TOKENIZER.sep_token_id)
        body = row[1:-1]
        assert within(body, text) or any(
            within(body[:cut], text) and any(within(body[cut:], other) for other in texts)
            for cut in range(len(body) + 1)
        ), "a subsequence of its text, or of it and then of another"
    if share == 0.0:
        assert rows.ids == plain.ids


def test_epochs_differ() -> None:
    texts = [" ".join(WORDS * 5)] * 4
    windows = Windows(TOKENIZER, texts, encode(TOKENIZER, texts, 16), 1.0, 0)
    assert windows.epoch(0).ids != windows.epoch(1).ids


def test_words_are_replaced_by_near_words_alone() -> None:
    texts = [" ".join(WORDS * 5)] * 40
    plain = encode(TOKENIZER, texts, 16)
    good, bad, thing = TOKENIZER.convert_tokens_to_ids(["good", "bad", "thing"])
    dropped = Windows(TOKENIZER, texts, plain, 1.0, 0, 0.5, {good: [thing]}).epoch(0)
    tokens = [token for row in dropped.ids for token in row]
    assert tokens.count(good) < 0.8 * tokens.count(bad) < 0.8 * tokens.count(thing), "half of good became thing"
    nothing_near = Windows(TOKENIZER, texts, plain, 1.0, 0, 0.5, {}).epoch(0)
    assert all(within(row[1:-1], texts[0] + " " + texts[0]) for row in nothing_near.ids)


class Names:
    """A tokenizer that only names its tokens."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self._names[token] for token in ids]


def test_near_words_have_the_closest_embeddings_and_are_words() -> None:
    names = Names("good", "##good", "fine", "!", "bad", "worse", "5")
    table = np.array([[1, 0], [1, 0.01], [1, 0.2], [1, 0.02], [-1, 0.1], [-9, 0.1], [1, 0]], dtype=np.float32)
    found = near_words(table, names, range(7))  # type: ignore[arg-type]
    assert set(found) == {0, 2, 4, 5}, "neither the inside of a word, a sign nor a number"
    assert all(word not in near and set(near) < set(found) for word, near in found.items())
    with_ten_more = Names(*(f"ab{chr(97 + n)}" for n in range(12)))
    line = np.array([[np.cos(a), np.sin(a)] for a in np.linspace(0, 3, 12)])
    near = near_words(line, with_ten_more, range(12))  # type: ignore[arg-type]
    assert sorted(near[0]) == list(range(1, 11)), "the farthest of eleven is left out"


def test_words_of_other_alphabets_of_tokens_begin_with_their_mark() -> None:
    table = np.eye(4, dtype=np.float32)
    assert set(near_words(table, Names("Ġgood", "ly", "Ġbad", "Ġ5"), range(4))) == {0, 2}  # type: ignore[arg-type]
    assert near_words(table[:1], Names("good"), range(1)) == {}  # type: ignore[arg-type]
