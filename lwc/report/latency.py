"""Latency in the report: tables, and how far its ratios can be trusted."""

from __future__ import annotations

from collections.abc import Sequence

from lwc.report.document import Paragraph, Table
from lwc.report.export_contents import AsServed, Latency, ServedLatency, ServedTimes, ShapeTimes
from lwc.report.formats import NOT_MEASURED, number, percent, ratio

# Above these a ratio of medians is chance: the interquartile range ÷ median of its times, and the share of their time
# in which the threads had no core.
LOOSE, BUSY = 0.3, 0.2


def widest(shape: ShapeTimes | ServedTimes) -> float | None:
    """The widest of the spreads at one shape, None where none was measured."""
    return max(shape["spread"].values()) if "spread" in shape else None


def shape_name(shape: ShapeTimes | ServedTimes) -> str:
    """``1 × 64``."""
    return f"{shape['batch']} × {shape['length']}"


def loose(shape: ShapeTimes | ServedTimes) -> bool:
    """Whether the times at a shape spread too far for their ratio to mean anything."""
    return (widest(shape) or 0.0) > LOOSE


def doubt(latency: Latency | ServedLatency | None) -> str:
    """Why ratios of latency are unreliable, as a clause; empty where nothing speaks against them."""
    if latency is None:
        return ""
    shapes: Sequence[ShapeTimes | ServedTimes] = latency.get("shapes", [])
    reasons = []
    if any(map(loose, shapes)):
        at = ", ".join(f"{percent(widest(one), 0)} of the median at {shape_name(one)}" for one in shapes if loose(one))
        reasons.append(f"times of the same call spread by {at}")
    waited = latency.get("waited")
    if waited is not None and waited > BUSY:
        reasons.append(f"other programs had the cores for {percent(waited, 0)} of the time that the calls needed them")
    return " and ".join(reasons)


def marked(value: float | None, unreliable: bool) -> str:
    """A ratio of latency, with a mark if it is unreliable."""
    return f"{ratio(value)}{' (unreliable)' if unreliable else ''}"


def latency_table(latency: Latency | None) -> Table | Paragraph:
    """Base and compressed model, both in fp32, at each shape."""
    shapes = (latency or {}).get("shapes", [])
    if not shapes:
        return Paragraph(f"Latency of the exported models: {NOT_MEASURED}.")
    rows = tuple(
        (
            shape_name(shape),
            number(shape["base_ms"], 2),
            number(shape["compressed_ms"], 2),
            marked(shape["ratio"], loose(shape)),
            percent(widest(shape)),
        )
        for shape in shapes
    )
    caption = (
        "fp32: ONNX Runtime on this machine, base and compressed interleaved, median ms; spread is the interquartile "
        f"range ÷ median, the wider of the two; above {percent(LOOSE, 0)} a ratio is marked unreliable."
    )
    return Table(("batch × length", "base", "compressed", "ratio", "spread"), rows, caption)


def served_table(served: AsServed) -> Table:
    """The uncut model in PyTorch and ONNX Runtime, and the served graph, at each shape."""
    rows = tuple(
        (
            shape_name(shape),
            *(number(shape[name], 2) for name in ("eager_ms", "base_ms", "served_ms")),
            marked(shape["ratio_eager"], loose(shape)),
            marked(shape["ratio"], loose(shape)),
            percent(widest(shape)),
        )
        for shape in served["latency"]["shapes"]
    )
    header = (
        "batch × length", "uncut, PyTorch eager", "uncut, ONNX Runtime", f"served, {served['precision']}",
        "against PyTorch", "against ONNX Runtime", "spread",
    )  # fmt: skip
    caption = (
        f"As served: all three in one run on this machine, in turns, on {number(served['latency']['threads'])} "
        "threads, median ms; the uncut model in fp32. Spread: the widest interquartile range ÷ median."
    )
    return Table(header, rows, caption)
