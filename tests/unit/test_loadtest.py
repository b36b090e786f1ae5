"""The load test against a fake server with planted faults: what it counts, and what it refuses."""

from __future__ import annotations

import importlib.util
import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from grid import kept

if importlib.util.find_spec("locust") is None:  # not imported: it would patch this process
    pytest.skip("locust is not installed", allow_module_level=True)
pytest.importorskip("tritonclient.grpc")

from lwc.core.errors import DataError, RecipeError, ServingError
from lwc.serving.loadtest import process
from lwc.serving.loadtest.arrivals import arrival_times
from lwc.serving.loadtest.endpoint import connect, fitting_wire
from lwc.serving.loadtest.explain import labels_apart
from lwc.serving.loadtest.recorder import Recorder, merge_records
from lwc.serving.loadtest.run import Load, Thresholds, check_thresholds, run_loadtest
from lwc.serving.loadtest.samples import read_samples, write_samples
from lwc.serving.loadtest.summary import summarise
from lwc.serving.triton.counters import read_page
from lwc.tasks.endpoint import Sample, Tensor
from lwc.tasks.next_item.wire import ItemWire
from lwc.tasks.text_wire import TextWire

NAMES = ["great", "other", "naïve ☕"]
# Offline is wrong about every fifth text: served accuracy must equal offline accuracy, not 1.
SAMPLES = [Sample(100 + i, f"text {i} ☕ é", NAMES[i % 3], NAMES[(i + (i % 5 == 0)) % 3]) for i in range(30)] + [
    Sample(999, "", "other", "other")
]
OFFLINE_ACCURACY = sum(s.label == s.offline for s in SAMPLES) / len(SAMPLES)


def at_once(url: str) -> float:
    """The most requests that the fake server had at a time."""
    page = read_page(url.removeprefix("http://"))
    return float(page.rpartition("fake_most_at_once ")[2])


