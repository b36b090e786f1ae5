"""What a sweep found: quality against how small or fast, and the variants that none other beats on both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lwc.core.errors import RecipeError
from lwc.report.document import Document, Figure, Paragraph, Section, Table
from lwc.report.formats import NOT_MEASURED, duration, number, ratio, retention, with_interval
from lwc.report.html import render_html
from lwc.report.markdown import render_markdown

AXES = ("params", "latency")
_RATIOS = ("blocks", "params", "size", "latency")
_MORE_COLOURS = ("#5e3c99", "#12694a", "#7f6a00", "#5b6675")


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (gain, quality) points no other point beats: none is as good in both and better in one."""
    return [not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points) for x, y in points]


def _point(row: Mapping[str, Any], axis: str) -> tuple[float, float] | None:
    """(ratio, accuracy) of a variant; None where one of them was not measured."""
    gain, measured = row["ratios"][axis], row["compressed"]
    if gain is None or measured is None or not math.isfinite(gain):
        return None
    return float(gain), float(measured["accuracy"]["value"])


def frontier_document(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mark the Pareto-optimal variants of a sweep (`lwc.pipeline.sweep.sweep`).

    The uncut model takes part as the point (1, its accuracy): a variant that is no smaller and no better is not
    optimal. Points are compared by their values; their intervals may overlap.

    Returns:
        ``{"recipe", "base", "majority", "rows", "pareto", "failed"}``: each row gets ``pareto`` =
        ``{"params", "latency"}`` with True, False, or None where it was not measured; the outer ``pareto`` has the
        names, by rising ratio.

    Raises:
        RecipeError: no rows.
    """
    if not rows:
        raise RecipeError("the sweep has no variants", "list ratios under `sweep`")
    marks: list[dict[str, bool | None]] = [{} for _ in rows]
    best: dict[str, list[str]] = {}
    base = next((row["base"] for row in rows if row["base"] is not None), None)
    for axis in AXES:
        points = [_point(row, axis) for row in rows]
        known = [(i, point) for i, point in enumerate(points) if point is not None]
        uncut = [(1.0, float(base["accuracy"]["value"]))] if base is not None else []
        optimal = pareto([point for _, point in known] + uncut)
        on = {i for (i, _), good in zip(known, optimal, strict=False) if good}
        for i, point in enumerate(points):
            marks[i][axis] = None if point is None else i in on
        best[axis] = [rows[i]["name"] for i in sorted(on, key=lambda i: (rows[i]["ratios"][axis], i))]
    return {
        "recipe": rows[0].get("recipe"),
        "base": base,
        "majority": next((row["majority"] for row in rows if row.get("majority") is not None), None),
        "rows": [{**row, "pareto": mark} for row, mark in zip(rows, marks, strict=True)],
        "pareto": best,
        "failed": [row["name"] for row in rows if row["error"] is not None],
    }


def _accuracy(measured: Mapping[str, Any] | None, key: str = "accuracy") -> str:
    return with_interval(measured[key]) if measured is not None else NOT_MEASURED


def _optimal(row: Mapping[str, Any]) -> str:
    if row["error"] is not None:
        return "failed"
    return ", ".join(axis for axis in AXES if row["pareto"][axis]) or "–"


def _quality_table(f: Mapping[str, Any]) -> Table:
    header = ("variant", "best in", "kept", *_RATIOS, "accuracy", "macro-F1", "accuracy retained", "before recovery")
    rows = [
        (
            row["name"],
            _optimal(row),
            f"{len(row['kept'])} blocks" if row["kept"] is not None else NOT_MEASURED,
            *(ratio(row["ratios"][name]) for name in _RATIOS),
            _accuracy(row["compressed"]),
            _accuracy(row["compressed"], "macro_f1"),
            retention((row["retention"] or {}).get("accuracy")),
            _accuracy(row["unrecovered"]),
        )
        for row in f["rows"]
    ]
    known = [("floor: majority class", "", [""] * 4, f["majority"]), ("uncut model", "all", ["1.00×"] * 4, f["base"])]
    for name, kept, gained, measured in known:
        if measured is not None:
            scores = (_accuracy(measured), _accuracy(measured, "macro_f1"))
            rows.insert(0, (name, "", kept, *gained, *scores, "", ""))
    shift = len(rows) - len(f["rows"])
    return Table(
        header,
        tuple(rows),
        "Test split, 95% bootstrap intervals. Best in: no other variant, nor the uncut model, is as accurate and as "
        "small (params) or as fast (latency), and better in one of the two. By the values alone: where intervals "
        "overlap, the order may be chance, and the best of many is flattered. "
        "`lwc compare` tests finished runs in pairs.",
        strong=tuple(i + shift for i, row in enumerate(f["rows"]) if any(row["pareto"].values())),
        bad=tuple(i + shift for i, row in enumerate(f["rows"]) if row["error"] is not None),
    )


def _setup_table(f: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            row["name"], f"{ratio(row['ratio'])} in {row['of']}", ratio(row["ratios"][row["of"]]), row["strategy"],
            ", ".join(map(str, row["kept"])) if row["kept"] is not None else NOT_MEASURED,
            duration(row["seconds"]), duration(row["fresh_seconds"]),
        )
        for row in f["rows"]
    )  # fmt: skip
    header = ("variant", "asked", "reached", "strategy", "blocks kept", "all its stages", "made now")
    return Table(header, rows, "Stages that variants share, such as the training of the uncut model, are made once.")


def _summary(f: Mapping[str, Any]) -> list[Paragraph]:
    said = []
    for axis, what in (("params", "small"), ("latency", "fast")):
        if all(row["pareto"][axis] is None for row in f["rows"]):
            said.append(Paragraph(f"Accuracy against {axis}: {NOT_MEASURED}."))
        elif f["pareto"][axis]:
            names = ", ".join(f["pareto"][axis])
            said.append(Paragraph(f"As accurate as any that is as {what}: {names}."))
        else:
            said.append(Paragraph(f"The uncut model is at least as accurate and as {what} as every variant."))
    for row in f["rows"]:
        if row["error"] is not None:
            where = f" in {row['error']['stage']}" if row["error"]["stage"] else ""
            hint = f" ({row['error']['hint']})" if row["error"]["hint"] else ""
            said.append(Paragraph(f"{row['name']} failed{where}: {row['error']['message']}{hint}", "bad"))
    return said


def _document(f: Mapping[str, Any], figure: Figure | None = None) -> Document:
    """What a frontier says, for both renderers; the figure where there is one."""
    done = len(f["rows"]) - len(f["failed"])
    spent = sum(row["fresh_seconds"] or 0.0 for row in f["rows"])
    tiles = [("uncut model", number((f["base"] or {}).get("accuracy")), "accuracy")]
    for name in dict.fromkeys([*f["pareto"]["params"], *f["pareto"]["latency"]]):
        row = next(row for row in f["rows"] if row["name"] == name)
        gained = ", ".join(f"{ratio(row['ratios'][axis])} {axis}" for axis in AXES if row["ratios"][axis] is not None)
        tiles.append((name, number(row["compressed"]["accuracy"]), gained))
    return Document(
        title=f"Sweep of {f['recipe'] or 'a recipe'}",
        subtitle=f"{len(f['rows'])} variants, {duration(spent)} of stages made now",
        passed=not f["failed"],
        state=f"{done} of {len(f['rows'])} finished",
        verdict=_summary(f),
        tiles=tiles,
        sections=[
            Section("Quality against size and speed", [*([figure] if figure else []), _quality_table(f)]),
            Section("Variants", [_setup_table(f)]),
        ],
    )


def _series(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows by strategy; two settings of one strategy are two series, numbered."""
    settings: dict[str, list[Any]] = {}
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        known = settings.setdefault(row["strategy"], [])
        if row.get("select") not in known:
            known.append(row.get("select"))
        at = known.index(row.get("select"))
        found.setdefault(f"{row['strategy']} {at + 1}" if at else row["strategy"], []).append(row)
    return found


def frontier_plot(f: Mapping[str, Any], path: Path) -> str | None:
    """Accuracy (95% intervals) against each measured ratio, a panel for each; None where nothing was measured."""
    import matplotlib as mpl

    from lwc.report.plots import BLUE, GREY, INK, ORANGE, RED, SOFT, STYLE, canvas, save

    axes_shown = [axis for axis in AXES if any(row["pareto"][axis] is not None for row in f["rows"])]
    if not axes_shown:
        return None
    series = _series(f["rows"])
    palette = (BLUE, ORANGE, RED, *_MORE_COLOURS)
    with mpl.rc_context(STYLE):
        figure = canvas(1.2 + 4.1 * len(axes_shown), 4.4)
        panels = figure.subplots(1, len(axes_shown), sharey=True, squeeze=False)[0]
        for panel, axis in zip(panels, axes_shown, strict=True):
            if f["base"] is not None:
                whole = f["base"]["accuracy"]
                panel.axhspan(100 * whole["low"], 100 * whole["high"], color=GREY, alpha=0.35, lw=0, zorder=0)
                panel.axhline(100 * whole["value"], color=INK, lw=1.2, zorder=1, label="uncut model")
            reached = [row["ratios"][axis] for row in f["rows"] if row["pareto"][axis] is not None]
            # Strategies that keep as many blocks reach the same ratio: side by side, or they hide each other.
            step = 0.012 * ((max(reached) - min(reached)) or 1.0)
            for i, (name, members) in enumerate(series.items()):
                rows = [row for row in members if row["pareto"][axis] is not None]
                if rows:
                    rows.sort(key=lambda row: row["ratios"][axis])
                    _draw(panel, rows, axis, name, palette[i % len(palette)], step * (i - (len(series) - 1) / 2))
            panel.plot([], [], "--", color=SOFT, lw=1, label="before recovery")
            panel.plot([], [], "o", ms=12, mfc="none", mec=INK, label="Pareto-optimal")
            panel.set_xlabel(f"{axis} ratio, ×")
            panel.set_title("smaller →" if axis == "params" else "faster →", loc="right", fontsize=9, color=SOFT)
        panels[0].set_ylabel("test accuracy, %")
        found = {text: mark for panel in panels for mark, text in zip(*panel.get_legend_handles_labels(), strict=True)}
        figure.legend(
            found.values(),
            found.keys(),
            frameon=False,
            fontsize=9,
            loc="outside lower center",
            ncols=min(4, len(found)),
        )
        return save(figure, path)


def _draw(panel: Any, rows: Sequence[Mapping[str, Any]], axis: str, name: str, colour: str, shift: float) -> None:
    from lwc.report.plots import INK

    x = [row["ratios"][axis] + shift for row in rows]
    cut = [(at, 100 * row["unrecovered"]["accuracy"]["value"]) for at, row in zip(x, rows, strict=True)
           if row["unrecovered"] is not None]  # fmt: skip
    if cut:
        # With a dot: a single ratio makes no line.
        panel.plot(*zip(*cut, strict=True), ".--", color=colour, ms=4, lw=1, alpha=0.8)
    middle, low, high = ([100 * row["compressed"]["accuracy"][k] for row in rows] for k in ("value", "low", "high"))
    below = [m - at for m, at in zip(middle, low, strict=True)]
    above = [at - m for m, at in zip(middle, high, strict=True)]
    panel.errorbar(x, middle, yerr=[below, above], fmt="o-", color=colour, ms=6, lw=1.4, capsize=3, label=name)
    for at, m, row in zip(x, middle, rows, strict=True):
        if row["pareto"][axis]:
            panel.plot(at, m, "o", ms=12, mfc="none", mec=INK, mew=1.4, zorder=5)


def frontier_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The frontier of a sweep's rows as Markdown text, without the plot."""
    return render_markdown(_document(frontier_document(rows)))


def frontier_html(rows: Sequence[Mapping[str, Any]]) -> str:
    """The frontier of a sweep's rows as one self-contained HTML text, with the plot inside."""
    f = frontier_document(rows)
    with TemporaryDirectory() as folder:
        name = frontier_plot(f, Path(folder) / "frontier.png")
        caption = (
            "Accuracy on the test split against compression: 95% intervals, Pareto-optimal variants ringed, "
            "dashed before recovery. Strategies stand a little apart, so that none hides another."
        )
        figure = Figure(name, caption) if name is not None else None
        return render_html(_document(f, figure), Path(folder))
