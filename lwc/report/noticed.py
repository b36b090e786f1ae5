"""What a reader must know about a run besides its figures: alerts before deploying, and warnings."""

from __future__ import annotations

from collections.abc import Sequence

from lwc.metrics.headline import Metric
from lwc.recipe import TASKS
from lwc.report.content_types import Decision, Findings
from lwc.report.data_warnings import data_warnings
from lwc.report.formats import percent, significant, with_interval
from lwc.report.gates import ENDS, OPERATORS, lookup
from lwc.report.latency import doubt
from lwc.report.quality_contents import Quality, measured

_NEARLY_ALWAYS = 0.99


def served_quality(report: Findings) -> Quality | None:
    """Quality of the graph that is served, where there is one; else of the compressed checkpoint."""
    served, quality = report["served"], report["quality"]
    if served is not None and served["quality"] is not None:
        return served["quality"]
    return quality["compressed"] if quality is not None else None


def alerts(report: Findings, gates: Sequence[Decision]) -> list[str]:
    """What speaks against deploying though every gate passes: collapse, floors, a fallback, doubtful figures."""
    found: list[str] = []
    quality, served = report["quality"], served_quality(report)
    if quality and served:
        for name, model in (("base model", quality["base"]), ("compressed model", served)):
            found += [*_collapse(report, name, model), *_floors(report, name, model)]
    parity = report["parity"]
    if parity and parity.get("passed") is False:
        found.append(
            f"ONNX Runtime and PyTorch do not agree: max |Δ logit| {significant(parity.get('max_abs_diff'))} (tolerance"
            f" {significant(parity.get('tolerance'))}), equal labels on {percent(parity.get('label_agreement'))} of the"
            " texts."
        )
    if report["served"] and report["served"]["why"]:
        found.append(f"fp32 is served, although the recipe asks for int8: {report['served']['why']}.")
    unsure = doubt(report["served"]["latency"] if report["served"] else report["latency"])
    if unsure:
        found.append(f"The latency ratios are unreliable: {unsure}. Measure again on a quiet machine.")
    found += _gates_of_fp32(report, gates)
    for protocol, one in (report["serving"] or {}).items():
        if one and one.get("shortfall"):
            found.append(f"Over {protocol}, the server did not keep up: {one['shortfall']}.")
    return [*found, *_served_otherwise(report, gates, allowed=False)]


def warnings(report: Findings, gates: Sequence[Decision]) -> list[str]:
    """Lost rows and other findings in the data, training warnings, what was not measured or differs as it may."""
    skipped = bool((report["training"]["train"] or {}).get("skipped"))
    found = data_warnings(report["data"]["quality"] or {}, report["task"], skipped)
    found += [*(report["training"]["train"] or {}).get("warnings", []), *_no_retention(report)]
    found += _served_otherwise(report, gates, allowed=True)
    if not report["serving"]:
        found.append("Serving was not run: latency under load and served accuracy are not measured.")
    return found


def better_floors(report: Findings) -> list[str]:
    """Floors that are as good as the served model or better in every headline metric."""
    quality, model = report["quality"], served_quality(report)
    if not quality or not model:
        return []
    reading = TASKS[report["task"]].headline
    return [
        title
        for key, title in reading.floors
        if key in quality["floors"]
        and not any(_beats(metric, model, quality["floors"][key]) for metric in reading.metrics)
    ]


def collapsed(quality: Quality) -> tuple[int, float] | None:
    """(class id, share) where a model gives at least 99% of its answers to one class, else None.

    A data set that itself is that skewed does not excuse the model: it still tells nothing apart.
    """
    if "confusion" not in quality:
        return None
    columns = [sum(row[i] for row in quality["confusion"]) for i in range(len(quality["confusion"]))]
    share = max(columns) / sum(columns)
    return (columns.index(max(columns)), share) if share >= _NEARLY_ALWAYS else None


def _collapse(report: Findings, name: str, model: Quality) -> list[str]:
    one, labels = collapsed(model), report["data"]["label_names"] or []
    if one is None:
        return []
    label = f'"{labels[one[0]]}"' if one[0] < len(labels) else f"class {one[0]}"
    often = (
        "always: it predicts a single class"
        if one[1] == 1
        else f"{percent(one[1])} of the time: it barely distinguishes the classes"
    )
    f1 = with_interval(measured(model, "macro_f1"))
    return [f"The {name} answers {label} {often}. Look at its macro-F1, {f1}, not its accuracy."]


def _beats(metric: Metric, model: Quality, floor: Quality) -> bool:
    value, other = (measured(one, metric.key)["value"] for one in (model, floor))
    if value is None or other is None:
        return False
    return value < other if metric.lower_is_better else value > other


def _floors(report: Findings, name: str, model: Quality) -> list[str]:
    """A sentence for each floor that the model does not beat in every headline metric."""
    quality, reading, found = report["quality"], TASKS[report["task"]].headline, []
    floors = quality["floors"] if quality else {}
    for key, title in reading.floors:
        short = [one for one in reading.metrics if key in floors and not _beats(one, model, floors[key])]
        if short:
            figures = ", ".join(
                f"{one.name} {significant(measured(model, one.key)['value'])} against "
                f"{significant(measured(floors[key], one.key)['value'])}"
                for one in short
            )
            found.append(f"The {name} does not beat {title}: {figures}.")
    return found


def _no_retention(report: Findings) -> list[str]:
    """Metrics whose retention is no ratio, so that gates on it fail."""
    quality, kept = report["quality"], report["retention"]
    if not quality or not kept:
        return []
    return [
        f"Retention of {metric.name} is not measured: a ratio needs a base that is surely above 0, and the base"
        f" model's is {with_interval(base)}. Gates on it fail."
        for metric in TASKS[report["task"]].headline.metrics
        if metric.retained
        and not metric.lower_is_better
        and metric.key in kept
        and kept[metric.key]["value"] is None
        and (base := measured(quality["base"], metric.key))["value"] is not None
    ]


def _gates_of_fp32(report: Findings, gates: Sequence[Decision]) -> list[str]:
    """Gates on retention that the checkpoint passes and the int8 graph, which is served, would not."""
    found = []
    for gate in gates:
        served, limit = f"served.{gate['metric']}", gate["threshold"]
        value, _ = lookup(report, served, gate["at"]) if gate["metric"].startswith("retention.") else (None, "")
        if gate["passed"] and None not in (value, limit) and not OPERATORS[gate["op"]](value or 0.0, limit or 0.0):
            found.append(
                f"The gate on {gate['metric']} covers the fp32 model; the {ENDS.get(gate['at'], 'value')} of the int8"
                f" graph, which CPUs serve, is {significant(value)}. Gate {served}."
            )
    return found


def _served_otherwise(report: Findings, gates: Sequence[Decision], allowed: bool) -> list[str]:
    """How many answers differ from the offline ones, with an example, where a gate allows as many or forbids it."""
    failed = {gate["metric"] for gate in gates if not gate["passed"]}
    found = []
    for protocol, served in (report["serving"] or {}).items():
        answers = served.get("served") if served else None
        different = answers.get("different") if answers else None
        if not answers or not different or allowed == (f"serving.{protocol}.served.matches_offline" in failed):
            continue
        one = different[0]
        found.append(
            f"Over {protocol}, {percent(answers['matches_offline'], 2)} of the served answers equal the offline ones"
            f"{', as many as the gate requires' if allowed else ''}. For example, row {one['id']} is {one['served']!r}"
            f" served and {one['offline']!r} offline; verify/samples.parquet contains its input."
        )
    return found
