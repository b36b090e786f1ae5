"""The report's plots, as PNG files (matplotlib, Agg)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from lwc.recipe import TASKS
from lwc.report.content_types import Report

INK, SOFT, BLUE, ORANGE, RED, GREY = "#1c2430", "#5b6675", "#2166ac", "#d9822b", "#a3231f", "#c3cbd5"
STYLE = {
    "font.size": 10,
    # DejaVu Sans comes with matplotlib: the picture is the same on every machine.
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "figure.facecolor": "white",
    # A label such as "$x$" is text, not a formula.
    "text.parse_math": False,
}
_DPI = 144


@contextmanager
def drawing(path: Path, width: float, height: float) -> Iterator[Canvas]:
    """An empty figure, in inches; at the end it is written to ``path``, the same bytes every time."""
    with mpl.rc_context(STYLE):
        figure = Canvas(figsize=(width, height), layout="constrained")
        yield figure
        write_png(figure, path)


def write_png(figure: Canvas, file: Path | BinaryIO) -> None:
    """Write a figure, the same bytes every time."""
    figure.savefig(file, dpi=_DPI, metadata={"Software": None}, format="png", bbox_inches="tight", pad_inches=0.08)


def _shorten(text: str, width: int = 18) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def retention_plot(report: Report, path: Path) -> str:
    """Retention against the ratio of the target, base at (1, 100%), before and after recovery."""
    base, target = report["target"]["of"], report["target"]["ratio"]
    x = report["ratios"][base] or 0.0
    with drawing(path, 5.4, 4.2) as figure:
        axes = figure.add_subplot()
        axes.axhline(100, color=GREY, lw=1, zorder=0)
        top = axes.get_xaxis_transform()
        if target > 1:  # 1 asks for nothing
            axes.axvline(target, color=GREY, lw=1, ls="--", zorder=0)
            axes.text(target, 1.01, "target", transform=top, ha="center", va="bottom", color=SOFT, size=9)
        axes.plot(1, 100, "s", color=INK, ms=7, label="base model")
        spread = 0.012 * (max(x, target) - 1 + 0.5)
        metrics = TASKS[report["task"]].headline.metrics
        for shift, metric, colour in zip((-spread, spread), metrics, (BLUE, ORANGE), strict=True):
            for kept, state, face in (
                (report["retention_unrecovered"], "before recovery", "white"),
                (report["retention"], "recovered", colour),
            ):
                point = (kept or {}).get(metric.key)
                if not point or point["value"] is None:
                    continue
                value, low, high = (100 * (point[end] or 0.0) for end in ("value", "low", "high"))
                axes.errorbar(
                    x + shift, value, yerr=[[value - low], [high - value]], fmt="o", color=colour, mfc=face,
                    ms=7, capsize=3, lw=1.5, label=f"{metric.name}, {state}",
                )  # fmt: skip
        right = max(x, target)
        axes.set_xlim(1 - 0.08 * right, right * 1.12)
        axes.set_xlabel(f"compression ratio (× in {base})")
        axes.set_ylabel("retention of base, %")
        axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return path.name


def latency_plot(samples: Mapping[str, NDArray[np.float32]], path: Path) -> str:
    """Histogram of raw latencies (N,) in ms per protocol, with p50, p95 and p99."""
    edge = max(float(np.percentile(values, 99.5)) for values in samples.values())
    with drawing(path, 5.8, 0.6 + 1.9 * len(samples)) as figure:
        panels = figure.subplots(len(samples), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, values), colour in zip(panels, samples.items(), (BLUE, ORANGE), strict=False):
            axes.hist(np.minimum(values, edge), bins=np.linspace(0, edge, 60), color=colour, alpha=0.75)
            axes.set_ylim(0, axes.get_ylim()[1] * 1.22)
            for i, q in enumerate((50, 95, 99)):
                at = float(np.percentile(values, q))
                axes.axvline(min(at, edge), color=INK, lw=1, ls=("-", "--", ":")[i], label=f"p{q} {at:.1f} ms")
            axes.legend(fontsize=9, loc="upper right", framealpha=1, edgecolor="white")
            axes.set_title(f"{name}, {len(values):,} requests", loc="left", fontsize=10)
            axes.set_ylabel("requests")
        panels[-1].set_xlabel("latency, ms (the last bar holds everything above)")
    return path.name


def confusion_plot(models: Sequence[tuple[str, Sequence[Sequence[int]]]], names: Sequence[str], path: Path) -> str:
    """Confusion matrices (C, C) side by side: colour is the share of the true class, counts written in."""
    classes = len(names)
    side = max(2.3, 0.62 * classes + 0.9)
    with drawing(path, 1.2 + side * len(models), side + 0.9) as figure:
        panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
        for axes, (title, matrix) in zip(panels, models, strict=True):
            counts = np.asarray(matrix, dtype=np.float64)
            support = counts.sum(axis=1, keepdims=True)
            share = np.divide(counts, support, out=np.zeros_like(counts), where=support > 0)
            axes.imshow(share, cmap="Blues", vmin=0, vmax=1.1)
            for i in range(classes if classes <= 12 else 0):
                for j in range(classes):
                    text = f"{int(counts[i, j]):,}\n{100 * share[i, j]:.0f} %"
                    axes.text(j, i, text, ha="center", va="center", size=8, color="white" if share[i, j] > 0.6 else INK)
            ticks = [_shorten(name) for name in names]
            slant = 0 if classes <= 3 and max(map(len, ticks)) < 9 else 45
            axes.set_xticks(range(classes), ticks, rotation=slant, ha="right" if slant else "center")
            axes.set_yticks(range(classes), ticks)
            axes.tick_params(length=0)
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("predicted")
        panels[0].set_ylabel("true")
    return path.name
