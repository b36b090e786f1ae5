"""Load from processes that others start: master and workers as a user starts them, and what each says alone."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from grid import kept
from ports import free_port
from typer.testing import CliRunner

if importlib.util.find_spec("locust") is None:  # not imported: it would patch this process
    pytest.skip("locust is not installed", allow_module_level=True)
pytest.importorskip("tritonclient.grpc")
import msgpack
import zmq
from test_loadtest import SAMPLES, fake_server

from lwc.cli.main import app
from lwc.core.errors import RecipeError, ServingError
from lwc.serving.loadtest.endpoint import connect
from lwc.serving.loadtest.process import Elsewhere
from lwc.serving.loadtest.run import Load, run_loadtest
from lwc.serving.loadtest.samples import write_samples
from lwc.serving.loadtest.worker import fetch_settings
from lwc.serving.triton.counters import parse_counts, read_page

ROOT = Path(__file__).resolve().parents[2]


def answered(url: str) -> float:
    """Requests that the fake server answered so far."""
    return parse_counts(read_page(url.removeprefix("http://")), url)["m"]["requests"]


@contextmanager
def worker(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """A worker in a folder that holds nothing."""
    folder.mkdir()
    command = [sys.executable, "-m", "lwc.cli.main", "loadtest", "--worker", f"127.0.0.1:{port}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    child = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def master(folder: Path, port: int, workers: int, *more: str) -> subprocess.CompletedProcess[str]:
    write_samples(SAMPLES, folder / "samples.parquet")
    command = [sys.executable, "-m", "lwc.cli.main", "loadtest", str(folder / "samples.parquet"), "--model", "m"]
    command += ["--expect-workers", str(workers), "--master-bind-port", str(port), "--out", str(folder / "out")]
    command += ["--warmup", "0.5", "--min-requests", "1", "--json", "--expect-workers-max-wait", "240", *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.parametrize("protocol", kept(["http", "grpc"], ["http"]))
def test_workers_from_elsewhere_send_everything_and_the_master_judges_it(tmp_path: Path, protocol: str) -> None:
    port = free_port()
    load = ("--rate", "40", "--arrivals", "constant", "--seconds", "2", "--connections", "8", "--rate-tolerance", "1")
    with (
        fake_server(tmp_path, wrong_every=30) as urls,
        worker(tmp_path / "one", port) as one,
        worker(tmp_path / "two", port) as two,
    ):
        asked = ("--url", urls[protocol], "--protocol", protocol, "--metrics-url", urls["http"])
        done = master(tmp_path, port, 2, *asked, *load)
        assert done.returncode == 0, done.stderr
        for child in (one, two):
            _, said = child.communicate(timeout=240)
            assert child.returncode == 0, said
            assert "sent for 1 load test" in said
        counted = answered(urls["http"])
    result = json.loads(done.stdout)
    assert result["requests"] == 80, "40 a second for 2 seconds, by two that share them"
    assert result["errors"] == 0
    assert result["requests"] + result["warmup"]["requests"] == counted
    # The offline answers never left the master.
    served = result["served"]
    assert served["covered_all"]
    wrong = round(80 * (1 - served["matches_offline"]))
    assert 2 <= wrong <= 3, "every thirtieth of some 100 answers is wrong, warm-up and all"
    assert result["server"]["models"]["m"]["requests"] > 0


def test_a_worker_that_does_not_come_is_one_error_on_both_sides(tmp_path: Path) -> None:
    port = free_port()
    with fake_server(tmp_path) as urls, worker(tmp_path / "one", port) as one:
        done = master(tmp_path, port, 2, "--url", urls["http"], "--expect-workers-max-wait", "8")
        assert done.returncode == 2
        assert f"fewer than 2 workers came to 127.0.0.1:{port} in 8 s" in done.stderr
        assert f"lwc loadtest --worker 127.0.0.1:{port}" in done.stderr
        _, said = one.communicate(timeout=300)
        assert one.returncode != 0
        # The latter where this machine is so busy that the worker came too late as well.
        assert "ended its test before it was measured" in said or "took this worker" in said


@pytest.mark.grid
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_dies_in_the_test_ends_it_with_an_error(tmp_path: Path, by: signal.Signals) -> None:
    port = free_port()
    with fake_server(tmp_path) as urls, worker(tmp_path / "one", port) as one:

        def end_it() -> None:
            deadline = time.monotonic() + 240
            while answered(urls["http"]) < 10 and time.monotonic() < deadline:
                time.sleep(0.1)
            one.send_signal(by)

        ending = threading.Thread(target=end_it)
        ending.start()
        done = master(tmp_path, port, 1, "--url", urls["http"], "--seconds", "250")
        ending.join()
    assert done.returncode == 1
    assert "only 0 of 1 workers are left" in done.stderr


@pytest.mark.grid
def test_a_worker_comes_back_for_all_of_a_series(tmp_path: Path) -> None:
    port = free_port()
    with fake_server(tmp_path) as urls, worker(tmp_path / "one", port) as one:
        endpoint = connect(urls["http"], "http", "m")
        for number, more in enumerate((True, False)):
            load = Load(2, 1.0, 0.2, elsewhere=Elsewhere(1, port=port, wait_s=240.0, series=more), rate=20.0 + number)
            result = run_loadtest(endpoint, load, SAMPLES, tmp_path / str(number), 1)
            assert result["target_rps"] == 20.0 + number
            assert result["errors"] == 0
        _, said = one.communicate(timeout=240)
    assert one.returncode == 0, said
    assert "sent for 2 load tests" in said


@contextmanager
def answering(answer: dict[str, Any]) -> Iterator[str]:
    """The address of a master that has only this to say."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as line:
        line.linger = 0
        port = line.bind_to_random_port("tcp://127.0.0.1")
        end = threading.Event()

        def answer_all() -> None:
            while not end.is_set():
                if line.poll(50):
                    name, asked = line.recv_multipart()
                    assert msgpack.unpackb(asked)[0] == "settings"
                    line.send_multipart([name, msgpack.packb(("settings", answer, None))])

        thread = threading.Thread(target=answer_all)
        thread.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            end.set()
            thread.join()


