"""A `Document` as Markdown."""

from __future__ import annotations

import re
from html import escape

from lwc.report.document import Document, Figure, Paragraph, Section, Table, Tiles

_SPECIAL = re.compile(r"([\\`*_\[\]|#])")


def plain(text: str) -> str:
    """Text that Markdown and the HTML inside it leave as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", escape(" ".join(text.split()), quote=False))


def _table(table: Table) -> str:
    lines = ["| " + " | ".join(plain(name) for name in table.header) + " |", "|" + "---|" * len(table.header)]
    for i, row in enumerate(table.rows):
        cells = [plain(cell) for cell in row]
        if i in table.strong or i in table.bad:
            cells = [f"**{cell}**" if cell else "" for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    caption = f"{plain(table.caption)}\n\n" if table.caption else ""
    return caption + "\n".join(lines)


def _block(block: Paragraph | Table | Figure) -> str:
    if isinstance(block, Paragraph):
        return f"**{plain(block.text)}**" if block.tone == "bad" else plain(block.text)
    if isinstance(block, Table):
        return _table(block)
    image = f"![{plain(block.alt or block.caption)}]({block.file})"
    return f"{image}\n\n{plain(block.caption)}" if block.alt else image


def _tiles(tiles: Tiles) -> str:
    return _table(Table((tiles.title, "", ""), tuple(tiles.tiles)))


def render_section(section: Section) -> str:
    """A heading and what is below it."""
    return "\n\n".join([f"## {plain(section.title)}", *map(_block, section.blocks)])


def render_markdown(document: Document) -> str:
    """The document as Markdown text; figures are links to the PNG files beside it."""
    parts = [f"# {plain(document.title)}: {plain(document.state)}"]
    if document.lead:
        parts.append(f"**{plain(document.lead)}**")
    words, figures = [_block(p) for p in document.verdict], [_tiles(one) for one in document.tiles]
    parts += [*figures, *words] if document.lead else [*words, *figures]
    parts.append(plain(document.subtitle))
    parts += map(render_section, document.sections)
    return "\n\n".join(parts) + "\n"
