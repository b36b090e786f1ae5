"""A checkpoint whose vocabulary does not have the words of the data is told before it is trained."""

from __future__ import annotations

import pytest

from lwc.core.errors import ModelError
from lwc.models.tokenizer import train_wordpiece
from lwc.models.unknown import check_known
from lwc.recipe import Pretrained

SOURCE = Pretrained(kind="pretrained", source="base", max_length=8)
KNOWN = "good bad works broke"


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ([KNOWN] * 3, None),
        ([KNOWN] * 5 + ["good кот"], None),  # 1 of 22
        ([KNOWN, "good ☕ bad"], "14%"),
        ([KNOWN, "стул горький стол стул " + "кот " * 20], "refused"),  # only what is read counts: 8 of 12 tokens
    ],
)
def test_the_share_of_unknown_tokens(texts: list[str], told: str | None) -> None:
    tokenizer = train_wordpiece([KNOWN], 100, 8)
    warnings: list[str] = []
    if told == "refused":
        with pytest.raises(ModelError, match=r"base: its tokenizer reads 67% of the tokens of train as \[UNK\]: 'кот'"):
            check_known(tokenizer, texts, SOURCE, warnings.append)
        return
    check_known(tokenizer, texts, SOURCE, warnings.append)
    assert len(warnings) == (told is not None)
    assert told is None or (told in warnings[0] and "'☕'" in warnings[0])
