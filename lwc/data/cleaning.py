"""Cleaning of texts: the same function before training and, copied into the Triton repository, at the endpoint.

Standard library only, since it runs inside the server too.
"""

from __future__ import annotations

import functools
import html
import re
import sys
import unicodedata
from collections.abc import Iterable

MAX_CHARACTERS = 200_000
"""Longest text: a longer one is no review, and others would wait while it is tokenized."""

# Without a flag for case, with which `re` cannot jump from one "<" to the next.
_BREAK = re.compile(r"<[bB][rR]\s*/?>")
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,200}>")


@functools.cache
def _unwanted() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Control characters, lone surrogates, and invisible format characters except the joiners that emoji need.

    One pattern for the characters up to U+FFFF, for which `re` has a fast table, and one for those above.
    """
    found = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) in ("Cc", "Cs", "Cf")]
    wanted = ("\u200d", "\ufe0f")
    low = "".join(re.escape(one) for one in found if one <= "\uffff" and one not in wanted)
    return re.compile(f"[{low}]"), re.compile("[" + "".join(one for one in found if one > "\uffff") + "]")


def join(parts: Iterable[str]) -> str:
    """Title and body as one raw text: one below the other, empty ones left out."""
    return "\n".join(part for part in parts if part)


def clean(text: str) -> str:
    """Readable text: entities decoded, no tags or control characters, single spaces, Unicode NFC."""
    text = html.unescape(html.unescape(text)) if "&" in text else text
    text = _TAG.sub(" ", _BREAK.sub(" ", text)) if "<" in text else text
    if text.isprintable():  # no unwanted character, and no white space but spaces
        text = text if text.isascii() else unicodedata.normalize("NFC", text)
        return " ".join(text.split()) if "  " in text else text.strip()
    low, high = _unwanted()
    text = low.sub(" ", text)
    # Only characters above U+FFFF are two units of UTF-16.
    text = high.sub(" ", text) if len(text.encode("utf-16-le", "surrogatepass")) > 2 * len(text) else text
    return " ".join(unicodedata.normalize("NFC", text).split())
