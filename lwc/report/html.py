"""A `Document` as one self-contained HTML file: no script, no link, images embedded."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from lwc.report.document import Document, Figure, Paragraph, Section, Table

_STYLE = """
:root{color-scheme:light;--ink:#1c2430;--soft:#5b6675;--line:#dfe4ea;--paper:#fff;--wash:#f5f7f9;
--good:#12694a;--goodwash:#e6f4ee;--bad:#a3231f;--badwash:#fdeceb}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--wash);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif}
main{max-width:60rem;margin:0 auto;padding:1.25rem}
header,section{background:var(--paper);border:1px solid var(--line);border-radius:10px;
padding:1.1rem 1.25rem;margin:0 0 1rem}
h1{font-size:1.6rem;line-height:1.2;margin:0;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:0 0 .6rem}
p{margin:.45rem 0;overflow-wrap:anywhere}
.top{display:flex;gap:.75rem;align-items:center;justify-content:space-between;flex-wrap:wrap}
.pill{font-weight:700;border-radius:99px;padding:.2rem .9rem;white-space:nowrap}
.pill.good{background:var(--goodwash);color:var(--good)}
.pill.bad{background:var(--badwash);color:var(--bad)}
.quiet{color:var(--soft);font-size:.9rem}
p.good,p.bad{padding:.5rem .75rem;border-radius:6px;border-left:4px solid}
p.good{background:var(--goodwash);border-color:var(--good)}
p.bad{background:var(--badwash);border-color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.6rem;margin:.9rem 0}
.tile{background:var(--wash);border-radius:8px;padding:.6rem .75rem}
.tile b{display:block;font-size:1.35rem;line-height:1.25;font-variant-numeric:tabular-nums}
.tile span{display:block;color:var(--soft);font-size:.82rem}
.scroll{overflow-x:auto;margin:.5rem 0}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{color:var(--soft);font-weight:600}
td+td{white-space:nowrap}
td.long{white-space:normal;min-width:14rem}
tr.strong td{font-weight:650;background:var(--wash)}
tr.bad td{background:var(--badwash)}
figure{margin:.75rem 0}
img{display:block;max-width:min(100%,44rem);height:auto;margin:0 auto}
figcaption{color:var(--soft);font-size:.85rem;margin-top:.25rem}
@media(max-width:34rem){main{padding:.6rem}header,section{padding:.85rem .8rem}h1{font-size:1.3rem}}
@media print{body{background:#fff;font-size:11pt}main{max-width:none;padding:0}
header,section{border:0;padding:0;margin:0 0 1.2rem}section,figure,tr{break-inside:avoid}
.scroll{overflow:visible}td+td{white-space:normal}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
_LONG = 40


def _cell(text: str) -> str:
    long = ' class="long"' if len(text) > _LONG else ""
    return f"<td{long}>{escape(text)}</td>"


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.header)
    rows = []
    for i, row in enumerate(table.rows):
        mark = "bad" if i in table.bad else "strong" if i in table.strong else ""
        rows.append(f"<tr{f' class={chr(34)}{mark}{chr(34)}' if mark else ''}>{''.join(map(_cell, row))}</tr>")
    # Not a <caption>: that would scroll sideways with a wide table on a phone.
    caption = f'<p class="quiet">{escape(table.caption)}</p>' if table.caption else ""
    body = "\n".join(rows)
    head_and_body = f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>"
    return f'{caption}<div class="scroll"><table>{head_and_body}</table></div>'


def _block(block: Paragraph | Table | Figure, folder: Path) -> str:
    if isinstance(block, Paragraph):
        tone = f' class="{block.tone}"' if block.tone else ""
        return f"<p{tone}>{escape(block.text)}</p>"
    if isinstance(block, Table):
        return _table(block)
    data = base64.b64encode((folder / block.file).read_bytes()).decode("ascii")
    caption = escape(block.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def _section(section: Section, folder: Path) -> str:
    inside = "\n".join(_block(block, folder) for block in section.blocks)
    return f"<section>\n<h2>{escape(section.title)}</h2>\n{inside}\n</section>"


def render_html(document: Document, folder: Path) -> str:
    """The document as HTML text; figures are read from ``folder`` and embedded."""
    tiles = "".join(
        f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b><span>{escape(note)}</span></div>'
        for name, value, note in document.tiles
    )
    verdict = "\n".join(_block(p, folder) for p in document.verdict)
    sections = "\n".join(_section(s, folder) for s in document.sections)
    pill = "good" if document.passed else "bad"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(document.title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<header>
<div class="top"><h1>{escape(document.title)}</h1><span class="pill {pill}">{escape(document.state)}</span></div>
<p class="quiet">{escape(document.subtitle)}</p>
<div class="tiles">{tiles}</div>
{verdict}
</header>
{sections}
</main>
</body>
</html>
"""
