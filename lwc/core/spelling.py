"""How names from data are spelled: one name for each number, and a key for names that people take for the same."""

from __future__ import annotations

import html
import math
import re
import struct
import unicodedata

LONE = re.compile("[\ud800-\udfff]")
"""Surrogates without their other half: JSON and YAML can have them, UTF-8 cannot."""
_WHOLE = re.compile(r"(-?[0-9]+)\.0+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_EXACT, _LARGEST_SINGLE = 2.0**53, 3e38


def number_name(value: float) -> str:
    """The one name of a number: ``1`` for 1.0, otherwise the shortest decimal that reads back as the same number.

    A 32-bit float that was widened is read back as 32 bits: 0.10000000149011612 is ``0.1``.
    """
    if math.isfinite(value) and abs(value) < _EXACT and value == int(value):
        return str(int(value))
    if math.isfinite(value) and abs(value) < _LARGEST_SINGLE and _single(value) == value:
        shortened = (float(f"{value:.{digits}g}") for digits in range(1, 10))
        return repr(next(short for short in shortened if _single(short) == value))
    return repr(float(value))


def _single(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


MISSING = frozenset(
    form
    for word in ("nan", "none", "null", "nil", "na", "n/a", "#n/a", "<na>", "nat", "undefined")
    for form in (word, word.upper(), word.capitalize(), {"nan": "NaN", "nat": "NaT"}.get(word, word))
)
"""Words that programs write for a missing value."""


def is_number(name: str) -> bool:
    """Whether a name is a finite decimal number."""
    return _NUMBER.fullmatch(name) is not None and math.isfinite(float(name))


def plain(name: str) -> str:
    """A name, without the decimals of a whole number: ``1.0`` and ``1.00`` are ``1``; ``1.10`` may be a version."""
    found = _WHOLE.fullmatch(name)
    return found[1] if found else name


def likeness(name: str, cased: bool = False) -> str:
    """A key, equal for names that differ only in number form, spacing, HTML entities, what does not show, or case.

    With ``cased``, names that differ in case have different keys.

    >>> likeness("POSITIVE") == likeness("Positive"), likeness("01.50") == likeness("1.5")
    (True, True)
    """
    name = html.unescape(name) if "&" in name else name
    if not name.isascii():
        shown = (one for one in unicodedata.normalize("NFKC", name) if unicodedata.category(one) != "Cf")
        name = "".join(shown)
    name = " ".join(name.split())
    if is_number(name):
        return number_name(float(name))
    return name if cased else name.casefold()
