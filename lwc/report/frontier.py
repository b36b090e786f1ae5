"""What a sweep found: quality against how small or fast, and the variants that no other beats on both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias

from typing_extensions import TypedDict

from lwc.core.errors import RecipeError
from lwc.core.marks import Interval, Intervals
from lwc.metrics.headline import Headline, Metric
from lwc.recipe import TASKS, RatioBase
from lwc.report.content_types import RATIOS, Ratios
from lwc.report.document import Document, Figure, Paragraph, Section, Table, Tiles
from lwc.report.formats import NOT_MEASURED, duration, number, ratio, retention, with_interval
from lwc.report.frontier_plot import frontier_plot
from lwc.report.html import render_html
from lwc.report.markdown import render_markdown

Axis: TypeAlias = Literal["params", "latency"]
AXES: tuple[Axis, ...] = ("params", "latency")


class Failure(TypedDict):
    """Why a variant was not finished, and in which stage."""

    stage: str | None
    message: str
    hint: str
    exit_code: int


class Variant(TypedDict):
    """A row of a sweep. Qualities are the task's two headline metrics; what was not measured is None.

    ``floor`` is the first floor of the task; ``seconds`` are of all its stages, when they were made, ``fresh_seconds``
    of those made now.
    """

    recipe: str
    task: str
    name: str
    ratio: float
    of: RatioBase
    strategy: str
    select: Mapping[str, Any]
    kept: list[int] | None
    ratios: Ratios
    base: Intervals | None
    unrecovered: Intervals | None
    compressed: Intervals | None
    floor: Intervals | None
    retention: Intervals | None
    seconds: float | None
    fresh_seconds: float | None
    error: Failure | None


@dataclass(frozen=True)
class Frontier:
    """A sweep's rows, and which of them are Pareto-optimal on each axis: None where one was not measured."""

    rows: Sequence[Variant]
    optimal: Mapping[Axis, Sequence[bool | None]]

    @property
    def headline(self) -> Headline:
        """What is shown of the task's quality."""
        return TASKS[self.rows[0]["task"]].headline

    @property
    def base(self) -> Intervals | None:
        """The uncut model's quality."""
        return next((row["base"] for row in self.rows if row["base"] is not None), None)

    @property
    def floor(self) -> Intervals | None:
        """The floor's quality."""
        return next((row["floor"] for row in self.rows if row["floor"] is not None), None)

    @property
    def failed(self) -> list[str]:
        """Variants that were not finished."""
        return [row["name"] for row in self.rows if row["error"] is not None]

    def best(self, axis: Axis) -> list[str]:
        """Names of the optimal variants, by rising ratio."""
        on = [row for row, good in zip(self.rows, self.optimal[axis], strict=True) if good]
        return [row["name"] for row in sorted(on, key=lambda row: row["ratios"][axis] or 0.0)]

    def axes_of(self, place: int) -> list[Axis]:
        """The axes on which the variant at this place is optimal."""
        return [axis for axis in AXES if self.optimal[axis][place]]


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (gain, quality) points no other point beats: none is as good in both and better in one."""
    return [not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points) for x, y in points]


def _worth(found: Interval, metric: Metric) -> float:
    """A quality as a number that is better when higher."""
    value = found["value"]
    return -math.inf if value is None else -value if metric.lower_is_better else value


def find_frontier(rows: Sequence[Variant]) -> Frontier:
    """Mark the Pareto-optimal variants of a sweep (`lwc.pipeline.sweep.sweep`), by the first headline metric.

    The uncut model takes part as the point (1, its quality): a variant that is no smaller and no better is not
    optimal. Points are compared by their values; their intervals may overlap.

    Raises:
        RecipeError: no rows.
    """
    if not rows:
        raise RecipeError("the sweep has no variants", "list ratios under `sweep`")
    metric = TASKS[rows[0]["task"]].headline.metrics[0]
    uncut = [(1.0, _worth(row["base"][metric.key], metric)) for row in rows if row["base"] is not None][:1]
    optimal: dict[Axis, list[bool | None]] = {}
    for axis in AXES:
        points: dict[int, tuple[float, float]] = {}
        for place, row in enumerate(rows):
            gain, measured = row["ratios"][axis], row["compressed"]
            if gain is not None and math.isfinite(gain) and measured is not None:
                points[place] = gain, _worth(measured[metric.key], metric)
        good = dict(zip(points, pareto([*points.values(), *uncut]), strict=False))
        optimal[axis] = [good.get(place) for place in range(len(rows))]
    return Frontier(rows, optimal)


def _shown(measured: Intervals | None, metric: Metric) -> str:
    return with_interval(measured[metric.key]) if measured is not None else NOT_MEASURED


def _quality_table(f: Frontier) -> Table:
    first, second = f.headline.metrics
    header = (
        "variant", "best in", "kept", *RATIOS, first.name, second.name, f"{first.name} retained", "before recovery",
    )  # fmt: skip
    rows = [
        (
            row["name"],
            "failed" if row["error"] is not None else ", ".join(f.axes_of(place)) or "–",
            f"{len(row['kept'])} blocks" if row["kept"] is not None else NOT_MEASURED,
            *(ratio(row["ratios"][name]) for name in RATIOS),
            _shown(row["compressed"], first),
            _shown(row["compressed"], second),
            retention((row["retention"] or {}).get(first.key)),
            _shown(row["unrecovered"], first),
        )
        for place, row in enumerate(f.rows)
    ]
    known = [
        (name, "", kept, *[gained] * 4, _shown(measured, first), _shown(measured, second), "", "")
        for name, kept, gained, measured in (
            ("uncut model", "all", "1.00×", f.base), (f"floor: {f.headline.floors[0][1]}", "", "", f.floor),
        )
        if measured is not None
    ]  # fmt: skip
    shift = len(known)
    return Table(
        header,
        (*known, *rows),
        "Test split, 95% bootstrap intervals; quality, size and latency as served. Best in: no other variant, nor the "
        f"uncut model, is as good in {first.name} and as small (params) or as fast (latency), and better in one of the "
        "two. By the values alone: if intervals overlap, the order may be chance, and the best of many variants looks "
        "better than it is. `lwc compare` tests finished runs in pairs.",
        strong=tuple(place + shift for place in range(len(f.rows)) if f.axes_of(place)),
        bad=tuple(place + shift for place, row in enumerate(f.rows) if row["error"] is not None),
    )


def _setup_table(f: Frontier) -> Table:
    rows = tuple(
        (
            row["name"], f"{ratio(row['ratio'])} in {row['of']}", ratio(row["ratios"][row["of"]]), row["strategy"],
            ", ".join(map(str, row["kept"])) if row["kept"] is not None else NOT_MEASURED,
            duration(row["seconds"]), duration(row["fresh_seconds"]),
        )
        for row in f.rows
    )  # fmt: skip
    header = ("variant", "asked", "reached", "strategy", "blocks kept", "all its stages", "made now")
    return Table(header, rows, "Stages that variants share, such as training the uncut model, run once.")


def _summary(f: Frontier) -> list[Paragraph]:
    said = []
    name = f.headline.metrics[0].name
    whats: dict[Axis, str] = {"params": "small", "latency": "fast"}
    for axis, what in whats.items():
        if all(good is None for good in f.optimal[axis]):
            said.append(Paragraph(f"{name[:1].upper()}{name[1:]} against {axis}: {NOT_MEASURED}."))
        elif f.best(axis):
            said.append(Paragraph(f"Pareto-optimal in {name} and {axis}: {', '.join(f.best(axis))}."))
        else:
            said.append(Paragraph(f"The uncut model is at least as good in {name} and as {what} as every variant."))
    for row in f.rows:
        if row["error"] is not None:
            where = f" in {row['error']['stage']}" if row["error"]["stage"] else ""
            hint = f" ({row['error']['hint']})" if row["error"]["hint"] else ""
            said.append(Paragraph(f"{row['name']} failed{where}: {row['error']['message']}{hint}", "bad"))
    return said


def _document(f: Frontier, figure: Figure | None = None) -> Document:
    """What a frontier says, for both renderers; the figure where there is one."""
    metric = f.headline.metrics[0]
    done = len(f.rows) - len(f.failed)
    spent = sum(row["fresh_seconds"] or 0.0 for row in f.rows)
    tiles = [("uncut model", number((f.base or {}).get(metric.key)), metric.name)]
    for name in dict.fromkeys(name for axis in AXES for name in f.best(axis)):
        row = next(row for row in f.rows if row["name"] == name)
        gained = ", ".join(f"{ratio(row['ratios'][axis])} {axis}" for axis in AXES if row["ratios"][axis] is not None)
        tiles.append((name, number((row["compressed"] or {}).get(metric.key)), gained))
    return Document(
        title=f"Sweep of {f.rows[0]['recipe']}",
        subtitle=f"{len(f.rows)} variants, {duration(spent)} of stages made now",
        passed=not f.failed,
        state=f"{done} of {len(f.rows)} finished",
        verdict=_summary(f),
        tiles=[Tiles(tiles)],
        sections=[
            Section("Quality against size and speed", [*([figure] if figure else []), _quality_table(f)]),
            Section("Variants", [_setup_table(f)]),
        ],
    )


def frontier_markdown(rows: Sequence[Variant]) -> str:
    """The frontier of a sweep's rows as Markdown text, without the plot."""
    return render_markdown(_document(find_frontier(rows)))


def frontier_html(rows: Sequence[Variant]) -> str:
    """The frontier of a sweep's rows as one self-contained HTML text, with the plot inside."""
    f = find_frontier(rows)
    with TemporaryDirectory() as folder:
        name = frontier_plot(f, Path(folder) / "frontier.png")
        metric = f.headline.metrics[0]
        caption = (
            f"{metric.name[:1].upper()}{metric.name[1:]} on the test split against compression: 95% intervals, "
            "Pareto-optimal variants ringed, dashed before recovery. Strategies are drawn a little apart, so that none "
            "hides another."
        )
        figure = Figure(name, caption) if name is not None else None
        return render_html(_document(f, figure), Path(folder))
