"""The verdict: whether to deploy, what was removed, what it cost as served, what it gained as served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lwc.recipe import TASKS
from lwc.report.content_types import Decision, Findings, Target, Verdict
from lwc.report.formats import NOT_MEASURED, number, ratio, retention, significant, with_interval
from lwc.report.gates import judged
from lwc.report.latency import doubt
from lwc.report.noticed import alerts, better_floors, served_quality, warnings
from lwc.report.quality_contents import measured


def _blocks(numbers: list[int]) -> str:
    return ", ".join(str(n) for n in numbers) if numbers else "none"


def _removed(report: Findings) -> str:
    selection = report["selection"]
    if not selection:
        return "Removed: not measured (the select stage has not run)."
    kept, gone = selection["kept"], selection["removed"]
    vocabulary = (report["training"]["recover"] or {}).get("vocabulary")
    tokens = (
        f" and {number(vocabulary['before'] - vocabulary['after'])} of {number(vocabulary['before'])} tokens of the"
        " vocabulary"
        if vocabulary
        else ""
    )
    return (
        f"Removed {len(gone)} of {selection['blocks_before']} blocks ({_blocks(gone)}){tokens}; "
        f"kept {len(kept)} block{'' if len(kept) == 1 else 's'} ({_blocks(kept)})."
    )


def as_served(report: Findings) -> str:
    """``int8, CPU``."""
    return f"{report['served']['precision'] if report['served'] else 'fp32'}, CPU"


def _cost(report: Findings) -> str:
    quality, served = report["quality"], served_quality(report)
    kept = report["served"]["retention"] if report["served"] else report["retention"]
    if not quality or not served or not kept:
        return "Cost: not measured (the evaluate stage has not run)."
    parts = []
    reading = TASKS[report["task"]].headline
    for metric in reading.metrics:
        base, small = (measured(one, metric.key) for one in (quality["base"], served))
        left = retention(kept[metric.key])
        parts.append(f"{metric.name} {with_interval(base)} → {with_interval(small)}, retention {left}")
    return (
        f"Cost on {served['n']:,} test {reading.counted} (95% intervals), as served ({as_served(report)}): "
        f"{'; '.join(parts)}."
    )


def times(value: float | None, more: str, less: str) -> str:
    """``2.80× fewer``; below 1 the other way round, ``1.25× more``."""
    if value is None:
        return f"{more}: {NOT_MEASURED}"
    return f"{ratio(value)} {more}" if value >= 1 else f"{ratio(1 / value)} {less}"


def ratios_of(report: Findings) -> Mapping[str, float | None]:
    """What is gained as served; of the fp32 graph where nothing says what is served."""
    found: Mapping[Any, float | None] = report["served"]["ratios"] if report["served"] else report["ratios"]
    return found


def unreliable(report: Findings) -> bool:
    """Whether the latency ratios of `ratios_of` may be chance."""
    return bool(doubt(report["served"]["latency"] if report["served"] else report["latency"]))


def target_words(target: Target) -> str:
    """The target and whether it was met. A ratio of 1 asks for nothing: the recipe names the blocks."""
    if target["ratio"] <= 1:
        return "No target was set."
    outcome = {None: NOT_MEASURED, True: "met", False: f"missed at {ratio(target['reached'])}"}[target["met"]]
    return f"Target: {ratio(target['ratio'])} in {target['of']}, {outcome}."


def _gain(report: Findings) -> str:
    ratios, selection = ratios_of(report), report["selection"]
    left = f"{len(selection['kept'])} of {selection['blocks_before']} blocks" if selection else "blocks"
    eager = ratios.get("latency_eager")
    than = f", {times(eager, 'lower', 'higher')} than in PyTorch eager" if eager is not None else ""
    than += " (latencies unreliable)" if unreliable(report) else ""
    parts = (
        f"{left} ({ratio(ratios['blocks'])} in blocks)",
        f"{times(ratios['params'], 'fewer', 'more')} parameters",
        f"{times(ratios['size'], 'smaller', 'larger')} file",
        f"{times(ratios['latency'], 'lower', 'higher')} latency than the uncut model in ONNX Runtime{than}",
    )
    return f"Gained: {', '.join(parts)}; as served: {as_served(report)}. {target_words(report['target'])}"


def gate_line(gate: Decision) -> str:
    """One gate in words, with value and threshold, each once."""
    name, limit = judged(gate["metric"], gate["at"]), significant(gate["threshold"])
    computed = f" = {gate['relative']}" if gate.get("relative") else ""
    line = f"{name} = {significant(gate['value'])} (must be {gate['op']} {limit}{computed})"
    return f"{line}: {gate['reason']}" if gate["value"] is None or gate["threshold"] is None else line


_PUBLISHED, _HELD_BACK = (
    "`lwc run` publishes the repository and exits with 0",
    "`lwc run` publishes nothing and exits with 3",
)


def _gates(report: Findings, failed: Sequence[Decision], decided: Sequence[Decision]) -> str:
    """What the gates decided, and what `lwc run` does by it. The decision has the figures of the first failed gate."""
    total, missed = len(decided), report["target"]["met"] is False
    if failed:
        first, *others = failed
        names = "; ".join([judged(first["metric"], first["at"]), *map(gate_line, others)])
        return f"{len(failed)} of {total} gates failed: {names}. So {_HELD_BACK}."
    if decided and all(gate["standing"] for gate in decided):
        said = "No gates were set; the served answers equal the offline ones"
    elif total:
        said = f"All {total} gates passed" if total > 1 else "The gate passed"
    else:
        said = "No gates were set, so nothing was decided"
    if missed:
        return f"{said}, but the target was missed, so {_HELD_BACK}."
    better = _floor_gate(report)
    if better:
        return (
            f"{said}, so {_PUBLISHED}, although the model should not be deployed. To hold such a model back, add the"
            f" gate {better}."
        )
    return f"{said}: {_PUBLISHED}."


def _floor_gate(report: Findings) -> str:
    """A gate that a floor which is as good as the model fails; empty where there is none such."""
    reading = TASKS[report["task"]].headline
    metric, titles = reading.metrics[0], better_floors(report)
    for key, title in reading.floors:
        if title in titles:
            model = "served.quality" if report["served"] else "quality.compressed"
            op = "<" if metric.lower_is_better else ">"
            floor = f"quality.floors.{key}.{metric.key}"
            return f'{{metric: {model}.{metric.key}, op: "{op}", value: 1, relative_to: {floor}}}'
    return ""


def _decide(report: Findings, failed: Sequence[Decision], decided: Sequence[Decision]) -> tuple[bool | None, str]:
    """Whether to deploy (None: nothing decides), and the sentence that says so with its one reason."""
    if failed:
        more = f"; {len(failed) - 1} more failed" if len(failed) > 1 else ""
        return False, f"Do not deploy, because a gate failed: {gate_line(failed[0])}{more}."
    target = report["target"]
    if target["met"] is False:
        asked = f"{ratio(target['ratio'])} in {target['of']}"
        return False, f"Do not deploy, because the target of {asked} was missed at {ratio(target['reached'])}."
    better, set_by_recipe = better_floors(report), [gate for gate in decided if not gate["standing"]]
    names = " and ".join(metric.name for metric in TASKS[report["task"]].headline.metrics)
    if better:
        passed = ", although the gates passed" if set_by_recipe else ""
        return False, f"Do not deploy, because the model does not beat {' or '.join(better)} in {names}{passed}."
    if report["quality"] is None:
        return None, "Not decided, because quality was not measured."
    if not set_by_recipe:
        return None, "Not decided, because the recipe sets no gates."
    return True, f"Deploy: {f'all {len(decided)} gates' if len(decided) > 1 else 'the gate'} passed."


def verdict(report: Findings, decided: Sequence[Decision]) -> Verdict:
    """Whether the run passed and its model is to be deployed, and what a reader must know, in sentences."""
    failed = [gate for gate in decided if not gate["passed"]]
    missed = report["target"]["met"] is False
    gates = _gates(report, failed, decided)
    deploy, decision = _decide(report, failed, decided)
    removed, cost, gained = _removed(report), _cost(report), _gain(report)
    first, noticed = alerts(report, decided), warnings(report, decided)
    return {
        "passed": not failed and not missed, "deploy": deploy, "decision": decision,
        "summary": " ".join([decision, removed, cost, gained, *first, *noticed, gates]),
        "removed": removed, "cost": cost, "gained": gained, "gates": gates, "alerts": first, "warnings": noticed,
    }  # fmt: skip
