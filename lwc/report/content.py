"""What the report says, section by section, from the report dictionary."""

from __future__ import annotations

from collections.abc import Mapping

from lwc.recipe import TASKS
from lwc.report.content_types import RATIOS, Quality, Report, measured
from lwc.report.document import Document, Figure, Paragraph, Section, Table
from lwc.report.formats import NOT_MEASURED, duration, number, percent, ratio, retention, significant, with_interval
from lwc.report.gates import judged
from lwc.report.importance import importance_section
from lwc.report.levers import further_levers, search_for_latency, widest
from lwc.report.serving import serving_section
from lwc.report.setting import data_section, environment_section
from lwc.report.stage_contents import Latency, Parity

Block = Paragraph | Table | Figure


def _quality(report: Report, figures: Mapping[str, Figure]) -> Section:
    quality = report["quality"]
    if not quality:
        return Section("Quality", [Paragraph(f"Quality: {NOT_MEASURED}.")])
    reading = TASKS[report["task"]].headline
    shown = (*reading.metrics, *reading.further)
    models: list[tuple[str, Quality]] = [
        ("base model", quality["base"]),
        ("compressed, before recovery", quality["unrecovered"]),
        ("compressed, recovered", quality["compressed"]),
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
    header = ("model", *(metric.name for metric in shown))
    before, after = report["retention_unrecovered"] or {}, report["retention"] or {}
    kept = [
        (metric.name, retention(before.get(metric.key)), retention(after.get(metric.key)))
        for metric in shown
        if metric.key in after
    ]
    of_base = (
        "Compressed metric ÷ base metric on the same texts, resampled in pairs; if lower is better, the other way "
        "round, so that 100 % is always all of the base's quality."
    )
    blocks: list[Block] = [
        Table(header, tuple(rows), caption, strong=(2,)),
        Table(("retention of base", "before recovery", "recovered"), tuple(kept), of_base),
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
        ("latency", "see below", "see below", ratio(ratios["latency"])),
    )
    blocks: list[Block] = [Table(("", "base", "compressed", "ratio"), rows)]
    shapes = _latency_rows(report["latency"])
    if shapes:
        caption = (
            "ONNX Runtime on this machine, base and compressed interleaved, median ms; spread is the interquartile "
            "range ÷ median, the wider of the two."
        )
        blocks.append(Table(("batch × length", "base", "compressed", "ratio", "spread"), shapes, caption))
    else:
        blocks.append(Paragraph(f"Latency of the exported models: {NOT_MEASURED}."))
    blocks.append(_parity(report["parity"]))
    blocks += [*search_for_latency(report), *further_levers(report)]
    return Section("Size, latency and parity", blocks)


def _latency_rows(latency: Latency | None) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            f"{shape['batch']} × {shape['length']}",
            number(shape["base_ms"], 2),
            number(shape["compressed_ms"], 2),
            ratio(shape["ratio"]),
            percent(widest(shape) if "spread" in shape else None),
        )
        for shape in (latency or {}).get("shapes", ())
    )


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


def compose(report: Report, figures: Mapping[str, Figure]) -> Document:
    """The document of a finished report; ``figures`` are those that could be drawn, by name."""
    recipe, verdict, ratios = report["recipe"], report["verdict"], report["ratios"]
    head = [Paragraph(text) for text in (verdict["removed"], verdict["cost"], verdict["gained"])]
    head += [Paragraph(text, "bad") for text in verdict["warnings"]]
    set_by_recipe = not all(gate["standing"] for gate in report["gates"])
    tone = "bad" if not verdict["passed"] else "good" if set_by_recipe else ""
    head.append(Paragraph(verdict["gates"], tone))
    kept = report["retention"] or {}
    quality = report["quality"] and report["quality"]["compressed"]
    tiles: list[tuple[str, str, str]] = [
        (name, ratio(ratios[name]), "faster" if name == "latency" else "smaller") for name in RATIOS
    ]
    for metric in TASKS[report["task"]].headline.metrics:
        value = number(measured(quality, metric.key) if quality else None)
        tiles.append((metric.name, value, f"{percent(kept.get(metric.key))} of base"))
    parts = [recipe["description"], f"seed {recipe['seed']}", report["environment"].get("date")]
    return Document(
        title=recipe["name"],
        subtitle=" · ".join(part for part in parts if part),
        passed=verdict["passed"],
        state="gates failed" if not verdict["passed"] else "passed" if set_by_recipe else "no gates",
        verdict=head,
        tiles=tiles,
        sections=[
            _gates(report),
            _quality(report, figures),
            _size(report),
            importance_section(report, figures),
            serving_section(report, figures),
            data_section(report),
            environment_section(report),
            _stages(report),
        ],
    )
