"""How numbers read in a report. What was not measured says so and never looks like 0."""

from __future__ import annotations

import math
from collections.abc import Mapping

NOT_MEASURED = "not measured"


def number(value: object, digits: int = 3, unit: str = "") -> str:
    """A number with fixed digits and thousands separators, or "not measured"."""
    if isinstance(value, Mapping):
        value = value.get("value")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float) or not math.isfinite(value):
        return NOT_MEASURED
    return f"{value:,}{unit}" if isinstance(value, int) else f"{value:,.{digits}f}{unit}"


def significant(value: object) -> str:
    """Four significant digits, for raw scores of any size."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return number(value)
    return f"{value:.4g}"


def percent(value: object, digits: int = 1) -> str:
    """A share as a percentage."""
    if isinstance(value, Mapping):
        value = value.get("value")
    return number(100.0 * value, digits, " %") if isinstance(value, int | float) else NOT_MEASURED


def ratio(value: object) -> str:
    """``2.50×``, or "not measured"."""
    return number(float(value), 2, "×") if isinstance(value, int | float) else NOT_MEASURED


def with_interval(value: object, digits: int = 3) -> str:
    """``0.912 (0.890–0.931)``; the value alone where there is no interval."""
    middle = number(value, digits)
    if not isinstance(value, Mapping) or None in (value.get(end) for end in ("value", "low", "high")):
        return middle
    return f"{middle} ({value['low']:.{digits}f}–{value['high']:.{digits}f})"


def retention(value: object) -> str:
    """Retention in percent with its interval: ``98.7 % (96.9–100.4)``."""
    if not isinstance(value, Mapping) or value.get("value") is None:
        return NOT_MEASURED
    text = f"{100 * value['value']:.1f} %"
    if value.get("low") is not None and value.get("high") is not None:
        text += f" ({100 * value['low']:.1f}–{100 * value['high']:.1f})"
    return text


def duration(seconds: object) -> str:
    """``12.3 s`` or ``4 min 05 s``."""
    if not isinstance(seconds, int | float):
        return NOT_MEASURED
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