@contextmanager
def fake_server(folder: Path, **faults: Any) -> Iterator[dict[str, str]]:
    settings = folder / "fake.json"
    answers = {s.question: s.offline for s in SAMPLES}
    settings.write_text(json.dumps({"model": "m", "names": NAMES, "answers": answers, **faults}))
    script = Path(__file__).parents[1] / "support" / "fake_triton.py"
    child = subprocess.Popen([sys.executable, str(script), str(settings)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        ports = json.loads(child.stdout.readline())
        yield {"http": f"http://127.0.0.1:{ports['http']}", "grpc": f"127.0.0.1:{ports['grpc']}"}
    finally:
        child.kill()
        child.wait()


def load(
    folder: Path,
    url: str,
    protocol: Any,
    model: str = "m",
    min_requests: int = 31,
    metrics_url: str | None = None,
    label_output: str | None = None,
    **changes: Any,
) -> dict[str, Any]:
    settings = Load(**{"users": 4, "seconds": 1.2, "warmup_seconds": 0.3, **changes})
    endpoint = connect(url, protocol, model, metrics_url, label_output)
    if label_output is None and endpoint.wire.label is not None:
        endpoint = replace(endpoint, wire=replace(endpoint.wire, names=tuple(NAMES)))
    return run_loadtest(endpoint, settings, SAMPLES, folder / "out", min_requests)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_healthy_server_is_measured_and_every_answer_checked(tmp_path: Path, protocol: str) -> None:
    with fake_server(tmp_path, delay_s=0.05) as urls:
        result = load(tmp_path, urls[protocol], protocol, users=8, metrics_url=urls["http"])
        most = at_once(urls["http"])
    served = result["served"]
    assert result["errors"] == 0
    assert served["covered_all"]
    assert served["accuracy"] == pytest.approx(OFFLINE_ACCURACY)
    assert served["accuracy_difference"] == 0.0
    assert served["matches_offline"] == 1.0
    assert np.sum(served["confusion"]) == len(SAMPLES)
    assert most > 1, "a user that waits for its answer must not make the others wait"
    assert result["throughput_rps"] < 161, "8 users and 50 ms an answer"
    assert result["latency_ms"]["p50"] >= 50.0
    out = tmp_path / "out"
    raw = np.load(out / f"latencies_{protocol}.npy", allow_pickle=False)
    assert raw.dtype == np.float32
    assert len(raw) == result["requests"] - result["errors"]
    assert np.percentile(raw.astype(float), 95) == pytest.approx(result["latency_ms"]["p95"])
    assert len(set(raw.tolist())) > len(raw) * 0.9, "latencies are raw, not rounded"
    for name in (f"locust_{protocol}.html", f"locust_{protocol}_stats.csv", f"locust_{protocol}.log"):
        assert (out / name).stat().st_size > 0
    assert result["warmup"]["requests"] > 0
    server = result["server"]
    assert list(server["models"]) == ["m"], "a model that answered nothing is no row"
    counted = server["models"]["m"]
    # The counters are read when the window begins and ends: without the warm-up, without the drain.
    assert 0 < counted["requests"] < result["requests"] + result["warmup"]["requests"]
    assert counted["queue_ms"] == pytest.approx(3.0)
    assert counted["mean_batch"] == pytest.approx(2.0, rel=0.1)
    mean = server["mean_ms"]
    assert (mean["queue"], mean["compute"]) == pytest.approx((3.0, 6.5))
    assert mean["total"] == pytest.approx(sum(v for k, v in mean.items() if k != "total"))
    assert "3.0 in the queue" in result["why"][0]
    # Locust's own CSV, too, is without the warm-up, but for what was on its way when that ended: one a user.
    row = (out / f"locust_{protocol}_stats.csv").read_text().splitlines()[-1].split(",")
    assert abs(int(row[2]) - result["requests"]) <= 8
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("protocol", kept(["http", "grpc"], ["http"]))
def test_failures_wrong_answers_and_nan_are_counted(tmp_path: Path, protocol: str) -> None:
    with fake_server(tmp_path, fail_every=10, nan_every=25, wrong_every=7) as urls:
        result = load(tmp_path, urls[protocol], protocol)
    assert 0.08 < result["error_rate"] < 0.18
    messages = " ".join(e["message"] for e in result["error_messages"])
    assert "planted failure" in messages
    assert "not finite" in messages
    assert 0.7 < result["served"]["matches_offline"] < 0.95
    assert result["served"]["inconsistent_texts"] > 0
    (failure,) = check_thresholds(result, Thresholds(min_agreement=1.0))
    assert failure.startswith("agreement with the offline answers is 0.")
    assert failure.endswith("below 1")
    assert check_thresholds(result, Thresholds(min_agreement=0.5)) == []


def test_quality_below_its_threshold_fails_and_so_does_quality_that_nobody_measured() -> None:
    result = {"served": {"accuracy": 0.8, "matches_offline": 1.0}}
    assert check_thresholds(result, Thresholds(min_accuracy=0.8, min_agreement=1.0)) == []
    assert check_thresholds(result, Thresholds(min_accuracy=0.81)) == ["served accuracy is 0.8000, below 0.81"]
    (failure,) = check_thresholds({}, Thresholds(min_accuracy=0.1))
    assert failure == "no request was answered, so that there is no served accuracy"


def test_one_failure_within_the_budget_passes_and_above_it_fails(tmp_path: Path) -> None:
    with fake_server(tmp_path, fail_every=15) as urls:
        result = load(tmp_path, urls["http"], "http")
    assert result["errors"] >= 1
    assert result["server"] is None, "nobody said where its counters are"
    assert check_thresholds(result, Thresholds(max_error_rate=0.2)) == []
    assert "above the budget" in check_thresholds(result, Thresholds(max_error_rate=0.001))[0]
    assert "p95" in check_thresholds(result, Thresholds(max_p95_ms=0.01))[0]
    assert check_thresholds(result, Thresholds()) == []


def test_too_few_requests_fail(tmp_path: Path) -> None:
    with fake_server(tmp_path, delay_s=5.0) as urls, pytest.raises(ServingError, match="at least 31 are required"):
        load(tmp_path, urls["http"], "http", timeout_s=1.0)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_that_only_refuses_fails_with_its_reason(tmp_path: Path, protocol: str) -> None:
    with fake_server(tmp_path) as urls, pytest.raises(ServingError, match="unknown model"):
        load(tmp_path, urls[protocol], protocol, model="other")


def test_labels_are_compared_by_name_and_unknown_names_are_errors(tmp_path: Path) -> None:
    swapped = {"great": "other", "other": "great"}
    with fake_server(tmp_path, rename=swapped) as urls:
        assert load(tmp_path, urls["http"], "http")["served"]["matches_offline"] < 0.6
    unknown = {name: f"LABEL_{i}" for i, name in enumerate(NAMES)}
    with fake_server(tmp_path, rename=unknown) as urls, pytest.raises(ServingError, match="'LABEL_0' is none of"):
        load(tmp_path, urls["http"], "http")


def test_scheduled_load_shows_a_stall_that_a_closed_loop_hides() -> None:
    """Two connections and 10 ms an answer, but nothing is answered from 0.5 to 1.1 s; by a clock of its own."""

    def run(rate: float | None) -> dict[str, Any]:
        now = [0.0]
        recorder = Recorder(samples=len(SAMPLES), clock=lambda: now[0])
        recorder.measure()
        free = [0.0, 0.0]  # when each connection is
        due = itertools.repeat(None) if rate is None else arrival_times(rate, 1.2, "constant", 0)
        for at in due:
            one = free.index(min(free))
            now[0] = free[one] if at is None else max(at, free[one])
            if at is None and now[0] >= 1.2:
                break
            ticket = recorder.take(at)
            assert ticket is not None
            recorder.send(ticket)
            now[0] = (1.1 if 0.5 <= now[0] < 1.1 else now[0]) + 0.01
            free[one] = now[0]
            recorder.finish(ticket, "great", None)
        recorder.stop()
        return summarise({**recorder.as_json(), "cpu_s": 0.1}, SAMPLES, TextWire(), rate, 1.2)

    closed, scheduled = run(None), run(80.0)
    assert (closed["load"], scheduled["load"]) == ("closed_loop", "open_loop")
    assert closed["latency_ms"]["p95"] == pytest.approx(10.0)
    assert scheduled["latency_ms"]["p95"] > 400.0
    assert scheduled["wait_ms"]["p95"] > 300.0, "both connections were stalled, so that requests waited for one"
    assert closed["wait_ms"]["p95"] == 0.0


@pytest.mark.parametrize("protocol", kept(["http", "grpc"], ["grpc"]))
def test_a_model_that_lwc_did_not_make_is_asked_by_its_own_names(tmp_path: Path, protocol: str) -> None:
    outputs = [
        {"name": "category", "datatype": "BYTES", "shape": [1]},
        {"name": "scores", "datatype": "FP32", "shape": [3]},
    ]
    tensors = {"inputs": [{"name": "review", "datatype": "BYTES", "shape": [-1]}], "outputs": outputs}
    with fake_server(tmp_path, tensors=tensors, label="category", wrong_every=5) as urls:
        blind = load(tmp_path, urls[protocol], protocol)
        checked = load(tmp_path, urls[protocol], protocol, label_output="category")
        with pytest.raises(RecipeError, match="no BYTES output 'label'; it has category BYTES, scores FP32"):
            load(tmp_path, urls[protocol], protocol, label_output="label")
    assert blind["errors"] == 0
    assert "served" not in blind
    assert blind["latency_ms"]["p50"] > 0
    assert 0.6 < checked["served"]["matches_offline"] < 0.95


@pytest.mark.parametrize(("protocol", "rate"), kept([("http", 80.0), ("grpc", None)], [("http", 80.0)]))
def test_workers_share_texts_and_rate_and_their_records_are_one(
    tmp_path: Path, protocol: str, rate: float | None
) -> None:
    with fake_server(tmp_path) as urls:
        result = load(tmp_path, urls[protocol], protocol, metrics_url=urls["http"], workers=2, rate=rate, seconds=2.0)
    assert result["errors"] == 0
    served = result["served"]
    assert served["covered_all"]
    assert served["matches_offline"] == 1.0
    assert result["server"]["models"]["m"]["requests"] > 0
    if rate is not None:
        assert 100 < result["requests"] < 220, "160 are due on average: half as many would be one worker's"


def test_more_workers_than_users_are_refused_and_a_worker_that_dies_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match="3 workers cannot share 2 users"):
        Load(users=2, seconds=1.0, warmup_seconds=0.0, workers=3)
    broken = tmp_path / "locustfile.py"
    code = process.LOCUSTFILE.read_text(encoding="utf-8")
    broken.write_text(code.replace("RECORDER.first, RECORDER.step", "os._exit(7)\n    RECORDER.first, RECORDER.step"))
    monkeypatch.setattr(process, "LOCUSTFILE", broken)
    with fake_server(tmp_path) as urls, pytest.raises(ServingError, match="left no records"):
        load(tmp_path, urls["http"], "http", workers=2, timeout_s=1.0)


def test_recorders_that_share_the_samples_cover_them_without_overlap() -> None:
    parts = []
    for worker in range(3):
        recorder = Recorder(samples=10, first=worker, step=3)
        recorder.measure()
        for _ in range(4):
            ticket = recorder.take()
            assert ticket is not None
            recorder.send(ticket)
            recorder.finish(ticket, "a", None)
        recorder.stop()
        parts.append({**recorder.as_json(), "cpu_s": 0.1 * worker})
    merged = merge_records(parts)
    assert [row[0] for row in merged["rows"]] == [0, 3, 6, 9, 1, 4, 7, 0, 2, 5, 8, 1]
    assert merged["answered_in_window"] == 12
    assert merged["cpu_s"] == 0.2
    assert merged["window_s"] == max(part["window_s"] for part in parts)


TEXT_INPUT = Tensor("t", "BYTES", (-1, 1))


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        [TEXT_INPUT, Tensor("n", "INT32", (1,))],
        [Tensor("input_ids", "INT64", (-1, -1))],
        [Tensor("pair", "BYTES", (-1, 2))],
        [Tensor("scalar", "BYTES", ())],
    ],
)
def test_models_that_do_not_take_one_text_are_one_clear_error(inputs: list[Tensor]) -> None:
    with pytest.raises(RecipeError, match="one text to one BYTES input") as caught:
        fitting_wire("m", inputs, [Tensor("label", "BYTES", (-1, 1))])
    assert all(tensor.name in caught.value.message for tensor in inputs)


