"""The few things a report is made of; Markdown and HTML render the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Paragraph:
    """Plain text; ``tone`` is "", "good", "bad" or "quiet"."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A header and rows of plain text; a row whose index is in ``strong`` or ``bad`` is marked."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    strong: tuple[int, ...] = ()
    bad: tuple[int, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A PNG file in the report folder."""

    file: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Paragraph | Table | Figure]


@dataclass(frozen=True)
class Document:
    """A whole report: verdict first, then sections."""

    title: str
    subtitle: str
    passed: bool
    state: str
    verdict: Sequence[Paragraph]
    tiles: Sequence[tuple[str, str, str]]
    sections: Sequence[Section] = field(default_factory=tuple)
