"""Whether a checkpoint's tokenizer knows the words of the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from lwc.core.errors import ModelError
from lwc.models.types import Tokenizer
from lwc.recipe import Pretrained

WARNED, REFUSED = 0.05, 0.5
"""Shares of unknown tokens: above the first a run warns, above the second it does not begin."""
_TEXTS = 2000


def check_known(tokenizer: Tokenizer, texts: Sequence[str], source: Pretrained, warn: Callable[[str], None]) -> None:
    """Warn where many tokens of ``texts``, of which up to 2,000 are read, are the unknown one.

    Raises:
        ModelError: most of them are, as in a script that the vocabulary does not have.
    """
    some = list(texts[:: 1 + len(texts) // _TEXTS])
    options = {"add_special_tokens": False, "truncation": True, "max_length": source.max_length}
    read = tokenizer(some, **options, return_offsets_mapping=True)
    unknown: Counter[str] = Counter()
    for text, ids, places in zip(some, read["input_ids"], read["offset_mapping"], strict=True):
        for token, (start, end) in zip(ids, places, strict=True):
            if token == tokenizer.unk_token_id:
                unknown[text[start:end]] += 1
    share = unknown.total() / max(1, sum(map(len, read["input_ids"])))
    if share > WARNED:
        words = ", ".join(repr(word) for word, _ in unknown.most_common(3))
        what = (
            f"{source.source}: its tokenizer reads {share:.0%} of the tokens of train as {tokenizer.unk_token}: {words}"
        )
        hint = "take a checkpoint whose vocabulary has the language and script of the data"
        if share > REFUSED:
            raise ModelError(what, hint)
        warn(f"{what}; {hint}")