def test_what_a_model_is_asked_follows_from_its_description() -> None:
    label, scores, more = Tensor("label", "BYTES", (1,)), Tensor("scores", "FP32", (3,)), Tensor("x", "INT8", (3,))
    assert fitting_wire("m", [TEXT_INPUT], [label, scores, more]) == TextWire(
        "t", (1, 1), ("label", "scores"), "label", "scores"
    )
    assert fitting_wire("m", [Tensor("t", "BYTES", (1,))], [more, scores]) == TextWire(
        "t", (1,), ("x", "scores"), None, None
    )
    # An output of that name that is no text is no label.
    assert fitting_wire("m", [TEXT_INPUT], [Tensor("label", "INT32", (1,))]).judged == ()
    items = [
        Tensor("items", "BYTES", (-1, -1)),
        Tensor("scores", "FP32", (-1, -1)),
        Tensor("skipped", "INT32", (-1, 1)),
    ]
    history = [Tensor("history", "BYTES", (-1, -1)), Tensor("k", "INT32", (-1, 1))]
    assert fitting_wire("m", history, items) == ItemWire()
    with pytest.raises(RecipeError, match="has no label"):
        fitting_wire("m", history, items, "label")
    with pytest.raises(RecipeError, match="or item ids to a BYTES input 'history'"):
        fitting_wire("m", history, items[:2])


