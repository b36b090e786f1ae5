"""The verdict: whether to deploy, what was removed, what it cost as served, what it gained as served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lwc.recipe import TASKS
from lwc.report.content_types import Decision, Findings, Verdict
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
        f"kept {len(kept)} blocks ({_blocks(kept)})."
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


def _gain(report: Findings) -> str:
    ratios, target, selection = ratios_of(report), report["target"], report["selection"]
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
    outcome = {None: NOT_MEASURED, True: "met", False: f"missed at {ratio(target['reached'])}"}[target["met"]]
    return (
        f"Gained: {', '.join(parts)}; as served: {as_served(report)}. The target was {ratio(target['ratio'])} in "
        f"{target['of']}: {outcome}."
    )


def gate_line(gate: Decision) -> str:
    """One gate in words, with value and threshold."""
    name, limit = judged(gate["metric"], gate["at"]), significant(gate["threshold"])
    line = f"{name} = {significant(gate['value'])} (must be {gate['op']} {limit})"
    return f"{line}: {gate['reason']}" if gate["value"] is None or gate["threshold"] is None else line


def _gates(failed: Sequence[Decision], decided: Sequence[Decision], missed: bool) -> str:
    total = len(decided)
    if failed:
        return f"{len(failed)} of {total} gates failed: {'; '.join(gate_line(g) for g in failed)}."
    if decided and all(gate["standing"] for gate in decided):
        said = "No gates were set; the served answers equal the offline ones."
    elif total:
        said = f"All {total} gates passed." if total > 1 else "The gate passed."
    else:
        said = "No gates were set, so nothing was decided."
    return f"{said} The run did not pass, because the target was missed." if missed else said


def _decide(report: Findings, failed: Sequence[Decision], decided: Sequence[Decision]) -> tuple[bool | None, str]:
    """Whether to deploy (None: nothing decides), and the sentence that says so with its one reason."""
    if failed:
        more = f"; {len(failed) - 1} more failed" if len(failed) > 1 else ""
        return False, f"Do not deploy: a gate failed: {gate_line(failed[0])}{more}."
    target = report["target"]
    if target["met"] is False:
        asked = f"{ratio(target['ratio'])} in {target['of']}"
        return False, f"Do not deploy: the target of {asked} was missed at {ratio(target['reached'])}."
    better, set_by_recipe = better_floors(report), [gate for gate in decided if not gate["standing"]]
    names = " and ".join(metric.name for metric in TASKS[report["task"]].headline.metrics)
    if better:
        passed = "the gates passed, but " if set_by_recipe else ""
        return False, f"Do not deploy: {passed}the model does not beat {' or '.join(better)} in {names}."
    if report["quality"] is None:
        return None, "Not decided: quality was not measured."
    if not set_by_recipe:
        return None, "Not decided: the recipe sets no gates."
    return True, f"Deploy: {f'all {len(decided)} gates' if len(decided) > 1 else 'the gate'} passed."


def verdict(report: Findings, decided: Sequence[Decision]) -> Verdict:
    """Whether the run passed and its model is to be deployed, and what a reader must know, in sentences."""
    failed = [gate for gate in decided if not gate["passed"]]
    missed = report["target"]["met"] is False
    gates = _gates(failed, decided, missed)
    deploy, decision = _decide(report, failed, decided)
    removed, cost, gained = _removed(report), _cost(report), _gain(report)
    first, noticed = alerts(report, decided), warnings(report, decided)
    return {
        "passed": not failed and not missed, "deploy": deploy, "decision": decision,
        "summary": " ".join([decision, removed, cost, gained, *first, *noticed, gates]),
        "removed": removed, "cost": cost, "gained": gained, "gates": gates, "alerts": first, "warnings": noticed,
    }  # fmt: skip
