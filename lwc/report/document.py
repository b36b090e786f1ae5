"""The few things a report is made of; Markdown and HTML render the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Paragraph:
    """Plain text; ``tone`` is "", "good", "bad" or "quiet"."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A header and rows of plain text; a row whose index is in ``strong`` or ``bad`` is marked.

    ``stacked``: on a phone, the cells of a row are below each other, as in every table of more than four columns.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    strong: tuple[int, ...] = ()
    bad: tuple[int, ...] = ()
    stacked: bool = False


@dataclass(frozen=True)
class Figure:
    """A PNG file in the report folder; ``alt`` says in words what it shows, where the caption does not."""

    file: str
    caption: str
    alt: str = ""


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; ``fold``: can be folded in HTML, and is at first "open" or "closed"."""

    title: str
    blocks: Sequence[Paragraph | Table | Figure]
    fold: Literal["", "open", "closed"] = ""


@dataclass(frozen=True)
class Tiles:
    """Large figures under a title: name, value, note."""

    tiles: Sequence[tuple[str, str, str]]
    title: str = ""


@dataclass(frozen=True)
class Document:
    """A whole report: verdict first, then sections. ``passed`` None: nothing decided it.

    ``state`` is the outcome in a word or two; ``lead`` says it in a sentence in its place, where there is one.
    """

    title: str
    subtitle: str
    passed: bool | None
    state: str
    verdict: Sequence[Paragraph]
    tiles: Sequence[Tiles]
    lead: str = ""
    sections: Sequence[Section] = field(default_factory=tuple)
