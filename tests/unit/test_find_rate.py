"""The search for the highest rate: against servers whose limit is known, quiet and disturbed."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

if importlib.util.find_spec("locust") is None:  # not imported: it would patch this process
    pytest.skip("locust is not installed", allow_module_level=True)
pytest.importorskip("prometheus_client")

from test_loadtest import SAMPLES, fake_server

from lwc.cli.main import app
from lwc.core.errors import RecipeError, ServingError
from lwc.serving.loadtest import find_rate as module
from lwc.serving.loadtest.endpoint import Endpoint, connect
from lwc.serving.loadtest.find_rate import Objective, find_rates, spread
from lwc.serving.loadtest.run import Load
from lwc.serving.loadtest.search import Limit, Search, bracket, confirm, take_turns
from lwc.tasks.text_wire import TextWire

A, B = (Endpoint("h:1", "http", name, TextWire()) for name in ("fast", "slow"))


def run(search: Any, meets: Callable[[float], bool]) -> tuple[Limit, list[float]]:
    tried: list[float] = []

    def window(name: str, rate: float) -> bool:
        tried.append(rate)
        return meets(rate)

    return take_turns({"m": search}, window)["m"], tried


@pytest.mark.parametrize("limit", [0.7, 3.0, 10.0, 77.0, 1234.5])
def test_the_limit_is_enclosed_from_below_and_above(limit: float) -> None:
    found, tried = run(bracket(Search(start=10.0, precision=0.05)), lambda rate: rate <= limit)
    assert found.met is not None
    assert found.missed is not None
    assert found.met <= limit < found.missed <= found.met * 1.05 * 1.0001
    assert len(tried) < 40


def test_doubling_comes_first_and_bisection_after_it() -> None:
    _, tried = run(bracket(Search(start=10.0, precision=0.3)), lambda rate: rate <= 50.0)
    assert tried[:5] == [10.0, 20.0, 40.0, 80.0, 80.0], "a miss is looked at twice"
    assert 40.0 < tried[5] < 80.0


def test_a_window_that_something_else_disturbed_does_not_end_the_search() -> None:
    disturbed = {3}
    count = [0]

    def meets(rate: float) -> bool:
        count[0] += 1
        return rate <= 500.0 and count[0] not in disturbed

    found, _ = run(bracket(Search()), meets)
    assert found.met is not None
    assert 450.0 < found.met <= 500.0


def test_nothing_meets_and_everything_meets() -> None:
    nothing, tried = run(bracket(Search()), lambda rate: False)
    assert nothing.met is None
    assert min(tried) >= 0.5, "it ends"
    assert run(confirm(nothing, Search()), lambda rate: True)[0] == nothing
    everything, _ = run(bracket(Search()), lambda rate: True)
    assert everything.missed is None


def test_a_rate_that_was_met_by_luck_is_given_up_for_a_lower_one() -> None:
    found, tried = run(confirm(Limit(100.0, 110.0), Search(precision=0.1, repeats=3)), lambda rate: rate < 85.0)
    assert found.met == pytest.approx(100 / 1.1**2)
    assert found.missed == pytest.approx(100 / 1.1)
    assert len(tried) == 9
    answers = iter([False, True, True])
    assert run(confirm(Limit(100.0, 110.0), Search(repeats=3)), lambda rate: next(answers))[0].met == 100.0


def test_two_searches_take_turns() -> None:
    order: list[str] = []

    def window(name: str, rate: float) -> bool:
        order.append(name)
        return rate <= {"a": 25.0, "b": 400.0}[name]

    found = take_turns({name: bracket(Search()) for name in ("a", "b")}, window)
    assert order[:8] == ["a", "b"] * 4
    assert found["a"].met is not None
    assert found["a"].met <= 25.0
    assert found["b"].met is not None
    assert 360.0 < found["b"].met <= 400.0


def queueing(limits: dict[str, float], noise: float = 0.0) -> Callable[..., dict[str, Any]]:
    """In place of a load test: p95 of an M/M/1 queue, ln(20) / (limit - rate), with noise on the limit."""
    draw = random.Random(5)

    def measure(endpoint: Endpoint, load: Load, *rest: Any) -> dict[str, Any]:
        limit = limits[endpoint.model] * (1.0 + noise * draw.uniform(-1, 1))
        # One user alone waits for its own service only.
        rate = load.rate or 1e-9
        base = {
            "requests": 500, "offered_rps": rate, "throughput_rps": min(rate, limit), "error_messages": [],
            "achieved_ratio": min(1.0, limit / rate), "generator_cpu": 0.1, "why": ["because"],
        }  # fmt: skip
        if limit == 0.0:
            refused = [{"count": 500, "message": "planted"}]
            return {**base, "errors": 500, "error_rate": 1.0, "error_messages": refused, "achieved_ratio": 0.0}
        p95 = 2995.7 / (limit - rate) if rate < limit else 9999.0
        latency = {"p50": p95 * 0.231, "p95": p95}
        return {**base, "errors": 0, "error_rate": 0.0, "latency_ms": latency, "served": {"matches_offline": 1.0}}

    return measure


LOAD = Load(users=8, seconds=2.0, warmup_seconds=0.5)


def test_found_rates_and_their_ratio_are_those_of_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure", queueing({"fast": 300.0, "slow": 160.0}))
    said: list[str] = []
    found = find_rates([A, B], Objective(50.0), Search(precision=0.05), LOAD, SAMPLES, tmp_path, said.append)
    # p95 ≤ 50 ms where limit - rate ≥ 59.9.
    for name, best in (("fast", 240.1), ("slow", 100.1)):
        one = found["models"][name]
        assert one["rate_rps"] <= best < one["missed_rps"] <= one["rate_rps"] * 1.051
        assert one["p95_ms"]["n"] == 3
        assert one["p95_ms"]["high"] <= 50.0
        assert one["why"] == ["because"]
        assert one["rates_in_doubt"] == 0
        assert one["rates_tried"] == len({step["rate_rps"] for step in one["steps"]})
        assert [step["met"] for step in one["steps"][-3:]] == [True] * 3
        assert "p95 is" in next(step["missed_by"][0] for step in one["steps"] if not step["met"])
    assert found["ratio"]["low"] < 240.1 / 100.1 < found["ratio"]["high"]
    assert len(said) == sum(len(one["steps"]) for one in found["models"].values())
    assert json.loads((tmp_path / "rates.json").read_text()) == json.loads(json.dumps(found))


def test_noise_shows_in_the_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure", queueing({"fast": 300.0}, noise=0.1))
    one = find_rates([A], Objective(50.0), Search(), LOAD, SAMPLES, tmp_path)["models"]["fast"]
    assert 190.0 < one["rate_rps"] < 275.0
    assert one["p95_ms"]["low"] < one["p95_ms"]["median"] < one["p95_ms"]["high"]
    assert 0 < one["rates_in_doubt"] < one["rates_tried"]


def test_low_rates_get_windows_long_enough_for_a_p95(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure", queueing({"fast": 70.0}))
    steps = find_rates([A], Objective(60.0), Search(), LOAD, SAMPLES, tmp_path)["models"]["fast"]["steps"]
    assert {round(step["rate_rps"] * step["seconds"]) for step in steps if step["rate_rps"] < 50} == {100}


def test_an_objective_out_of_reach_is_no_rate_and_a_model_that_refuses_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "measure", queueing({"fast": 300.0, "slow": 0.0}))
    found = find_rates([A], Objective(1.0), Search(), LOAD, SAMPLES, tmp_path)
    one = found["models"]["fast"]
    assert (one["rate_rps"], one["p95_ms"], one["steps"]) == (None, None, []), "not searched for in vain"
    assert one["unloaded_ms"]["p50"] == pytest.approx(2.3, abs=0.1)
    # Half of the requests are quick enough without load, 95% never are: it ends after a few rates.
    one = find_rates([A], Objective(5.0), Search(), LOAD, SAMPLES, tmp_path)["models"]["fast"]
    assert one["rate_rps"] is None
    assert len(one["steps"]) == 10
    assert max(step["seconds"] for step in one["steps"]) == 60.0
    with pytest.raises(ServingError, match="answered no request: 500× planted"):
        find_rates([B], Objective(50.0), Search(), LOAD, SAMPLES, tmp_path)
    with pytest.raises(RecipeError, match="with itself"):
        find_rates([A, A], Objective(50.0), Search(), LOAD, SAMPLES, tmp_path)


def test_settings_that_cannot_be() -> None:
    for wrong in ({"start": 0.0}, {"precision": 0.0}, {"repeats": 0}):
        with pytest.raises(RecipeError):
            Search(**wrong)
    with pytest.raises(RecipeError):
        Objective(0.0)
    assert spread([]) is None


@pytest.mark.parametrize("more", [["--find-rate"], ["--against", "other", "--max-p95-ms", "9"]])
def test_commands_that_lack_their_other_half_are_usage_errors(tmp_path: Path, more: list[str]) -> None:
    samples = tmp_path / "s.jsonl"
    samples.write_text('{"id": 1, "text": "x", "label": "great"}\n')
    with fake_server(tmp_path) as urls:
        done = CliRunner().invoke(app, ["loadtest", str(samples), "--model", "m", "--url", urls["http"], *more])
    assert isinstance(done.exception, RecipeError)
    assert done.exception.exit_code == 2


@pytest.mark.grid
@pytest.mark.slow
def test_a_server_that_takes_one_request_at_a_time_is_found_out(tmp_path: Path) -> None:
    # 10 ms each: 100/s at most.
    with fake_server(tmp_path, delay_s=0.01, one_at_a_time=True) as urls:
        endpoint = connect(urls["http"], "http", "m", urls["http"])
        load = Load(users=16, seconds=1.0, warmup_seconds=0.5, timeout_s=2.0)
        search = Search(start=200.0, precision=4.0, repeats=1)
        found = find_rates([endpoint], Objective(1000.0, rate_tolerance=0.2), search, load, SAMPLES, tmp_path / "out")
    one = found["models"]["m"]
    assert one["rate_rps"] is not None
    assert one["rate_rps"] < 200.0
    assert one["missed_rps"] <= 200.0
    assert one["steps"][-1]["matches_offline"] == 1.0
    assert one["steps"][-1]["server"]["models"]["m"]["queue_ms"] == pytest.approx(3.0)
    assert (tmp_path / "out" / "m" / "1" / "records_http.json").is_file()
