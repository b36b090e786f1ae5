"""The verdict: what was removed, what it cost, what it gained, and what failed. Said first, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from lwc.metrics.headline import Metric
from lwc.recipe import TASKS
from lwc.report.content_types import Decision, Findings, Quality, Verdict, measured
from lwc.report.data_warnings import data_warnings
from lwc.report.formats import NOT_MEASURED, percent, ratio, retention, significant, with_interval
from lwc.report.gates import ENDS, OPERATORS, judged, lookup
from lwc.report.serving_contents import Served

_NEARLY_ALWAYS = 0.99
NAMES = {"base": "base model", "unrecovered": "compressed model before recovery", "compressed": "compressed model"}


def _blocks(numbers: list[int]) -> str:
    return ", ".join(str(n) for n in numbers) if numbers else "none"


def _removed(report: Findings) -> str:
    selection = report["selection"]
    if not selection:
        return "Removed: not measured (the select stage has not run)."
    kept, gone = selection["kept"], selection["removed"]
    return (
        f"Removed {len(gone)} of {selection['blocks_before']} blocks ({_blocks(gone)}); "
        f"kept {len(kept)} ({_blocks(kept)})."
    )


def _cost(report: Findings) -> str:
    quality, kept = report["quality"], report["retention"]
    if not quality or not kept:
        return "Cost: not measured (the evaluate stage has not run)."
    parts = []
    reading = TASKS[report["task"]].headline
    for metric in reading.metrics:
        base, small = (measured(quality[key], metric.key) for key in ("base", "compressed"))
        left = retention(kept[metric.key])
        parts.append(f"{metric.name} {with_interval(base)} → {with_interval(small)}, retention {left}")
    n = quality["compressed"]["n"]
    return f"Cost on {n:,} test {reading.counted} (95% intervals): {'; '.join(parts)}.{_as_int8(report)}"


def _as_int8(report: Findings) -> str:
    int8 = (report["export"] or {}).get("int8", {})
    kept = int8.get("retention")
    if kept is None:
        return ""
    parts = (
        f"{metric.name} {significant(int8['test'][metric.key + '_int8'])}, retention {retention(kept[metric.key])}"
        for metric in TASKS[report["task"]].headline.metrics
    )
    return f" With int8, as served on CPUs: {'; '.join(parts)}."


def _gates_of_fp32(report: Findings, gates: Sequence[Decision]) -> list[str]:
    """Gates on retention that the checkpoint passes and the int8 graph, which is served, would not."""
    found = []
    for gate in gates:
        served, limit = f"export.int8.{gate['metric']}", gate["threshold"]
        value, _ = lookup(report, served, gate["at"]) if gate["metric"].startswith("retention.") else (None, "")
        if gate["passed"] and None not in (value, limit) and not OPERATORS[gate["op"]](value or 0.0, limit or 0.0):
            found.append(
                f"The gate on {gate['metric']} covers the fp32 model; the {ENDS.get(gate['at'], 'value')} of the int8"
                f" graph, which CPUs serve, is {significant(value)}. Gate {served}."
            )
    return found


def _gain(report: Findings) -> str:
    ratios = report["ratios"]
    parts = [f"{ratio(reached)} in {name}" for name, reached in ratios.items()]
    target = report["target"]
    outcome = {None: NOT_MEASURED, True: "met", False: f"missed at {ratio(target['reached'])}"}[target["met"]]
    return f"Gained: {', '.join(parts)}. The target was {ratio(target['ratio'])} in {target['of']}: {outcome}."


def collapsed(quality: Quality) -> tuple[int, float] | None:
    """(class id, share) where a model gives at least 99% of its answers to one class, else None.

    A data set that itself is that skewed does not excuse the model: it still tells nothing apart.
    """
    if "confusion" not in quality:
        return None
    columns = [sum(row[i] for row in quality["confusion"]) for i in range(len(quality["confusion"]))]
    share = max(columns) / sum(columns)
    return (columns.index(max(columns)), share) if share >= _NEARLY_ALWAYS else None


def _beats(metric: Metric, model: Quality, floor: Quality) -> bool:
    value, other = (measured(one, metric.key)["value"] for one in (model, floor))
    if value is None or other is None:
        return False
    return value < other if metric.lower_is_better else value > other


def _of_data(report: Findings) -> list[str]:
    labels = report["recipe"]["resolved"].get("data", {}).get("labels", {})
    return data_warnings(report["data"]["quality"] or {}, report["task"], list(labels.get("map", ())))


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


def warnings(report: Findings, gates: Sequence[Decision]) -> list[str]:
    """Warnings: lost rows, collapse onto a class, a floor not beaten, serving not run."""
    found = [*_of_data(report), *(report["training"]["train"] or {}).get("warnings", [])]
    quality = report["quality"]
    labels = report["data"]["label_names"] or []
    if quality:
        floors, reading = quality["floors"], TASKS[report["task"]].headline
        for key, model in (("base", quality["base"]), ("compressed", quality["compressed"])):
            one = collapsed(model)
            if one is not None:
                label = f'"{labels[one[0]]}"' if one[0] < len(labels) else f"class {one[0]}"
                often = (
                    "always: it predicts a single class"
                    if one[1] == 1
                    else f"{percent(one[1])} of the time: it barely distinguishes the classes"
                )
                f1 = with_interval(measured(model, "macro_f1"))
                found.append(f"The {NAMES[key]} answers {label} {often}. Look at its macro-F1, {f1}, not its accuracy.")
            for floor, title in reading.floors:
                if floor not in floors:
                    continue
                short = [metric.name for metric in reading.metrics if not _beats(metric, model, floors[floor])]
                if short:
                    found.append(f"The {NAMES[key]} does not beat {title} in {' and '.join(short)}.")
    found += _no_retention(report)
    if not report["serving"]:
        found.append("Serving was not run: latency under load and served accuracy are not measured.")
    found += _gates_of_fp32(report, gates)
    for protocol, served in (report["serving"] or {}).items():
        if served and served.get("shortfall"):
            found.append(f"Over {protocol}, the server did not keep up: {served['shortfall']}.")
        found += _served_otherwise(protocol, served)
    return found


def _served_otherwise(protocol: str, served: Served | None) -> list[str]:
    """How many answers differ from the offline ones, with an example."""
    answers = served.get("served") if served else None
    different = answers.get("different") if answers else None
    if not answers or not different:
        return []
    one = different[0]
    return [
        f"Over {protocol}, {percent(answers['matches_offline'], 2)} of the served answers equal the offline ones. For"
        f" example, row {one['id']} is {one['served']!r} served and {one['offline']!r} offline; verify/samples.parquet"
        " contains its input."
    ]


def gate_line(gate: Decision) -> str:
    """One gate in words, with value and threshold."""
    name, limit = judged(gate["metric"], gate["at"]), significant(gate["threshold"])
    line = f"{name} = {significant(gate['value'])} (must be {gate['op']} {limit})"
    return f"{line}: {gate['reason']}" if gate["value"] is None or gate["threshold"] is None else line


def verdict(report: Findings, decided: Sequence[Decision]) -> Verdict:
    """Whether the run passed, and what a reader must know, in sentences."""
    failed = [gate for gate in decided if not gate["passed"]]
    total = len(decided)
    if failed:
        gates = f"{len(failed)} of {total} gates failed: {'; '.join(gate_line(g) for g in failed)}."
    elif decided and all(gate["standing"] for gate in decided):
        gates = "No gates were set; the served answers equal the offline ones."
    elif total:
        gates = f"All {total} gates passed." if total > 1 else "The gate passed."
    else:
        gates = "No gates were set, so nothing was decided."
    missed = report["target"]["met"] is False
    if missed and not failed:
        gates += " The run did not pass, because the target was missed."
    removed, cost, gained, noticed = _removed(report), _cost(report), _gain(report), warnings(report, decided)
    return {
        "passed": not failed and not missed,
        "summary": " ".join([removed, cost, gained, *noticed, gates]),
        "removed": removed, "cost": cost, "gained": gained, "gates": gates, "warnings": noticed,
    }  # fmt: skip
