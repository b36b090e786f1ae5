"""How a comparison of runs reads: what differs first, then quality, tests, ratios, gates and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lwc.core.marks import Interval
from lwc.metrics.headline import Metric
from lwc.recipe import TASKS
from lwc.report.compare import Compared, Comparison, Test
from lwc.report.document import Document, Paragraph, Section, Table, Tiles
from lwc.report.export_contents import ShapeTimes
from lwc.report.formats import NOT_MEASURED, duration, number, ratio, retention, significant, with_interval
from lwc.report.gates import judged
from lwc.report.html import render_html
from lwc.report.markdown import render_markdown
from lwc.report.quality_contents import measured
from lwc.report.reading import ReadGate
from lwc.report.serving_contents import HighestRate


def _metrics(c: Comparison) -> tuple[Metric, Metric]:
    return TASKS[c["task"]].headline.metrics


def _shown(value: object) -> str:
    if value is None:
        return "–"
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)


def _gained(found: Interval) -> str:
    value, low, high = (found[end] or 0.0 for end in ("value", "low", "high"))
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def finding(test: Test) -> str:
    """A paired test in one sentence."""
    run, reference = test["run"], test["reference"]
    if not test["tested"]:
        return f"{run} against {reference}: not tested, because {test['reason']}."
    gained = test["difference"]["accuracy"]
    better = "better" if (gained["value"] or 0.0) > 0 else "worse"
    result = f"{run} is {better} than {reference}"
    said = result if test["p_holm"] < 0.05 else f"No difference shown between {run} and {reference}"
    return f"{said}: accuracy {_gained(gained)}, corrected p {_p(test['p_holm'])}."


def _quality_table(c: Comparison) -> Table:
    metrics, floor = _metrics(c), TASKS[c["task"]].headline.floors[0][1]
    rows = []
    for run in c["runs"]:
        quality = run["quality"]
        models = [("base", quality["base"]), ("compressed", quality["compressed"])]
        if quality["floor"] is not None:
            models.append((f"floor: {floor}", quality["floor"]))
        for model, found in models:
            kept = [retention(run["retention"][one.key]) if model == "compressed" else "" for one in metrics]
            scores = [NOT_MEASURED if found is None else with_interval(measured(found, one.key)) for one in metrics]
            rows.append((run["name"], model, number(found and found["n"]), *scores, *kept))
    counted = f"test {TASKS[c['task']].headline.counted}"
    names = [one.name for one in metrics]
    header = ("run", "model", counted, *names, *(f"{name} retained" for name in names))
    strong = tuple(i for i, row in enumerate(rows) if row[1] == "compressed")
    return Table(header, tuple(rows), "95% bootstrap intervals, from each run's report.", strong=strong)


def _test_table(c: Comparison) -> Table:
    header = (
        "run", "accuracy, run − reference", "macro-F1, run − reference", "only the run right",
        "only the reference right", "p (McNemar)", "p, corrected",
    )  # fmt: skip
    rows = tuple(
        (
            test["run"], _gained(test["difference"]["accuracy"]), _gained(test["difference"]["macro_f1"]),
            number(test["only_run_right"]), number(test["only_reference_right"]), _p(test["p"]), _p(test["p_holm"]),
        )
        for test in c["tests"]
        if test["tested"]
    )  # fmt: skip
    caption = (
        f"Compressed models on the same test rows as {c['reference']}, in pairs: exact McNemar test, Holm's "
        "correction, 95% paired-bootstrap intervals. Each run is one training; another seed may give another result."
    )
    return Table(header, rows, caption)


_HIGHEST = "highest rate"
_SERVED = (
    "Triton on the machine of each run, which the clients shared. Answered: with the users or the rate of verify."
    " verify.find_rate measures the highest rate, and that of the uncut model in turns on the same server."
)


def _by_run(c: Comparison, found: Sequence[Mapping[str, str]], title: str, caption: str = "") -> Table:
    """One row for each key of ``found`` (a mapping for each run, in order), one column for each run."""
    keys = list(dict.fromkeys(key for one in found for key in one))
    rows = tuple((key, *(one.get(key, "–") for one in found)) for key in keys)
    return Table((title, *(run["name"] for run in c["runs"])), rows, caption)


def _gate(gate: ReadGate) -> str:
    value, limit = (significant(one) for one in (gate["value"], gate["threshold"]))
    return f"{'pass' if gate['passed'] else 'FAIL'}: {value} (must be {gate['op']} {limit})"


def _gates(gates: Sequence[ReadGate]) -> dict[str, str]:
    """A run's gates by metric and operator; a second one on the same metric is numbered, not lost."""
    found: dict[str, str] = {}
    for gate in gates:
        name = key = f"{judged(gate['metric'], gate.get('at', 'value'))} {gate['op']}"
        again = 1
        while key in found:
            again += 1
            key = f"{name} ({again})"
        found[key] = _gate(gate)
    return found


