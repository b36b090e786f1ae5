"""The first screen of the report: whether to deploy, what was removed, what it costs and gains as served."""

from __future__ import annotations

from lwc.recipe import TASKS
from lwc.report.content_types import Report
from lwc.report.document import Paragraph, Tiles
from lwc.report.formats import number, percent, ratio
from lwc.report.noticed import served_quality
from lwc.report.quality_contents import measured
from lwc.report.verdict import as_served, ratios_of, target_words, unreliable

STATES = {True: "Deploy", False: "Do not deploy", None: "Not decided"}


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}\u202fMB"


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f}\u202fM" if count >= 100_000 else number(count)


def _tile(value: float | None, better: str, worse: str, note: str) -> tuple[str, str, str]:
    """A ratio of at least 1 is ``better``, one below is ``worse`` by its inverse."""
    return (better, ratio(value), note) if value is None or value >= 1 else (worse, ratio(1 / value), note)


def _gains(report: Report) -> Tiles:
    ratios, served, selection = ratios_of(report), report["served"], report["selection"]
    unsure = "; unreliable" if unreliable(report) else ""
    size = params = blocks = ""
    runtimes = [("latency", "ONNX Runtime")]
    if served:
        runtimes.append(("latency_eager", "PyTorch eager"))
        params = f"{_millions(served['params']['base'])} → {_millions(served['params']['served'])}"
        size = f"{_megabytes(served['bytes']['base'])} → {_megabytes(served['bytes']['served'])}"
    if selection:
        blocks = f"{selection['blocks_before']} → {len(selection['kept'])}"
    tiles = [
        *(
            _tile(ratios[key], "lower latency", "higher latency", f"than the uncut model in {runtime}{unsure}")
            for key, runtime in runtimes
        ),
        _tile(ratios["size"], "smaller file", "larger file", size),
        _tile(ratios["params"], "fewer parameters", "more parameters", params),
        _tile(ratios["blocks"], "fewer blocks", "more blocks", blocks),
    ]
    return Tiles(tiles, f"Gained, as served ({as_served(report)})")


def _costs(report: Report) -> Tiles:
    reading, quality, model = TASKS[report["task"]].headline, report["quality"], served_quality(report)
    kept = (report["served"]["retention"] if report["served"] else report["retention"]) or {}
    tiles = []
    for metric in reading.metrics:
        base, small = (
            number(measured(one, metric.key) if one else None) for one in (quality and quality["base"], model)
        )
        share = kept.get(metric.key)
        note = f"{base} → {small}" if model else ""
        if share and share["low"] is not None and share["high"] is not None:
            note = f"95% interval {100 * share['low']:.1f}–{100 * share['high']:.1f}; {note}"
        tiles.append((f"{metric.name} kept", percent(share), note))
    counted = f" on {model['n']:,} test {reading.counted}" if model else ""
    return Tiles(tiles, f"Cost, as served{counted}: share of the uncut model's quality")


def first_screen(report: Report) -> tuple[list[Tiles], list[Paragraph]]:
    """Large figures, then what was removed, the target, and what must be known before deploying."""
    verdict = report["verdict"]
    said = f"{verdict['removed']} {target_words(report['target'])}"
    # What the run does otherwise says nothing new.
    published = [Paragraph(verdict["gates"])] if verdict["passed"] and verdict["deploy"] is False else []
    paragraphs = [Paragraph(said), *published, *(Paragraph(one, "bad") for one in verdict["alerts"])]
    return [_gains(report), _costs(report)], paragraphs
