"""Triton's counters: read from its own page, set against each other, and the sentences made of them."""

from __future__ import annotations

import sys
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from lwc.core.errors import MissingDependency, ServingError
from lwc.report.document import Paragraph, Table
from lwc.report.serving import limit_blocks, load_words, server_table
from lwc.serving.loadtest.explain import explain
from lwc.serving.triton.counters import breakdown, parse_counts, read_page, server_times

# As Triton 2.51 writes it, cut: two versions of a model, a failure by reason, a gauge.
PAGE = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="tiny",version="1"} 40
nv_inference_request_success{model="tiny",version="2"} 2
nv_inference_request_success{model="tiny_tokens",version="1"} 11
# TYPE nv_inference_request_failure counter
nv_inference_request_failure{model="tiny",reason="BACKEND",version="1"} 1
nv_inference_request_failure{model="tiny",reason="OTHER",version="1"} 2
# TYPE nv_inference_count counter
nv_inference_count{model="tiny",version="1"} 42
nv_inference_count{model="tiny_tokens",version="1"} 42
# TYPE nv_inference_exec_count counter
nv_inference_exec_count{model="tiny",version="1"} 12
nv_inference_exec_count{model="tiny_tokens",version="1"} 11
# TYPE nv_inference_request_duration_us counter
nv_inference_request_duration_us{model="tiny",version="1"} 420000
# TYPE nv_inference_queue_duration_us counter
nv_inference_queue_duration_us{model="tiny",version="1"} 84000
# TYPE nv_inference_compute_infer_duration_us counter
nv_inference_compute_infer_duration_us{model="tiny",version="1"} 300000
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="tiny",version="1"} 3
"""


def test_counters_are_summed_over_versions_and_reasons() -> None:
    counts = parse_counts(PAGE, "h:8002")
    assert set(counts) == {"tiny", "tiny_tokens"}
    assert counts["tiny"]["requests"] == 42
    assert counts["tiny"]["failures"] == 3
    assert counts["tiny_tokens"]["queue_us"] == 0


def test_differences_are_means_per_request_and_texts_per_execution() -> None:
    after = parse_counts(PAGE, "h:8002")
    times = server_times({}, after)
    assert times["tiny"]["request_ms"] == pytest.approx(10.0)
    assert times["tiny"]["queue_ms"] == pytest.approx(2.0)
    assert times["tiny"]["mean_batch"] == pytest.approx(3.5)
    before = {model: {key: value / 2 for key, value in counters.items()} for model, counters in after.items()}
    assert server_times(before, after)["tiny"]["requests"] == 21
    assert server_times(before, after)["tiny"]["queue_ms"] == pytest.approx(2.0)
    assert server_times(after, after) == {}
    with pytest.raises(ServingError, match="restarted"):
        server_times(after, before)


@pytest.mark.parametrize("page", ["", "nv_cpu_utilization 0.5\n", "<html>no</html>", "nv_inference_count{ 3\n"])
def test_what_is_no_page_of_triton_is_said(page: str) -> None:
    with pytest.raises(ServingError, match="h:8002"):
        parse_counts(page, "h:8002")


def test_a_missing_parser_is_a_missing_dependency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client.parser", None)
    with pytest.raises(MissingDependency) as caught:
        parse_counts(PAGE, "h:8002")
    assert caught.value.exit_code == 4
    assert "lwc[serve]" in caught.value.hint


def test_a_closed_port_is_said_with_what_to_do() -> None:
    with pytest.raises(ServingError, match=r"cannot be read at 127\.0\.0\.1:9") as caught:
        read_page("127.0.0.1:9")
    assert "8002" in caught.value.hint


def result(wait: float, queue: float, compute: float, total: float, cpu: float = 0.2) -> dict[str, Any]:
    called = {"queue_ms": queue, "compute_input_ms": 0.0, "compute_infer_ms": compute, "compute_output_ms": 0.0}
    counted = {**called, "requests": 9, "executions": 3, "mean_batch": 3.0, "request_ms": queue + compute}
    return {
        "model": "m", "users": 64, "load": "open_loop", "generator_cpu": cpu, "wait_ms": {"mean": wait},
        "latency_ms": {"mean": total}, "target_rps": 120.0,
        "server": {"models": {"m": counted}, "mean_ms": breakdown(total, wait, called)},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wait", "queue", "compute", "cause"),
    [
        (50.0, 5.0, 5.0, "one of 64 connections"),
        (1.0, 50.0, 5.0, "queueing"),
        (1.0, 5.0, 50.0, "computing: fewer blocks"),
        (1.0, 5.0, 6.0, "outside of the model"),
    ],
)
def test_the_largest_part_is_named_as_the_cause(wait: float, queue: float, compute: float, cause: str) -> None:
    sentences = explain(result(wait, queue, compute, 70.0))
    assert len(sentences) == 2
    assert f"{queue:.1f} in the queue" in sentences[0]
    assert "3.0 requests an execution" in sentences[0]
    assert cause in sentences[1]


def test_a_busy_load_generator_is_told_whatever_the_server_says() -> None:
    assert "95% of a core" in explain(result(1.0, 5.0, 50.0, 70.0, cpu=0.95))[-1]
    blind = {**result(12.0, 0.0, 1.0, 20.0), "server": None}
    assert explain(blind) == ["of 20.0 ms mean latency, 12.0 ms passed before a connection was free"]


def test_the_report_shows_the_counters_and_how_the_server_was_loaded() -> None:
    one = result(1.0, 5.0, 50.0, 70.0)
    table = server_table({"http": one, "grpc": {"server": None}})
    assert table is not None
    assert table.rows == (("http", "m", "9", "3.00", "5.00", "0.00", "50.00", "0.00", "55.00"),)
    assert server_table({"http": {"server": None}}) is None
    assert "120.0 requests/s whether answered or not" in load_words(one)
    assert "closed loop" in load_words({"load": "closed_loop", "users": 4})


def test_the_report_sets_the_limits_side_by_side() -> None:
    one = {
        "unloaded_ms": {"p50": 6.0, "p95": 9.5}, "rate_rps": 240.0, "missed_rps": 252.0,
        "p95_ms": {"median": 44.0, "low": 41.0, "high": 48.0},
        "achieved_rps": None, "steps": [{}] * 12, "rates_in_doubt": 1, "rates_tried": 9, "why": ["computing"],
    }  # fmt: skip
    none = {**one, "rate_rps": None, "missed_rps": 10.0, "p95_ms": None, "why": []}
    limit: dict[str, Any] = {"objective": {"max_p95_ms": 50.0, "max_error_rate": 0.0}, "protocol": "http"}
    found = limit_blocks({**limit, "compressed": one, "base": none, "ratio": None})
    table = found[0]
    assert isinstance(table, Table)
    assert table.rows[0] == ("compressed", "9.5", "240.0", "252.0", "44.0 (41.0–48.0)", "not measured", "12", "1 of 9")
    assert table.rows[1][2] == "none met it"
    assert "windows alternate" in table.caption
    assert [block.text for block in found[1:] if isinstance(block, Paragraph)] == ["compressed at its rate: computing."]
    both = limit_blocks({**limit, "compressed": one, "base": one, "ratio": {"value": 2.4, "low": 2.2, "high": None}})
    sentence = both[1]
    assert isinstance(sentence, Paragraph)
    assert "2.40× the rate" in sentence.text
    assert "between 2.20× and not measured" in sentence.text
    alone = limit_blocks({**limit, "compressed": one, "base": None, "ratio": None})[0]
    assert isinstance(alone, Table)
    assert "windows alternate" not in alone.caption