def _served(run: Compared) -> dict[str, str]:
    """Rows for what the run serves: its precision, and what it gains and keeps."""
    served = run["served"]
    if served is None:
        return {}
    gained = {name: ratio(served["ratios"][name]) for name in ("size", "latency", "latency_eager")}
    kept = {f"{name} retained": retention(value) for name, value in (served["retention"] or {}).items()}
    return {"as served": served["precision"], **{f"as served: {name}": text for name, text in (gained | kept).items()}}


def _serving(run: Compared, protocols: Sequence[str]) -> dict[str, str]:
    """Rows for what a run measured at its endpoint, and for its base on the same server."""
    rows: dict[str, str] = {}
    for protocol in protocols:
        one = run["serving"].get(protocol)
        rows[f"{protocol}: p95"] = number(one and one.get("latency_ms", {}).get("p95"), 1, " ms")
        rows[f"{protocol}: answered"] = number(one and one.get("throughput_rps"), 0, " requests/s")
    limit = next((one["limit"] for one in run["serving"].values() if one and "limit" in one), None)
    within = f"p95 ≤ {significant(limit['objective'].get('max_p95_ms'))} ms" if limit else ""
    rates = {_HIGHEST: limit and limit["compressed"], f"{_HIGHEST} of the base": limit and limit["base"]}
    rows |= {name: f"{_rate(found)}; {within}" if found else NOT_MEASURED for name, found in rates.items()}
    return {**rows, f"{_HIGHEST} ÷ that of the base": with_interval(limit and limit["ratio"], 2)}


def _rate(found: HighestRate) -> str:
    if found["rate_rps"] is None:
        return "no rate"
    p95 = found["p95_ms"]
    return f"{significant(found['rate_rps'])} requests/s" + (
        f" at p95 {number(p95.get('median'), 1)} ms" if p95 else ""
    )


def _speed(shape: ShapeTimes) -> str:
    return f"{number(shape['base_ms'], 2)} → {number(shape['compressed_ms'], 2)} ms ({ratio(shape['ratio'])})"


def _document(c: Comparison) -> Document:
    """What a comparison says, for both renderers."""
    runs, metric = c["runs"], _metrics(c)[0]
    passed = sum(run["passed"] for run in runs)
    header = ("recipe key", *(run["name"] for run in runs))
    changed = tuple((row["key"], *map(_shown, row["values"])) for row in c["differences"])
    sizes = [{**{str(name): ratio(value) for name, value in run["ratios"].items()}, **_served(run)} for run in runs]
    speeds = [{f"{s['batch']} × {s['length']}": _speed(s) for s in run["latency"]} for run in runs]
    gates = [_gates(run["gates"]) for run in runs]
    protocols = list(dict.fromkeys(protocol for run in runs for protocol in run["serving"]))
    serving = [_serving(run, protocols) for run in runs]
    costs = [
        {**{k: duration(v) for k, v in run["cost"]["stages"].items()}, "total": duration(run["cost"]["total"])}
        for run in runs
    ]
    tested = [_test_table(c)] if any(test["tested"] for test in c["tests"]) else []
    untested = [Paragraph(finding(test)) for test in c["tests"] if not test["tested"]]
    same = Paragraph("The recipes differ only in their names.")
    return Document(
        title="Comparison of runs",
        subtitle="Reference: " + c["reference"] + ". " + " · ".join(f"{r['name']}: {r['date'] or '–'}" for r in runs),
        passed=passed == len(runs),
        state=f"{passed} of {len(runs)} passed",
        verdict=[*map(Paragraph, (finding(test) for test in c["tests"])), *(Paragraph(t, "bad") for t in c["notes"])],
        tiles=[Tiles([
            (r["name"], number(measured(q, metric.key) if (q := r["quality"]["compressed"]) else None),
             f"{metric.name}, {ratio(r['ratios'].get(r['target']['of']))} in {r['target']['of']}")
            for r in runs
        ])],
        sections=[
            Section("What differs", [Table(header, changed) if changed else same]),
            Section("Quality", [_quality_table(c)]),
            Section("Paired tests", [*tested, *untested]),
            Section("Ratios and latency", [
                _by_run(c, sizes, "ratio"),
                _by_run(c, speeds, "batch × length", "ONNX Runtime, base → compressed, median.") if any(speeds)
                else Paragraph(f"Latency of the exported models: {NOT_MEASURED}."),
            ]),
            Section("Served", [
                _by_run(c, serving, "endpoint", _SERVED) if protocols
                else Paragraph(f"Latency and rate of the endpoint: {NOT_MEASURED}."),
            ]),
            Section("Gates", [_by_run(c, gates, "gate") if any(gates) else Paragraph("No gates were set.", "quiet")]),
            Section("Cost", [_by_run(c, costs, "stage", "Duration of each stage when it was run, reused or not.")]),
        ],
    )  # fmt: skip


def to_markdown(c: Comparison) -> str:
    """A comparison (`compare`) as Markdown text."""
    return render_markdown(_document(c))


def to_html(c: Comparison) -> str:
    """A comparison (`compare`) as one self-contained HTML text."""
    return render_html(_document(c), Path())
