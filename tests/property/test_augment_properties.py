"""Augmented rows: the same for the same seed and epoch, well-formed, never longer than the model reads."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lwc.models.augment import Windows
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
