"""Build the report: ``report.json``, ``report.md``, ``report.html`` and PNGs, from finished stage folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from lwc.core.store import write_json, write_whole
from lwc.recipe import Recipe
from lwc.report.collect import collect
from lwc.report.content import compose
from lwc.report.content_types import Environment, Report, StageTime
from lwc.report.document import Figure
from lwc.report.examples import changed_answers
from lwc.report.gate_notes import explained
from lwc.report.gates import decide, standing
from lwc.report.html import render_html
from lwc.report.importance_plots import importance_figures
from lwc.report.markdown import render_markdown
from lwc.report.plots import confusion_plot, latency_plot, retention_plot
from lwc.report.trade_plot import trade_plot
from lwc.report.verdict import verdict


def report_schema() -> dict[str, Any]:
    """The JSON Schema of ``report.json``."""
    draft = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": draft, **TypeAdapter(Report).json_schema(), "additionalProperties": False}


def build_report(
    recipe: Recipe, stage_dirs: Mapping[str, Path], environment: Environment, times: Mapping[str, StageTime], out: Path
) -> Report:
    """Collect what the stages left, decide the gates and write the report.

    Args:
        recipe: names the run and holds the gates.
        stage_dirs: stage name → finished folder; a stage that did not run is left out and reads "not measured".
        environment: machine and versions, kept as given; ``date`` and ``libraries`` are shown apart.
        times: stage name → how long it took when it was made, and whether it was reused.
        out: folder for ``report.json``, ``report.md``, ``report.html`` and ``report_*.png``.

    Returns:
        The content of ``report.json``, whose shape `Report` documents.
    """
    found = collect(recipe, stage_dirs, environment, times)
    decided = explained(recipe.gates, decide(recipe.gates, found), found)
    gates = [*decided, *standing(recipe.gates, found)]
    report: Report = {**found, "gates": gates, "verdict": verdict(found, gates)}
    out.mkdir(parents=True, exist_ok=True)
    for stale in out.glob("report_*.png"):
        stale.unlink()
    document = compose(report, _figures(report, stage_dirs.get("verify"), out), changed_answers(recipe, stage_dirs))
    write_whole(out / "report.md", render_markdown(document).encode())
    write_whole(out / "report.html", render_html(document, out).encode())
    write_json(out / "report.json", report)
    return report


def _latencies(folder: Path | None) -> dict[str, NDArray[np.float32]]:
    """Raw latencies (N,) in ms by protocol, of those load tests that ran."""
    found: dict[str, NDArray[np.float32]] = {}
    for protocol in ("http", "grpc"):
        for file in sorted(folder.rglob(f"latencies_{protocol}.npy")) if folder is not None else ():
            values = np.load(file, allow_pickle=False)
            if values.size:
                found[protocol] = values
    return found


def _figures(report: Report, verify: Path | None, out: Path) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    trade = trade_plot(report, out / "report_trade.png")
    if trade is not None:
        figures["trade"] = trade
    if report["importance"]:
        figures |= importance_figures(report["importance"], report["selection"], out)
    if report["retention"] and report["ratios"][report["target"]["of"]] is not None:
        name = retention_plot(report, out / "report_retention.png")
        figures["retention"] = Figure(name, "Retention against compression, with 95% intervals.")
    quality = report["quality"]
    if quality and "confusion" in quality["base"]:
        models = [
            ("base", quality["base"]["confusion"]),
            ("before recovery", quality["unrecovered"]["confusion"]),
            ("compressed", quality["compressed"]["confusion"]),
        ]
        name = confusion_plot(models, report["data"]["label_names"] or (), out / "report_confusion.png")
        figures["confusion"] = Figure(name, "Confusion matrices on the test split: count and share of the true class.")
    samples = _latencies(verify)
    if samples:
        name = latency_plot(samples, out / "report_latency.png")
        figures["latency"] = Figure(name, "Latency of every answered request under load.")
    return figures
