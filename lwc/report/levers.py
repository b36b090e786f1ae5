"""What a cut model gained further and at what cost: trimmed vocabulary, int8, fp16; and how its depth was searched."""

from __future__ import annotations

from typing import Literal

from lwc.recipe import TASKS
from lwc.report.content_types import Report
from lwc.report.document import Table
from lwc.report.formats import number, percent, ratio, significant
from lwc.report.latency import doubt, widest

_PRECISIONS: tuple[Literal["fp32", "int8"], ...] = ("fp32", "int8")


def search_for_latency(report: Report) -> list[Table]:
    """The depths that a target of latency was measured at, each against the uncut model; none for other targets."""
    selection = report["selection"]
    rows = tuple(
        (number(one["blocks"]), ratio(one["ratio"]), percent(max(widest(shape) or 0.0 for shape in one["shapes"])))
        for one in (selection["latency"] if selection and "latency" in selection else ())
    )
    caption = (
        "Search for the target: exported models with this many blocks against the uncut one, geometric mean over "
        "the shapes; spread is the widest interquartile range ÷ median."
    )
    return [Table(("blocks", "latency ratio", "spread"), rows, caption)] if rows else []


def further_levers(report: Report) -> list[Table]:
    """One row for each lever besides the cut that the recipe pulled: what it gave, and what it cost."""
    export = report["export"] or {}
    rows: list[tuple[str, str, str]] = []
    vocabulary = (report["training"]["recover"] or {}).get("vocabulary")
    if vocabulary:
        before, after = vocabulary["before"], vocabulary["after"]
        rows.append(
            (
                "vocabulary trimmed",
                f"{number(before)} → {number(after)} tokens ({ratio(before / after)}), in the ratios above",
                f"{percent(vocabulary['coverage_of_validation'])} of the validation texts keep all their tokens",
            )
        )
    if "int8" in export:
        int8, test = export["int8"], export["int8"]["test"]
        kept = f"; in fp32: {', '.join(int8['fallback'])}" if int8["fallback"] else ""
        changes = (
            f"{metric.name} {number(test[f'{metric.key}_fp32'])} → {number(test[f'{metric.key}_int8'])}"
            for metric in TASKS[report["task"]].headline.metrics
        )
        rows.append(
            (
                f"int8, {int8['mode']}: what CPUs serve",
                f"{ratio(int8['ratios']['size'])} smaller, "
                f"{ratio(int8['ratios']['latency'])} faster{' (unreliable)' if doubt(int8.get('latency')) else ''}",
                f"{', '.join(changes)}; same label on {percent(test['agreement'])} of the test texts{kept}",
            )
        )
    if "fp16" in export:
        fp16 = export["fp16"]
        rows.append(
            (
                "fp16: what GPUs serve",
                f"{ratio(export['files']['compressed']['bytes'] / fp16['bytes'])} smaller; time not measured here",
                f"max |Δ logit| {significant(fp16['max_abs_diff'])}, same label on {percent(fp16['agreement'])} of "
                f"{number(fp16['rows'])} calibration texts; {len(fp16['kept_fp32'])} operators in fp32 for their range",
            )
        )
    timed = export.get("openvino", {})
    for precision, found in ((key, timed[key]) for key in _PRECISIONS if key in timed):
        faster = "faster" if found["ratio"] >= 1 else "slower"
        rows.append(
            (
                f"OpenVINO instead of ONNX Runtime, the same {precision} file",
                f"{ratio(max(found['ratio'], 1 / found['ratio']))} {faster}; the repository serves with ONNX Runtime",
                f"max |Δ logit| {significant(found['max_abs_diff'])}",
            )
        )
    caption = "In addition to the cut; int8 and fp16 are compared with the compressed fp32 graph."
    return [Table(("lever", "gain", "cost"), tuple(rows), caption)] if rows else []