def test_closed_metrics_are_said_before_anything_is_sent(tmp_path: Path) -> None:
    with (
        fake_server(tmp_path, no_metrics=True) as urls,
        pytest.raises(ServingError, match="metrics cannot be read") as caught,
    ):
        load(tmp_path, urls["http"], "http", metrics_url=urls["http"])
    assert caught.value.exit_code == 2
    assert "--metrics-url" in caught.value.hint


def test_nothing_listening_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="nothing answers at"):
        load(tmp_path, "http://127.0.0.1:9", "http")


@pytest.mark.parametrize("url", ["https://h:1", "http://h", "h:99999", "http://h:1/path", ""])
def test_urls_that_are_no_server_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(RecipeError):
        load(tmp_path, url, "http")


def test_protocol_and_model_must_be_real(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="http or grpc"):
        load(tmp_path, "127.0.0.1:1", "rest")
    with pytest.raises(RecipeError, match="not a model name"):
        load(tmp_path, "127.0.0.1:1", "http", model="../x")


def test_a_child_that_dies_is_a_failure_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "locustfile.py"
    broken.write_text("raise RuntimeError('planted in the child')\n")
    monkeypatch.setattr(process, "LOCUSTFILE", broken)
    with fake_server(tmp_path) as urls, pytest.raises(ServingError, match="planted in the child"):
        load(tmp_path, urls["http"], "http")


