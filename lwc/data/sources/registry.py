"""SOURCES: how to read each kind of data source, one row a kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwc.data.rows import Progress, Rows
from lwc.data.sources import amazon_2023, amazon_sample, hub, mcauley, table


@dataclass(frozen=True)
class Source:
    """``read`` yields rows; ``files`` are what they came from, for the record."""

    read: Callable[[Any, Progress], Rows]
    files: Callable[[Any], list[Path]]


SOURCES: dict[str, Source] = {
    "amazon-sample": Source(amazon_sample.read, amazon_sample.files),
    "mcauley": Source(mcauley.read, mcauley.files),
    "table": Source(table.read, table.files),
    "hub": Source(hub.read, hub.files),
    "amazon-2023": Source(amazon_2023.read, amazon_2023.files),
}
