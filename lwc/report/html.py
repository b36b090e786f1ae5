"""A `Document` as one self-contained HTML file: no script, no link, images embedded."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from lwc.report.document import Document

_DOT = re.compile(r"([a-z0-9_*])\.(?=[a-z])")
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    keep_trailing_newline=True,
)


def render_html(document: Document, folder: Path) -> str:
    """The document as HTML text; figures are read from ``folder`` and embedded."""

    def embedded(file: str) -> str:
        data = base64.b64encode((folder / file).read_bytes()).decode("ascii")
        return f"data:image/png;base64,{data}"

    return _TEMPLATES.get_template("page.html.j2").render(page=document, embedded=embedded, breakable=_breakable)


def _breakable(text: str) -> Markup:
    """Text whose dotted names may be broken after a dot, so that a table of them fits a phone."""
    return Markup(_DOT.sub("\\1.<wbr>", str(escape(text))))
