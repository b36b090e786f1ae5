"""Gates: operators, relative limits, and everything that must fail rather than pass in silence."""

from __future__ import annotations

from typing import Any

import pytest

from lwc.recipe import Gate
from lwc.report.gates import decide, standing

REPORT: dict[str, Any] = {
    "retention": {
        "macro_f1": {"value": 0.99, "low": 0.97, "high": 1.01},
        "spearman": {"value": None, "low": None, "high": None},
    },
    "serving": {"http": {"error_rate": 0.005, "requests": 0, "latency_ms": {"p95": 12.0}}, "grpc": None},
    "parity": {"passed": True, "max_abs_diff": 1e-5},
    "latency": {"base": 30.0, "compressed": 12.0, "shapes": [{"ratio": 2.5}]},
    "broken": {"nan": float("nan"), "inf": float("inf"), "text": "fast"},
}


def _one(metric: str, op: Any, value: float, relative_to: str | None = None, at: Any = "value") -> dict[str, Any]:
    return decide([Gate(metric=metric, op=op, value=value, relative_to=relative_to, at=at)], REPORT)[0]


@pytest.mark.parametrize(
    ("metric", "op", "value", "passed"),
    [
        ("retention.macro_f1", ">=", 0.99, True),
        ("retention.macro_f1.low", ">=", 0.99, False),
        ("serving.http.error_rate", "<=", 0.01, True),
        ("serving.http.error_rate", "<", 0.005, False),
        ("serving.http.error_rate", ">", 0.005, False),
        ("parity.passed", "==", 1, True),
        ("latency.shapes.0.ratio", ">=", 2.5, True),
        ("latency.shapes.1.ratio", ">=", 2.5, False),
    ],
)
def test_operators(metric: str, op: str, value: float, passed: bool) -> None:
    decided = _one(metric, op, value)
    assert decided["passed"] is passed
    assert bool(decided["reason"]) is not passed


@pytest.mark.parametrize(
    ("op", "value", "at", "passed"),
    [
        (">=", 0.97, "low", True),
        (">=", 0.98, "low", False),
        (">=", 0.98, "value", True),
        ("<=", 1.0, "high", False),
        ("<", 1.02, "high", True),
        (">=", 1.0, "high", True),
    ],
)
def test_an_end_of_an_interval_is_judged_where_it_is_named(op: str, value: float, at: str, passed: bool) -> None:
    decided = _one("retention.macro_f1", op, value, at=at)
    assert decided["at"] == at
    assert decided["value"] == {"value": 0.99, "low": 0.97, "high": 1.01}[at]
    assert decided["passed"] is passed
    if not passed:
        assert decided["reason"].startswith(f"retention.macro_f1 ({'lower' if at == 'low' else 'upper'} end, 95%) is")


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        ("latency.base", "latency.base has no interval, so it has no lower end"),
        ("latency", "latency has no interval"),
        ("retention.spearman", "retention.spearman (lower end, 95%) was not measured"),
        ("serving.grpc.error_rate", "serving.grpc was not measured"),
        ("retention.accuracy", "the report has no retention.accuracy"),
    ],
)
def test_a_missing_end_fails_with_its_reason(metric: str, reason: str) -> None:
    decided = _one(metric, ">=", 0, at="low")
    assert decided["value"] is None
    assert not decided["passed"]
    assert reason in decided["reason"]


def test_an_end_relative_to_a_plain_number() -> None:
    decided = _one("retention.macro_f1", ">=", 0.03, "latency.base", at="low")
    assert decided["threshold"] == pytest.approx(0.9)
    assert decided["passed"]


def test_error_budget_is_honoured_and_no_requests_fail_a_minimum() -> None:
    assert _one("serving.http.error_rate", "<=", 0.01)["passed"]
    assert not _one("serving.http.requests", ">=", 1)["passed"]


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        ("serving.grpc.error_rate", "serving.grpc was not measured"),
        ("serving.grpc", "was not measured"),
        ("serving.ftp.error_rate", "the report has no serving.ftp"),
        ("broken.nan", "not finite"),
        ("broken.inf", "not finite"),
        ("broken.text", "not a number"),
        ("parity", "not a number"),
    ],
)
@pytest.mark.parametrize("op", [">=", "<=", "==", "<", ">"])
def test_what_was_not_measured_fails_with_a_reason(metric: str, reason: str, op: str) -> None:
    decided = _one(metric, op, 0)
    assert decided["value"] is None
    assert not decided["passed"]
    assert reason in decided["reason"]


def test_limit_relative_to_another_metric() -> None:
    decided = _one("latency.compressed", "<=", 0.5, "latency.base")
    assert decided["threshold"] == 15.0
    assert decided["passed"]
    failed = _one("latency.compressed", "<=", 0.3, "latency.base")
    assert "0.3 × latency.base" in failed["reason"]
    missing = _one("latency.compressed", "<=", 0.5, "serving.grpc.p95")
    assert not missing["passed"]
    assert missing["threshold"] is None
    assert "not measured" in missing["reason"]


def test_order_is_kept_and_no_gates_decide_nothing() -> None:
    gates = [Gate(metric="parity.passed", op="==", value=1), Gate(metric="latency.base", op="<", value=1)]
    assert [d["metric"] for d in decide(gates, REPORT)] == ["parity.passed", "latency.base"]
    assert decide([], REPORT) == []


def _verified(export: dict[str, Any] | None, task: str = "classification") -> Any:
    served = {"matches_offline": 0.995}
    quality = {"compressed": {"n": 1000}}
    return {
        "task": task,
        "export": export,
        "quality": quality,
        "serving": {"http": {"served": served}, "grpc": {"served": served}},
    }


@pytest.mark.parametrize(
    ("task", "int8", "least"),
    [
        ("classification", None, 1.0),
        ("regression", None, 1.0),
        ("next_item", None, 0.999),
        ("classification", {"depends_on_batch": False, "test": {"agreement": 0.9}}, 1.0),
        ("classification", {"depends_on_batch": True, "test": {"agreement": 1.0}}, 0.997),
        ("classification", {"depends_on_batch": True, "test": {"agreement": 0.9961}}, 0.99),
    ],
)
def test_every_verified_run_must_serve_what_was_measured(task: str, int8: Any, least: float) -> None:
    decided = standing((), _verified({"int8": int8} if int8 else None, task))
    assert [gate["metric"].split(".")[1] for gate in decided] == ["http", "grpc"]
    assert all(gate["standing"] for gate in decided)
    assert {gate["threshold"] for gate in decided} == {least}
    assert [gate["passed"] for gate in decided] == [least <= 0.995] * 2


@pytest.mark.parametrize(("value", "op", "left"), [(1.0, ">=", 1), (0.0, ">=", 2), (1.0, "<=", 2)])
def test_only_a_gate_as_strict_replaces_a_standing_one(value: float, op: Any, left: int) -> None:
    own = Gate(metric="serving.http.served.matches_offline", op=op, value=value)
    assert len(standing([own], _verified(None))) == left


def test_without_verification_there_is_nothing_to_compare() -> None:
    assert standing((), {"task": "classification", "export": None, "quality": None, "serving": None}) == []  # type: ignore[typeddict-item]
