"""Values of a review as sources write them, parsed: stars, times, texts and names."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime
from typing import Any

from lwc.core.spelling import MISSING, number_name, plain
from lwc.data.dates import Order, date_of, is_numbered
from lwc.data.rows import BadValue, Reason

# A decimal comma, as spreadsheets of many countries write it: stars are at most 5, so it separates no thousands.
_COMMA = re.compile(r"^\s*(\d),(\d+)\s*$")


def rating_of(value: Any) -> float | None:
    """Stars as a number; None if there are none.

    Raises:
        BadValue: not a number, NaN, or outside 1 to 5.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool):
        raise BadValue(Reason.RATING_BOOLEAN)
    try:
        stars = float(_COMMA.sub(r"\1.\2", value) if isinstance(value, str) else value)
    except OverflowError:
        raise BadValue(Reason.RATING_OUTSIDE) from None
    except (TypeError, ValueError):
        raise BadValue(Reason.RATING_NO_NUMBER, f"{value!r:.40}") from None
    if math.isnan(stars):
        raise BadValue(Reason.RATING_NAN)
    if not 1 <= stars <= 5:
        raise BadValue(Reason.RATING_OUTSIDE, f"{stars:g}")
    return stars


EXACT = 1 << 53
"""From here on, a float does not represent every whole number."""
# Each unit passes this value soon after 1970, before any review was written; the next larger one only in the year 5138.
UNITS = ((10**17, 10**9), (10**14, 10**6), (10**11, 10**3))
YEAR_9999 = 253_402_300_799


def seconds_of(value: Any, order: Order | None = None) -> int | None:
    """A timestamp in seconds, from seconds, milli-, micro-, nanoseconds or a date; None if there is none.

    A word for a missing value and MySQL's date of zeros are none. ``order`` is that of dates such as 03/04/2023.

    Raises:
        BadValue: none of these, or beyond the year 9999.
    """
    value = value.strip() if isinstance(value, str) else value
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str) and (value in MISSING or _NO_DATE.fullmatch(value)):
        return None
    if isinstance(value, date):
        value = _utc_seconds(value)
    try:
        # A float has not all digits of nanoseconds.
        whole = type(value) is int or (isinstance(value, str) and value.isdecimal())
        number = int(value) if whole else int(float(value))
    except (TypeError, ValueError, OverflowError):
        if isinstance(value, str) and (moment := date_of(value, order)) is not None:
            return _utc_seconds(moment)
        raise BadValue(Reason.BAD_TIME, f"{value!r:.40}{_doubt(value, order)}") from None
    for least, unit in UNITS:
        if abs(number) >= least:
            number //= unit
            break
    if abs(number) > YEAR_9999:  # larger ones do not fit the columns that keep them
        raise BadValue(Reason.TIME_OUTSIDE, f"{value!r:.40}")
    return number


_NO_DATE = re.compile(r"0000-00-00([ T]00:00(:00(\.0+)?)?)?")


def _doubt(value: object, order: Order | None) -> str:
    if not isinstance(value, str) or not is_numbered(value):
        return ""
    return ", which is not " + order.replace("_", " ") if order else ", with the day or the month first"


def _utc_seconds(value: date) -> int:
    moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def text_of(value: object) -> str:
    """A text field; a missing value (None, NaN, infinity), a list and an object count as empty."""
    if value is None or isinstance(value, list | dict) or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return str(value)


def name_of(value: object) -> str | None:
    """An identifier or label as storable text (lone surrogates become ``?``); None if it is empty.

    A number that the source stores as one has no spelling of its own: 47.0 is the id ``47``.
    """
    text = number_name(value) if isinstance(value, float) and math.isfinite(value) else text_of(value)
    text = text.strip().encode("utf-8", "replace").decode("utf-8")
    return text or None


_ROUNDED = re.compile(r"[0-9](\.[0-9]+)?[eE]\+[0-9]+")


def id_of(value: object) -> str | None:
    """The identifier of an item; None if it is empty or a word for a missing value.

    Raises:
        BadValue: a float in which several ids may have become one.
    """
    name = name_of(value)
    if (isinstance(value, float) and abs(value) >= EXACT and math.isfinite(value)) or (
        name is not None and _ROUNDED.fullmatch(name)
    ):
        raise BadValue(Reason.ROUNDED_ID, f"{value!r:.40}")
    return None if name in MISSING else name


def user_of(value: object) -> str | None:
    """The identifier of a user, as `id_of`; 7 and 7.0 are one user, on one side of a split."""
    name = id_of(value)
    return None if name is None else plain(name)
