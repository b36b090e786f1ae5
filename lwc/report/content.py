"""What the report says, section by section, from the report dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from lwc.recipe import TASKS
from lwc.report.content_types import Report
from lwc.report.document import Document, Figure, Paragraph, Section, Table
from lwc.report.export_contents import Parity
from lwc.report.first_screen import STATES, first_screen
from lwc.report.formats import NOT_MEASURED, duration, number, percent, ratio, retention, significant, with_interval
from lwc.report.gates import judged
from lwc.report.importance import importance_section
from lwc.report.latency import doubt, latency_table, marked, served_table
from lwc.report.levers import further_levers, search_for_latency
from lwc.report.quality_contents import Quality, measured
from lwc.report.serving import serving_section
from lwc.report.setting import data_section, environment_section

Block = Paragraph | Table | Figure
BASE_AS_IT_IS = "The base is your checkpoint, not trained here."


def _quality(report: Report, figures: Mapping[str, Figure]) -> Section:
    quality = report["quality"]
    if not quality:
        return Section("Quality", [Paragraph(f"Quality: {NOT_MEASURED}.")])
    reading = TASKS[report["task"]].headline
    reduced = report["served"] if report["served"] and report["served"]["precision"] == "int8" else None
    shown = (*reading.metrics, *reading.further)
    models: list[tuple[str, Quality]] = [
        ("base model", quality["base"]),
        ("compressed, before recovery", quality["unrecovered"]),
        ("compressed, recovered", quality["compressed"]),
        *([("as served: int8", reduced["quality"])] if reduced and reduced["quality"] else []),
        *((f"floor: {title}", quality["floors"][key]) for key, title in reading.floors if key in quality["floors"]),
    ]
    rows = [(title, *(with_interval(measured(one, metric.key)) for metric in shown)) for title, one in models]
    drawn = report["bootstrap"]
    lower = [metric.name for metric in shown if metric.lower_is_better]
    caption = (
        f"Test split, n = {quality['base']['n']:,} {reading.counted}, read once. 95% percentile intervals of "
        f"{number(drawn and drawn['resamples'])} bootstrap resamples, seed {number(drawn and drawn['seed'])}."
        + (f" Lower is better for {' and '.join(lower)}." if lower else "")
    )
    if (report["training"]["train"] or {}).get("skipped"):
        caption = f"{BASE_AS_IT_IS} {caption}"
    header = ("model", *(metric.name for metric in shown))
    before, after = report["retention_unrecovered"] or {}, report["retention"] or {}
    served = (reduced["retention"] or {}) if reduced else {}
    kept = [
        (
            metric.name,
            retention(before.get(metric.key)),
            retention(after.get(metric.key)),
            *([retention(served.get(metric.key))] if served else []),
        )
        for metric in shown
        if metric.key in after
    ]
    of_base = (
        "Compressed metric ÷ base metric on the same texts, resampled in pairs; if lower is better, the other way "
        "round, so that 100 % is always all of the base's quality."
    )
    blocks: list[Block] = [
        Table(header, tuple(rows), caption, strong=(3 if reduced else 2,)),
        Table(
            ("retention of base", "before recovery", "recovered", *(["as served"] if served else [])),
            tuple(kept),
            of_base,
        ),
    ]
    if report["agreement"]:
        cut, healed = (percent(report["agreement"][model]) for model in ("unrecovered", "compressed"))
        said = f"The most likely next token agrees with the base: {cut} before recovery, {healed} after."
        blocks.append(Paragraph(said))
    blocks += [figures[key] for key in ("retention", "confusion") if key in figures]
    return Section("Quality", blocks)


_STANDING = (
    "Every verified run must also serve the answers that were measured: serving.*.served.matches_offline is a gate"
    " whether the recipe names it or not. It asks for 1, or 0.999 of a task that compares thousands of scores. The"
    " labels of a dynamic int8 graph can change with the other texts of a batch, so its gate allows as many differences"
    " as int8 makes against fp32, plus three standard deviations, and at least 3."
)


def _gates(report: Report) -> Section:
    gates = report["gates"]
    if not gates:
        return Section("Gates", [Paragraph("The recipe sets no gates.", "quiet")])
    rows = tuple(
        (
            "pass" if gate["passed"] else "FAIL",
            judged(gate["metric"], gate["at"]),
            significant(gate["value"]),
            f"{gate['op']} {significant(gate['threshold'])}",
            gate["reason"] if gate["value"] is None or gate["threshold"] is None else "",
        )
        for gate in gates
    )
    bad = tuple(i for i, gate in enumerate(gates) if not gate["passed"])
    header = ("", "metric", "value", "must be", "why not measured")
    width = 5 if any(row[-1] for row in rows) else 4
    table = Table(header[:width], tuple(row[:width] for row in rows), bad=bad)
    notes = [Paragraph(gate["note"]) for gate in gates if gate["note"]]
    return Section("Gates", [table, *notes, Paragraph(_STANDING, "quiet")])


def _size(report: Report) -> Section:
    ratios, selection = report["ratios"], report["selection"]
    files = (report["export"] or {}).get("files")
    sizes = [f"{files[one]['bytes'] / 1e6:,.1f} MB" if files else NOT_MEASURED for one in ("base", "compressed")]
    blocks_before, blocks_after = (selection["blocks_before"], len(selection["kept"])) if selection else (None, None)
    before, after = (selection.get("params_before"), selection.get("params_after")) if selection else (None, None)
    rows = (
        ("blocks", number(blocks_before), number(blocks_after), ratio(ratios["blocks"])),
        ("params", number(before), number(after), ratio(ratios["params"])),
        ("size (ONNX file)", *sizes, ratio(ratios["size"])),
        ("latency", "see below", "see below", marked(ratios["latency"], bool(doubt(report["latency"])))),
    )
    blocks: list[Block] = [Table(("fp32", "base", "compressed", "ratio"), rows)]
    if report["served"]:
        blocks.insert(0, served_table(report["served"]))
    blocks.append(latency_table(report["latency"]))
    blocks.append(_parity(report["parity"]))
    blocks += [*search_for_latency(report), *further_levers(report)]
    return Section("Size, latency and parity", blocks)


def _parity(parity: Parity | None) -> Paragraph:
    if not parity:
        return Paragraph(f"Parity of ONNX and PyTorch: {NOT_MEASURED}.")
    return Paragraph(
        f"Parity of ONNX Runtime and PyTorch, worse of base and compressed: max |Δ logit| "
        f"{significant(parity.get('max_abs_diff'))} (tolerance {significant(parity.get('tolerance'))}), "
        f"equal labels on {percent(parity.get('label_agreement'))} of the texts.",
        "" if parity.get("passed") else "bad",
    )


def _stages(report: Report) -> Section:
    rows = tuple(
        (name, duration(s["seconds"]), {True: "reused", False: "run", None: NOT_MEASURED}[s["hit"]])
        for name, s in report["stages"].items()
    )
    return Section("Stages", [Table(("stage", "time", ""), rows)])


def _words(report: Report) -> Section:
    """The verdict in sentences, for those who quote it, and what else was noticed."""
    verdict = report["verdict"]
    said = [Paragraph(verdict[part]) for part in ("removed", "cost", "gained", "gates")]
    return Section("The verdict in words", said + [Paragraph(one, "bad") for one in verdict["warnings"]])


def compose(report: Report, figures: Mapping[str, Figure], examples: Section | None = None) -> Document:
    """The document of a finished report; ``figures`` are those that could be drawn, by name."""
    recipe, verdict = report["recipe"], report["verdict"]
    tiles, paragraphs = first_screen(report)
    parts = [recipe["description"], f"seed {recipe['seed']}", report["environment"].get("date")]
    metric = TASKS[report["task"]].headline.metrics[0].name
    title = f"{metric[:1].upper()}{metric[1:]} kept against latency"
    trade = [Section(title, [figures["trade"]])] if "trade" in figures else []
    folded: list[tuple[Section, Literal["open", "closed"]]] = [
        (_words(report), "open"),
        (_quality(report, figures), "open"),
        (_size(report), "open"),
        (serving_section(report, figures), "open"),
        (importance_section(report, figures), "closed"),
        (data_section(report), "closed"),
        (environment_section(report), "closed"),
        (_stages(report), "closed"),
    ]
    if examples is not None:
        folded.insert(2, (examples, "closed"))
    return Document(
        title=recipe["name"],
        subtitle=" · ".join(part for part in parts if part),
        passed=verdict["deploy"],
        state=STATES[verdict["deploy"]],
        verdict=paragraphs,
        tiles=tiles,
        lead=verdict["decision"],
        sections=[*trade, _gates(report), *(replace(section, fold=fold) for section, fold in folded)],
    )
