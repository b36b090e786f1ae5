"""The rows of ``serving.py``: the measured value, the aim, and whether it is met."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import psutil

from lwc.core.machine import cpu_limit, cpu_model


def row(
    what: str,
    values: Sequence[float],
    aim: float,
    op: str,
    told: str,
    of: Callable[[Sequence[float]], float] = statistics.median,
) -> dict[str, Any]:
    """One row: ``of`` the values is held against the aim; no value misses it."""
    value = of(values) if values else None
    met = value is not None and (value >= aim if op == ">=" else value <= aim)
    return {"what": what, "value": value, "values": list(values), "aim": f"{op} {aim:.2f}", "met": met, "told": told}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, with machine and date."""
    lines = ["| what | measured | aim | | from |", "|---|---|---|---|---|"]
    for one in rows:
        value = "none" if one["value"] is None else f"{one['value']:.2f}"
        if len(one["values"]) > 1:
            value += f" ({min(one['values']):.2f}–{max(one['values']):.2f})"
        lines.append(
            f"| {one['what']} | {value} | {one['aim']} | {'met' if one['met'] else 'MISSED'} | {one['told']} |"
        )
    load = ", ".join(f"{average:.1f}" for average in psutil.getloadavg())
    return "\n".join(
        [*lines, "", f"{cpu_model()}, {cpu_limit()} cores, {datetime.now(UTC):%Y-%m-%d}; load average {load}."]
    )
