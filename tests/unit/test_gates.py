"""Gates: operators, relative limits, and everything that must fail rather than pass in silence."""

from __future__ import annotations

from typing import Any

import pytest

from lwc.recipe import Gate
from lwc.report.gates import decide, standing

REPORT: dict[str, Any] = {
    "retention": {"macro_f1": {"value": 0.99, "low": 0.97, "high": 1.01}},
    "serving": {"http": {"error_rate": 0.005, "requests": 0, "latency_ms": {"p95": 12.0}}, "grpc": None},
    "parity": {"passed": True, "max_abs_diff": 1e-5},
    "latency": {"base": 30.0, "compressed": 12.0, "shapes": [{"ratio": 2.5}]},
    "broken": {"nan": float("nan"), "inf": float("inf"), "text": "fast"},
}


def _one(metric: str, op: Any, value: float, relative_to: str | None = None) -> dict[str, Any]:
    return decide([Gate(metric=metric, op=op, value=value, relative_to=relative_to)], REPORT)[0]


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