def test_a_worker_says_why_no_master_takes_it() -> None:
    from lwc import __version__

    with pytest.raises(ServingError, match=r"took this worker in 0\.5 s: nothing answers"):
        fetch_settings(f"127.0.0.1:{free_port()}", 0.5)
    full = answering({"version": __version__, "settings": None})
    with full as address, pytest.raises(ServingError, match="it has all the workers it wants"):
        fetch_settings(address, 0.5)
    with answering({"version": "0.0", "settings": {}}) as address, pytest.raises(RecipeError, match=r"runs lwc 0\.0"):
        fetch_settings(address, 5.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--worker", "127.0.0.1:5557", "--users", "3", "--model", "m"], "--worker with model, users"),
        (["--model", "m"], "needs SAMPLES and --model"),
        (["--worker", "nowhere"], "is not the address of a server"),
    ],
)
def test_what_does_not_go_together_is_refused(options: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["loadtest", *options])
    assert isinstance(done.exception, RecipeError)
    assert words in str(done.exception)


def test_workers_here_and_elsewhere_are_not_mixed_and_users_must_suffice() -> None:
    with pytest.raises(RecipeError, match="not both"):
        Load(users=4, seconds=1.0, warmup_seconds=0.0, workers=2, elsewhere=Elsewhere(2))
    with pytest.raises(RecipeError, match="3 workers cannot share 2 users"):
        Load(users=2, seconds=1.0, warmup_seconds=0.0, elsewhere=Elsewhere(3))
    with pytest.raises(RecipeError, match="cannot wait 60 s at port 0"):
        Elsewhere(1, port=0)