DYING = """
import runpy
from pathlib import Path
namespace = runpy.run_path({locustfile!r})
on_init, Asker, RECORDER = namespace["on_init"], namespace["Asker"], namespace["RECORDER"]

def dies(self):
    if {when}:
        raise {error}
    {before}(self)

{before} = Asker.{name}
Asker.{name} = dies
Asker.tasks = [Asker.ask]
"""
# Where a user dies, when, of what, and what is said; gevent's Timeout is no Exception.
MEASURING = "RECORDER.phase == 'measure' and len(RECORDER.rows) > 5"
DEATHS = {
    "asking": ("ask", MEASURING, "KeyError('planted')", "KeyError: 'planted'"),
    "warming up": ("ask", "True", "KeyError('planted')", "KeyError: 'planted'"),
    "starting": ("on_start", "True", "OSError('planted')", "OSError: planted"),
    "timeout": ("ask", "True", "__import__('gevent').Timeout(3)", "Timeout: 3 seconds"),
}


@pytest.mark.parametrize("death", kept(list(DEATHS), ["asking", "timeout"]))
@pytest.mark.parametrize("workers", kept([1, 2], [1]))
def test_a_user_that_dies_fails_the_test_with_its_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: str, workers: int
) -> None:
    name, when, error, said = DEATHS[death]
    script = tmp_path / "locustfile.py"
    before = f"before_{name}"
    script.write_text(
        DYING.format(locustfile=str(process.LOCUSTFILE), name=name, when=when, error=error, before=before)
    )
    monkeypatch.setattr(process, "LOCUSTFILE", script)
    with fake_server(tmp_path) as urls, pytest.raises(ServingError) as ended:
        # Ended at the death, not after the 300 s that it would take.
        load(tmp_path, urls["http"], "http", seconds=300.0, workers=workers)
    assert ended.value.message.startswith("a user of the load test died of " + said), ended.value.message
    assert ended.value.exit_code != 0


def test_a_child_that_exits_0_without_records_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "locustfile.py"
    broken.write_text("import sys\nprint('bye')\nsys.exit(0)\n")
    monkeypatch.setattr(process, "LOCUSTFILE", broken)
    stale = tmp_path / "out" / "records_http.json"
    stale.parent.mkdir()
    stale.write_text(json.dumps({"version": 3, "measured": True, "cpu_s": 1.0}))
    with fake_server(tmp_path) as urls, pytest.raises(ServingError, match="left no records"):
        load(tmp_path, urls["http"], "http")


