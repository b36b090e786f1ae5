"""Plots of the scores: block × method heatmap, agreement of the methods, predicted against actual damage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from lwc.importance.contents import Bands, Importance, KendallTau, TrustFigures
from lwc.report.document import Figure
from lwc.report.formats import significant
from lwc.report.plots import BLUE, GREY, INK, ORANGE, RED, SOFT, drawing
from lwc.report.stage_contents import Selection


def _unit_range(scores: Sequence[float | None]) -> NDArray[np.float64]:
    """Scores (L,) moved to 0..1 for colour; a constant or non-finite method is all 0."""
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all() or np.ptp(values) == 0:
        return np.zeros_like(values)
    return np.asarray((values - values.min()) / np.ptp(values))


def _interval(intervals: Sequence[Sequence[float | None]] | None, block: int) -> str:
    """``0.12 … 0.31`` under a score, nothing where it has no interval."""
    if intervals is None or None in intervals[block]:
        return ""
    low, high = (f"{value:.3g}" for value in intervals[block])
    return f"\n{low} … {high}"


def _methods_on_top(axes: Axes, names: Sequence[str], fontsize: float | None = None) -> None:
    axes.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names], fontsize=fontsize)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def importance_heatmap(importance: Importance, selection: Selection | None, path: Path) -> str:
    """Blocks × methods: colour per method, raw scores and their intervals written in, removed blocks framed."""
    with drawing(path, *heatmap_size(importance)) as figure:
        draw_heatmap(figure, importance, selection)
    return path.name


def heatmap_size(importance: Importance) -> tuple[float, float]:
    """Width and height, in inches, that `draw_heatmap` needs."""
    columns, trust = len(importance["methods"]) + 1, importance.get("trust")
    return 2.1 + (1.45 if trust else 1.25) * columns, 1.2 + (0.5 if trust else 0.36) * importance["blocks"]


def draw_heatmap(figure: Canvas, importance: Importance, selection: Selection | None) -> None:
    """Draw `importance_heatmap` on an empty figure."""
    scored = importance["methods"].items()
    rows: list[tuple[str, Sequence[float | None]]] = [(name, method["scores"]) for name, method in scored]
    rows.append(("fused", importance["fused"]["scores"]))
    trust = importance.get("trust")
    intervals: dict[str, Bands] = {}
    if trust:
        intervals = {**trust["intervals"]["methods"], "fused": trust["intervals"]["fused"]}
    blocks = int(importance["blocks"])
    removed = set(selection["removed"]) if selection else set()
    colours = np.stack([_unit_range(scores) for _, scores in rows], axis=1)
    axes = figure.add_subplot()
    axes.imshow(colours, cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
    for i in range(blocks):
        for j, (name, scores) in enumerate(rows):
            colour = "white" if colours[i, j] > 0.75 else INK
            text = significant(scores[i]) + _interval(intervals.get(name), i)
            axes.text(j, i, text, ha="center", va="center", color=colour, size=7.5 if trust else 8.5)
        if i in removed:
            axes.add_patch(Rectangle((-0.48, i - 0.45), len(rows) - 0.04, 0.9, fill=False, ec=RED, lw=1.6))
    axes.axvline(len(rows) - 1.5, color="white", lw=4)
    _methods_on_top(axes, [name for name, _ in rows])
    state = ["" if not selection else "  removed" if i in removed else "  kept" for i in range(blocks)]
    axes.set_yticks(range(blocks), [f"block {i}{state[i]}" for i in range(blocks)])
    for i, label in enumerate(axes.get_yticklabels()):
        label.set_color(RED if i in removed else INK)


def agreement_matrix(tau: KendallTau, path: Path) -> str:
    """Kendall τ of every pair of methods (M, M): blue agrees, red reverses."""
    names = tau["names"]
    values = np.array([[np.nan if value is None else value for value in row] for row in tau["matrix"]], dtype=float)
    with drawing(path, 1.9 + 0.8 * len(names), 1.1 + 0.55 * len(names)) as figure:
        axes = figure.add_subplot()
        axes.imshow(values, cmap="RdBu", vmin=-1.25, vmax=1.25, aspect="auto")
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                text = "–" if math.isnan(value) else f"{value:.2f}"
                axes.text(j, i, text, ha="center", va="center", color="white" if abs(value) > 0.75 else INK, size=8.5)
        _methods_on_top(axes, names, fontsize=8.5)
        axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    return path.name


def prediction_scatter(trust: TrustFigures, path: Path) -> str:
    """Predicted damage against the loss of models really cut, one panel a method and one for the fusion."""
    predicted = {**trust["predicted"]["methods"], "fused": trust["predicted"]["fused"]}
    cut, correlation = trust["cut_models"], trust["correlation"]
    series = [(correlation["before_recovery"], "before recovery", cut["loss"], BLUE)]
    if cut["recovered"]:
        series.append((correlation["after_recovery"], "after recovery", cut["recovered"], ORANGE))
    columns = min(3, len(predicted))
    lines = math.ceil(len(predicted) / columns)
    with drawing(path, 0.6 + 2.6 * columns, 0.5 + 2.5 * lines) as figure:
        panels = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
        for axes, (name, values) in zip(panels, predicted.items(), strict=False):
            told = []
            for found, title, losses, colour in series:
                axes.plot(values, losses, "o", ms=4.5, color=colour, alpha=0.8, mec="white", mew=0.5, label=title)
                rho = (found["fused"] if name == "fused" else found["methods"][name])["value"] if found else None
                told.append("ρ –" if rho is None else f"ρ {rho:.2f}")
            axes.set_title(f"{name.replace('_', ' ')}: {', '.join(told)}", fontsize=9.5, loc="left")
            axes.tick_params(labelsize=8)
            axes.grid(color=GREY, lw=0.4)
            axes.set_axisbelow(True)
        for axes in panels[len(predicted) :]:
            axes.set_visible(False)
        for axes in panels[::columns]:
            axes.set_ylabel("loss of the cut model, nats", fontsize=8.5)
        figure.supxlabel("predicted damage: sum of the scores of the removed blocks", fontsize=9, color=SOFT)
        if len(series) > 1:
            panels[0].legend(frameon=False, fontsize=8)
    return path.name


def importance_figures(importance: Importance, selection: Selection | None, out: Path) -> dict[str, Figure]:
    """Those plots of the scores that there is something to draw for, by name."""
    trust = importance.get("trust")
    bands = " Under each score its 95% interval over resampled calibration texts." if trust else ""
    caption = (
        "Importance of each block by each method: raw scores, coloured from each method's lowest to its highest."
        f"{bands} Removed blocks are framed in red."
    )
    heatmap = importance_heatmap(importance, selection, out / "report_importance.png")
    figures = {"importance": Figure(heatmap, caption)}
    tau = importance.get("kendall_tau")
    if tau and len(tau["names"]) > 1:
        caption = "Agreement of the methods (Kendall τ of their rankings; 1 = same order, 0 = none, −1 = reversed)."
        figures["agreement"] = Figure(agreement_matrix(tau, out / "report_agreement.png"), caption)
    if trust and trust["cut_models"]["removed"]:
        caption = (
            f"Predicted damage against the loss of {len(trust['cut_models']['removed'])} models really cut, on the "
            f"{trust['cut_models']['split']} split; ρ is Spearman's rank correlation."
        )
        figures["prediction"] = Figure(prediction_scatter(trust, out / "report_prediction.png"), caption)
    return figures
