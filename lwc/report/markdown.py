"""A `Document` as Markdown."""

from __future__ import annotations

import re
from html import escape

from lwc.report.document import Document, Figure, Paragraph, Table, Tiles

_SPECIAL = re.compile(r"([\\`*_\[\]|#])")


def _plain(text: str) -> str:
    """Text that Markdown and the HTML inside it leave as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", escape(" ".join(text.split()), quote=False))


def _table(table: Table) -> str:
    lines = ["| " + " | ".join(_plain(name) for name in table.header) + " |", "|" + "---|" * len(table.header)]
    for i, row in enumerate(table.rows):
        cells = [_plain(cell) for cell in row]
        if i in table.strong or i in table.bad:
            cells = [f"**{cell}**" if cell else "" for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    caption = f"{_plain(table.caption)}\n\n" if table.caption else ""
    return caption + "\n".join(lines)


def _block(block: Paragraph | Table | Figure) -> str:
    if isinstance(block, Paragraph):
        return f"**{_plain(block.text)}**" if block.tone == "bad" else _plain(block.text)
    if isinstance(block, Table):
        return _table(block)
    image = f"![{_plain(block.alt or block.caption)}]({block.file})"
    return f"{image}\n\n{_plain(block.caption)}" if block.alt else image


def _tiles(tiles: Tiles) -> str:
    return _table(Table((tiles.title, "", ""), tuple(tiles.tiles)))


def render_markdown(document: Document) -> str:
    """The document as Markdown text; figures are links to the PNG files beside it."""
    parts = [f"# {_plain(document.title)}: {_plain(document.state)}"]
    if document.lead:
        parts.append(f"**{_plain(document.lead)}**")
    words, figures = [_block(p) for p in document.verdict], [_tiles(one) for one in document.tiles]
    parts += [*figures, *words] if document.lead else [*words, *figures]
    parts.append(_plain(document.subtitle))
    for section in document.sections:
        parts.append(f"## {_plain(section.title)}")
        parts.extend(_block(block) for block in section.blocks)
    return "\n\n".join(parts) + "\n"