def test_no_sender_outlives_a_parent_that_was_killed(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from lwc.serving.loadtest.endpoint import connect
from lwc.serving.loadtest.run import Load, run_loadtest
from lwc.tasks.endpoint import Sample
import sys
samples = [Sample(1, "text", "great", None)]
run_loadtest(connect(sys.argv[1], "http", "m"), Load(4, 120.0, 0.1, workers=2), samples, Path({str(tmp_path)!r}), 1)
"""
    with fake_server(tmp_path) as urls:
        command = [sys.executable, "-c", code, urls["http"]]
        with subprocess.Popen(command) as parent:
            deadline = time.monotonic() + 240
            while at_once(urls["http"]) == 0 and time.monotonic() < deadline:
                time.sleep(0.1)
            senders = [child for child in psutil.Process(parent.pid).children() if "locust" in child.cmdline()]
            assert len(senders) == 3, "a master and two workers"
            parent.kill()
        assert psutil.wait_procs(senders, timeout=120)[1] == []


def test_parent_does_not_import_locust() -> None:
    code = "import sys, lwc.serving.loadtest.run; sys.exit('locust' in sys.modules or 'gevent' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_recorder_leaves_out_the_warm_up_and_keeps_the_lost() -> None:
    now = [0.0]
    recorder = Recorder(samples=3, clock=lambda: now[0])
    early = recorder.take()
    assert early is not None
    recorder.send(early)
    now[0] = 1.0
    recorder.measure()
    recorder.finish(early, "a", None)
    tickets = []
    for _ in range(4):
        ticket = recorder.take()
        assert ticket is not None
        recorder.send(ticket)
        tickets.append(ticket)
    assert [t.sample for t in tickets] == [0, 1, 2, 0]
    now[0] = 1.25
    recorder.finish(tickets[0], "a", None)
    recorder.finish(tickets[1], None, "boom")
    now[0] = 2.0
    recorder.stop()
    now[0] = 2.5
    recorder.finish(tickets[2], "b", None)
    assert recorder.take() is None
    records = {**recorder.as_json(), "cpu_s": 0.25}
    assert records["warmup"] == {"requests": 1, "errors": 0}
    assert [row[3] for row in records["rows"]] == [250.0, 250.0, 1500.0, 1500.0]
    assert records["window_s"] == 1.0
    samples = [Sample(i, str(i), "a", "a") for i in range(3)]
    result = summarise(records, samples, TextWire())
    # The answers that came within the window: one of a request of the warm-up, one of its own.
    assert result["throughput_rps"] == 2.0
    assert result["generator_cpu"] == 0.25
    assert (result["requests"], result["errors"]) == (4, 2)
    assert result["served"]["accuracy"] == 0.5
    assert result["served"]["offline_accuracy"] == 1.0
    assert result["served"]["covered_all"] is False


def test_open_loop_latency_and_waiting_count_from_when_a_request_was_due() -> None:
    now = [0.0]
    recorder = Recorder(samples=2, clock=lambda: now[0])
    recorder.measure()
    due = [recorder.take(due=at) for at in (0.1, 0.2, 0.3, 0.9)]
    for ticket, sent, done in zip(due, (0.1, 0.5, 0.6), (0.5, 0.6, 1.4), strict=False):
        assert ticket is not None
        now[0] = sent
        recorder.send(ticket)
        if done > 1.0:
            now[0] = 1.0
            recorder.stop()
        now[0] = done
        recorder.finish(ticket, "a", None)
    assert recorder.pending == 1
    records = {**recorder.as_json(), "cpu_s": 1.0}
    assert [[round(v) for v in row[1:4]] for row in records["rows"]] == [
        [100, 0, 400], [200, 300, 400], [300, 300, 1100], [900, 500, 500],
    ]  # fmt: skip
    result = summarise(records, [Sample(i, str(i), "a", "a") for i in range(2)], TextWire(), rate=4.0, seconds=1.0)
    assert (result["requests"], result["errors"]) == (4, 1), "a request that nobody sent is lost, not forgotten"
    assert (result["offered_rps"], result["throughput_rps"], result["achieved_ratio"]) == (4.0, 2.0, 0.5)
    assert "50.0%" in check_thresholds(result, Thresholds(rate_tolerance=0.05))[0]
    assert check_thresholds(result, Thresholds(rate_tolerance=0.5)) == []


def test_arrivals_are_poisson_or_constant_and_repeat_with_their_seed() -> None:
    times = list(arrival_times(50.0, 100.0, "poisson", 3))
    assert times == list(arrival_times(50.0, 100.0, "poisson", 3)) != list(arrival_times(50.0, 100.0, "poisson", 4))
    gaps = np.diff([0.0, *times])
    assert (gaps > 0).all()
    assert times[-1] < 100.0
    # Exponential gaps: mean 1/rate, deviation equal to it, and a share of e^-1 longer than the mean.
    assert len(times) == pytest.approx(5000, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.06)
    assert (gaps > 0.02).mean() == pytest.approx(np.exp(-1), abs=0.03)
    assert list(arrival_times(4.0, 1.0, "constant", 3)) == [0.0, 0.25, 0.5, 0.75]


def test_a_rate_above_the_limit_is_a_shortfall_and_one_below_is_not(tmp_path: Path) -> None:
    # One at a time and 20 ms each: 50/s at most.
    with fake_server(tmp_path, delay_s=0.02, one_at_a_time=True) as urls:
        above = load(tmp_path, urls["http"], "http", users=16, seconds=1.0, rate=150.0)
        below = load(tmp_path, urls["http"], "http", users=16, seconds=2.0, warmup_seconds=1.0, rate=20.0)
    assert above["achieved_ratio"] < 0.6
    assert above["throughput_rps"] <= 51.0
    assert "were due" in check_thresholds(above, Thresholds(rate_tolerance=0.05))[0]
    assert above["latency_ms"]["p95"] > 1000.0, "the queue shows, also that of requests answered after the end"
    assert below["errors"] == 0


BLIND = TextWire(label=None, scores=None)


def test_samples_without_offline_predictions(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text('{"id": 1, "text": "é", "label": "a"}\n\n{"id": 2, "text": "", "label": "b"}\n')
    assert read_samples(path, TextWire()) == [Sample(1, "é", "a", None), Sample(2, "", "b", None)]
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"text": "only"}\n{"text": ""}\n')
    assert read_samples(bare, BLIND) == [Sample(1, "only", None, None), Sample(2, "", None, None)]
    assert read_samples(path, BLIND)[1] == Sample(2, "", None, None)
    table = tmp_path / "s.csv"
    table.write_text('id,text,label\n1,"NA\nno",a\n2,,b\n')
    assert read_samples(table, TextWire()) == [Sample(1, "NA\nno", "a", None), Sample(2, "", "b", None)]
    write_samples(read_samples(path, TextWire()), tmp_path / "s.parquet")
    assert read_samples(tmp_path / "s.parquet", TextWire()) == read_samples(path, TextWire())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nope\n",
        '{"id": 1, "text": "x"}\n{"id": 2, "text": "y", "label": "a"}\n',
        '{"id": 1, "text": "x", "label": 3}\n',
        '{"id": 1, "text": "\\ud800", "label": "a"}\n',
        '{"id": 1, "text": "x", "label": "a"}\n{"id": 1, "text": "y", "label": "a"}\n',
    ],
)
def test_bad_samples_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(text)
    with pytest.raises(DataError):
        read_samples(path, TextWire())


@pytest.mark.parametrize(
    ("labels", "answers", "told"),
    [
        (["0", "1"], ["good", "bad"], "these have '0', '1', the model gave 'bad', 'good'"),
        (["good", "bad"], ["bad", "good"], None),  # all wrong, but both are labels of both
        (["good", "bad"], ["good", "good"], None),
    ],
)
def test_labels_that_no_answer_has_are_told_instead_of_an_accuracy(
    labels: list[str], answers: list[str], told: str | None
) -> None:
    samples = [Sample(number, "text", label, None) for number, label in enumerate(labels)]
    served = TextWire().judge(list(enumerate(answers)), samples)
    found = labels_apart({"served": served})
    assert found is None if told is None else told in str(found)


@pytest.mark.parametrize(
    ("limits", "users", "workers", "outcome"),
    [
        ((64, 4096), 200, 1, 300),
        ((64, 200), 200, 2, 200),
        ((64, 200), 200, 1, "needs 300 open files, the limit here is 200"),
        ((1024, resource.RLIM_INFINITY), 200, 1, None),
        ((64, resource.RLIM_INFINITY), 10, 1, 110),
    ],
)
def test_a_sender_may_open_a_connection_for_each_user(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], users: int, workers: int, outcome: object
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: given.append(pair))
    if isinstance(outcome, str):
        with pytest.raises(RecipeError, match=outcome):
            process.allow_files({"users": users, "workers": workers})
        assert not given
        return
    process.allow_files({"users": users, "workers": workers})
    assert given == ([] if outcome is None else [(outcome, limits[1])])


def test_what_the_sender_runs_out_of_is_no_error_of_the_server(tmp_path: Path) -> None:
    records = tmp_path / "records.json"
    records.write_text(json.dumps({"died": "Refused: OSError: [Errno 24] Too many open files"}))
    with pytest.raises(ServingError, match="the sender, not the server, failed") as caught:
        process._read_records(records, 1, tmp_path / "log")
    assert caught.value.exit_code == 2
