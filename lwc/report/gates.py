"""Gates: thresholds on report metrics that decide whether a run passed."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping

from lwc.core.marks import LEVEL
from lwc.recipe import TASKS, At, Gate
from lwc.report.content_types import Decision, Findings

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}

_SIDES = {">=": "short by", ">": "short by", "<=": "over by", "<": "over by", "==": "off by"}
ENDS: dict[At, str] = {"low": "lower end", "high": "upper end"}


def judged(metric: str, at: At) -> str:
    """What a gate judges, in words: ``retention.accuracy (lower end, 95%)``."""
    return metric if at == "value" else f"{metric} ({ENDS[at]}, {LEVEL:.0%})"


def lookup(report: Mapping[str, object], path: str, at: At = "value") -> tuple[float | None, str]:
    """The number at a dotted path, or None and the reason there is none.

    A list is entered by position; of an interval (``{"value", "low", "high"}``), ``at`` is read; true and false
    read as 1 and 0.
    """
    node: object = report
    walked: list[str] = []
    for part in path.split("."):
        walked.append(part)
        if isinstance(node, Mapping) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif node is None:
            return None, f"{'.'.join(walked[:-1])} was not measured"
        else:
            return None, _absent(report, ".".join(walked))
    if isinstance(node, Mapping) and "value" in node:
        if at not in node:
            return None, f"{path} has no {ENDS[at]}"
        node = node[at]
    elif at != "value" and node is not None:
        return None, f"{path} has no interval, so it has no {ENDS[at]}"
    if node is None:
        return None, f"{judged(path, at)} was not measured"
    if isinstance(node, bool):
        return float(node), ""
    if not isinstance(node, int | float):
        return None, f"{path} is not a number"
    if not math.isfinite(node):
        return None, f"{path} is not finite"
    return float(node), ""


def _absent(report: Mapping[str, object], path: str) -> str:
    """Why the report has nothing at a path: int8 may have been refused."""
    served = report.get("served")
    why = served.get("why") if isinstance(served, Mapping) else None
    if why and path.startswith("export.") and path.endswith(".int8"):
        return f"int8 is not served: {why}"
    return f"the report has no {path}"


def _decide_one(gate: Gate, report: Mapping[str, object]) -> Decision:
    value, reason = lookup(report, gate.metric, gate.at)
    threshold: float | None = gate.value
    relative = "" if gate.relative_to is None else f"{gate.value:g} × {gate.relative_to}"
    if gate.relative_to is not None:
        reference, missing = lookup(report, gate.relative_to)
        threshold = None if reference is None else gate.value * reference
        reason = reason or missing
    passed = False
    if value is not None and threshold is not None:
        passed = OPERATORS[gate.op](value, threshold)
        name = judged(gate.metric, gate.at)
        computed = f" ({relative})" if gate.relative_to is not None else ""
        missed = f"{_SIDES[gate.op]} {abs(value - threshold):.4g}"
        reason = "" if passed else f"{name} is {value:.6g}, must be {gate.op} {threshold:.6g}{computed}: {missed}"
    return {
        "metric": gate.metric, "at": gate.at, "op": gate.op, "threshold": threshold, "relative": relative,
        "value": value, "passed": passed, "reason": reason, "note": "", "standing": False,
    }  # fmt: skip


def _of_any_batch(agreement: float, n: int) -> float:
    """Share of n answers of a dynamic int8 graph that must not change with the neighbours in a batch.

    A text near the decision boundary may get another label in another batch. Such labels are about as many as those
    that int8 changes at all (1 − ``agreement`` with fp32): that many, plus three standard deviations, and at least 3.
    """
    changed = (1 - agreement) * n
    return 1 - max(3, math.ceil(changed + 3 * math.sqrt(changed))) / n if n else 0.0


def standing(gates: Iterable[Gate], report: Findings) -> list[Decision]:
    """Decide the gates that every verified run has besides the recipe's: what is served is what was measured.

    They ask that ``serving.PROTOCOL.served.matches_offline`` reach the task's ``agreement``, or `_of_any_batch` where
    the served graph's activation ranges depend on the batch. A recipe's own, stricter gate replaces one.
    """
    least = TASKS[report["task"]].agreement
    int8 = (report["export"] or {}).get("int8")
    if int8 and int8.get("depends_on_batch"):
        n = report["quality"]["compressed"]["n"] if report["quality"] else 0
        least = min(least, _of_any_batch(int8["test"]["agreement"], n))
    strict = {gate.metric for gate in gates if gate.op == ">=" and gate.relative_to is None and gate.value >= least}
    metrics = [f"serving.{protocol}.served.matches_offline" for protocol in report["serving"] or {}]
    asked = [Gate(metric=metric, op=">=", value=least) for metric in metrics if metric not in strict]
    return [{**one, "standing": True} for one in decide(asked, report)]


def decide(gates: Iterable[Gate], report: Mapping[str, object]) -> list[Decision]:
    """Decide every gate on the report.

    Returns:
        In recipe order, without notes (`lwc.report.gate_notes`). A metric, or an end of its interval, that is missing,
        not a number or not finite fails its gate, with the reason; a passed gate has an empty reason.
    """
    return [_decide_one(gate, report) for gate in gates]
