"""The trade in one picture: how much of the uncut model's quality is kept, against the latency of a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lwc.core.marks import Interval
from lwc.metrics.headline import Metric
from lwc.recipe import TASKS
from lwc.report.content_types import Report
from lwc.report.document import Figure
from lwc.report.export_contents import AsServed
from lwc.report.formats import number, percent
from lwc.report.latency import shape_name
from lwc.report.plots import BLUE, GREY, INK, SOFT, drawing
from lwc.report.quality_contents import Quality, measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A floor further below the lowest point than this many points would squeeze the rest together.
_NEAR = 25.0


@dataclass(frozen=True)
class Point:
    """A model in a runtime: ms a call, and percent of the uncut model's quality with the ends of its interval."""

    name: str
    ms: float
    kept: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.name}: {self.kept:.1f} % at {self.ms:,.1f} ms"


def _mean(values: Sequence[float]) -> float:
    return exp(sum(map(log, values)) / len(values))


def _point(name: str, ms: Sequence[float], kept: Interval) -> Point:
    value = 100 * (kept["value"] or 0.0)
    low, high = (value if kept[end] is None else 100 * (kept[end] or 0.0) for end in ("low", "high"))
    return Point(name, _mean(ms), value, low, high)


def trade_points(served: AsServed, metric: Metric) -> list[Point]:
    """The uncut model in PyTorch and ONNX Runtime, then the served graph; empty if retention was not measured."""
    kept = (served["retention"] or {}).get(metric.key)
    if kept is None or kept["value"] is None:
        return []
    shapes, whole = served["latency"]["shapes"], Interval(value=1.0, low=1.0, high=1.0)
    return [
        _point("uncut, PyTorch eager", [one["eager_ms"] for one in shapes], whole),
        _point("uncut, ONNX Runtime", [one["base_ms"] for one in shapes], whole),
        _point(f"as served: {served['precision']}", [one["served_ms"] for one in shapes], kept),
    ]


def best_floor(report: Report, metric: Metric) -> tuple[str, float] | None:
    """The floor that is nearest to the uncut model, and its percentage of that model's quality."""
    quality = report["quality"]
    if not quality:
        return None

    def value(one: Quality) -> float:
        return measured(one, metric.key)["value"] or 0.0

    base, found = value(quality["base"]), []
    for key, title in TASKS[report["task"]].headline.floors:
        floor = value(quality["floors"][key]) if key in quality["floors"] else 0.0
        if base > 0 and floor > 0:
            found.append((100 * (base / floor if metric.lower_is_better else floor / base), title))
    share, title = max(found, default=(0.0, ""))
    return (title[:1].upper() + title[1:], share) if found else None


def trade_plot(report: Report, path: Path) -> Figure | None:
    """Quality kept against latency, labels at the points; None where one of the two was not measured."""
    served, metric = report["served"], TASKS[report["task"]].headline.metrics[0]
    points = trade_points(served, metric) if served is not None else []
    if served is None or not points:
        return None
    floor = best_floor(report, metric)
    *uncut, compressed = points
    shown = floor if floor is not None and floor[1] > compressed.low - _NEAR else None
    heights = [100.0, compressed.low, compressed.high, *([shown[1]] if shown is not None else [])]
    top, bottom = max(heights), min(heights)
    height, right = max(top - bottom, 2.0), 1.12 * max(point.ms for point in points)
    with drawing(path, 4.5, 3.8) as figure:
        axes = figure.add_subplot()
        axes.axhline(100, color=GREY, lw=1, zorder=0)
        axes.set_xlim(0, right)
        # Room for the floor's name, where the floor is above everything.
        edge = top + (0.13 if shown is not None and shown[1] == top else 0.05) * height
        axes.set_ylim(bottom - 0.3 * height, edge)
        _draw(axes, uncut, compressed, edge)
        if shown is not None:
            axes.axhline(shown[1], color=SOFT, lw=1.2, ls=(0, (4, 3)), zorder=0)
            # On the side where no name of a point is.
            left = shown[1] > 100 or compressed.ms > 0.5 * right
            axes.annotate(
                f"{shown[0]}, {shown[1]:.1f} %", (0.02 * right if left else right, shown[1]), (0, 3),
                textcoords="offset points", ha="left" if left else "right", va="bottom", color=SOFT, size=9,
                bbox={"fc": "white", "ec": "none", "pad": 0.3},
            )  # fmt: skip
        axes.set_xlabel("← faster          latency, ms a call")
        axes.set_ylabel(f"{metric.name} kept, %")
    beside = f" {floor[0]}: {floor[1]:.1f} %." if floor else ""
    alt = f"{metric.name} kept against latency. {'. '.join(map(str, points))}.{beside}"
    names = " and ".join(shape_name(shape) for shape in served["latency"]["shapes"])
    mean = ", geometric mean of the medians" if len(served["latency"]["shapes"]) > 1 else ", median"
    caption = (
        f"Share of the uncut model's {metric.name} on the test split, with its 95% interval, against the latency of a "
        f"call of {names} (batch × tokens{mean}) on this machine."
        + (f" Dashed: {shown[0]}, which needs no transformer." if shown else "")
        + (f" {floor[0]} is far below, at {percent(floor[1] / 100)}." if floor and not shown else "")
    )
    return Figure(path.name, caption, alt)


def _draw(axes: Axes, uncut: Sequence[Point], served: Point, top: float) -> None:
    """Points with their names: of the uncut model above everything, of the served one below its interval."""
    left, right = sorted(uncut, key=lambda point: point.ms)
    width = axes.get_xlim()[1]
    # Names take 0.42 of the width; where they would meet, the one to the right goes higher.
    flush = left.ms > 0.42 * width
    apart = right.ms - left.ms > (0.42 if flush else 0.84) * width
    for point in uncut:
        axes.plot(point.ms, point.kept, "s", color=INK, ms=8, zorder=3)
    _above(axes, left, top, 6, "right" if flush else "left")
    _above(axes, right, top, 6 if apart else 38, "right")
    around = [[served.kept - served.low], [served.high - served.kept]]
    axes.errorbar(served.ms, served.kept, yerr=around, fmt="o", color=BLUE, ms=11, capsize=5, lw=1.8, zorder=3)
    across = "right" if served.ms > 0.72 * width else "left" if served.ms < 0.28 * width else "center"
    axes.annotate(
        _text(served), (served.ms, served.low), (0, -6), textcoords="offset points", ha=across, va="top", color=BLUE,
        weight="bold", multialignment=across, bbox={"fc": "white", "ec": "none", "pad": 0.6}, zorder=4,
    )  # fmt: skip


def _text(point: Point) -> str:
    return f"{point.name}\n{number(point.kept, 1)} %, {number(point.ms, 1)} ms"


def _above(axes: Axes, point: Point, top: float, offset: int, across: Literal["left", "right"]) -> None:
    """The name, ``offset`` points above ``top``, with a line down to its point."""
    axes.annotate(
        "", (point.ms, point.kept), (point.ms, top), annotation_clip=False, zorder=1,
        arrowprops={"arrowstyle": "-", "color": GREY, "shrinkA": 0, "shrinkB": 0},
    )  # fmt: skip
    if offset > 30:
        axes.annotate(
            "", (point.ms, top), (0, offset), textcoords="offset points", zorder=1,
            arrowprops={"arrowstyle": "-", "color": GREY, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
    axes.annotate(
        _text(point), (point.ms, top), (4 if across == "right" else -4, offset), textcoords="offset points", ha=across,
        va="bottom", color=INK, multialignment=across,
    )  # fmt: skip
