"""Contents that are easily misread: what looks alike and is not, and what differs and is the same."""

from __future__ import annotations

import pytest

from lwc.data.duplicates import fold


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("\u0905\u091a\u094d\u091b\u093e", "\u0905\u091a\u094d\u091b\u0940", False),
        ("\u0915\u0941\u0932", "\u0915\u0947\u0932", False),
        ("\u0e14\u0e35", "\u0e14\u0e37", False),
        ("Good \U0001f44d", "good \U0001f44e", False),
        ("Good\U0001f44d!", "good \U0001f44d\U0001f3fd", True),
        ("\u2764\ufe0f", "\u2764", True),
        ("\u2605\u2605", "\u2605\u2606", False),
        ("It's good\u2122...", "it s GOOD", True),
    ],
)
def test_texts_that_differ_in_a_vowel_sign_or_an_emoji_are_no_duplicates(one: str, other: str, same: bool) -> None:
    assert (fold(one) == fold(other)) == same
