"""Dates as text: ISO 8601, forms of known review files, and numbers in an order that a whole column shows."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Literal

Order = Literal["day_first", "month_first"]
_NUMBERED = re.compile(r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4})(?:,?[ T]+(.+))?")
_NAMED = ("%d-%b-%y", "%m %d, %Y")
_TELLING = 100


def date_of(text: str, order: Order | None) -> datetime | None:
    """A date in one of the known forms; None for other text, and for numbers without or out of ``order``."""
    text = text.removesuffix("Z").removesuffix(" UTC").removesuffix(" GMT")
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        pass  # not ISO: the other forms follow
    if (found := _NUMBERED.fullmatch(text)) is not None:
        day, month = (found[1], found[3]) if order == "day_first" else (found[3], found[1])
        hour = found[5] and ("0" if found[5][1:2] == ":" else "") + found[5]
        try:
            return datetime.fromisoformat(f"{found[4]}-{month:0>2}-{day:0>2} {hour or '00:00'}") if order else None
        except ValueError:
            return None
    for form in _NAMED:
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    return None


def is_numbered(text: str) -> bool:
    """Whether a date is three numbers, the year last, so that its order must be known."""
    return _NUMBERED.fullmatch(text) is not None


def order_of(values: Iterable[object]) -> tuple[Order | None, str]:
    """The order of a column's dates, None if none of them shows it; and such a date, empty if there is none.

    A number above 12 shows the order, and so does a dot, which only dates with the day first have. A column without
    such dates is read no further than needed to tell.
    """
    texts = (str(value).strip() for value in values if value is not None and value != "")
    first = list(itertools.islice(texts, _TELLING))
    example = next(filter(is_numbered, first), "")
    if not example:
        return None, ""
    for text in itertools.chain(first, texts):
        found = _NUMBERED.fullmatch(text)
        if found is None:
            continue
        if int(found[1]) > 12 or found[2] == ".":
            return "day_first", text
        if int(found[3]) > 12:
            return "month_first", text
    return None, example
