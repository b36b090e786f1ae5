"""The plot of a sweep: quality against how small and how fast."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lwc.core.marks import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lwc.report.frontier import Axis, Frontier

_MORE_COLOURS = ("#5e3c99", "#12694a", "#7f6a00", "#5b6675")


@dataclass(frozen=True)
class _Point:
    """A variant at its ratio: quality after recovery, and before it where that was measured."""

    at: float
    recovered: Interval
    cut: Interval | None
    optimal: bool


def _series(f: Frontier) -> dict[str, list[int]]:
    """Places of rows by strategy; two settings of one strategy are two series, numbered."""
    settings: dict[str, list[object]] = {}
    found: dict[str, list[int]] = {}
    for place, row in enumerate(f.rows):
        known = settings.setdefault(row["strategy"], [])
        if row["select"] not in known:
            known.append(row["select"])
        at = known.index(row["select"])
        found.setdefault(f"{row['strategy']} {at + 1}" if at else row["strategy"], []).append(place)
    return found


def _points(f: Frontier, axis: Axis, places: Iterable[int]) -> list[_Point]:
    """What was measured on this axis, by rising ratio."""
    key, found = f.headline.metrics[0].key, []
    for place in places:
        row, good = f.rows[place], f.optimal[axis][place]
        gain, recovered = row["ratios"][axis], row["compressed"]
        if good is not None and gain is not None and recovered is not None:
            cut = row["unrecovered"]
            found.append(_Point(gain, recovered[key], None if cut is None else cut[key], good))
    return sorted(found, key=lambda point: point.at)


def frontier_plot(f: Frontier, path: Path) -> str | None:
    """The first headline metric (95% intervals) against each ratio, a panel for each; None if nothing was measured."""
    from lwc.report.frontier import AXES
    from lwc.report.plots import BLUE, GREY, INK, ORANGE, RED, SOFT, drawing

    shown = {axis: points for axis in AXES if (points := _points(f, axis, range(len(f.rows))))}
    if not shown:
        return None
    metric, series = f.headline.metrics[0], _series(f)
    palette = (BLUE, ORANGE, RED, *_MORE_COLOURS)
    with drawing(path, 1.2 + 4.1 * len(shown), 4.4) as figure:
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for panel, (axis, points) in zip(panels, shown.items(), strict=True):
            if f.base is not None:
                whole = f.base[metric.key]
                panel.axhspan(whole["low"], whole["high"], color=GREY, alpha=0.35, lw=0, zorder=0)
                panel.axhline(whole["value"], color=INK, lw=1.2, zorder=1, label="uncut model")
            # Strategies that keep as many blocks reach the same ratio: side by side, or they hide each other.
            step = 0.012 * ((points[-1].at - points[0].at) or 1.0)
            for i, (name, places) in enumerate(series.items()):
                members = _points(f, axis, places)
                if members:
                    _draw(panel, members, name, palette[i % len(palette)], step * (i - (len(series) - 1) / 2))
            panel.plot([], [], "--", color=SOFT, lw=1, label="before recovery")
            panel.plot([], [], "o", ms=12, mfc="none", mec=INK, label="Pareto-optimal")
            panel.set_xlabel(f"{axis} ratio, ×")
            panel.set_title("smaller →" if axis == "params" else "faster →", loc="right", fontsize=9, color=SOFT)
        panels[0].set_ylabel(f"test {metric.name}{' (lower is better)' if metric.lower_is_better else ''}")
        found = {text: mark for panel in panels for mark, text in zip(*panel.get_legend_handles_labels(), strict=True)}
        place = {"loc": "outside lower center", "ncols": min(4, len(found))}
        figure.legend(found.values(), found.keys(), frameon=False, fontsize=9, **place)
    return path.name


def _draw(panel: Axes, points: list[_Point], name: str, colour: str, shift: float) -> None:
    from lwc.report.plots import INK

    cut = [(point.at + shift, point.cut["value"]) for point in points if point.cut is not None]
    if cut:
        # With a dot: a single ratio makes no line.
        panel.plot(*zip(*cut, strict=True), ".--", color=colour, ms=4, lw=1, alpha=0.8)
    x = [point.at + shift for point in points]
    middle, low, high = ([point.recovered[end] or 0.0 for point in points] for end in ("value", "low", "high"))
    below, above = ([abs(m - end) for m, end in zip(middle, ends, strict=True)] for ends in (low, high))
    panel.errorbar(x, middle, yerr=[below, above], fmt="o-", color=colour, ms=6, lw=1.4, capsize=3, label=name)
    for at, value, point in zip(x, middle, points, strict=True):
        if point.optimal:
            panel.plot(at, value, "o", ms=12, mfc="none", mec=INK, mew=1.4, zorder=5)
