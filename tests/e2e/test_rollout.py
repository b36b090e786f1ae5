"""Rollouts on a real server under load: no request fails, and every answer is that of one version, whole."""

from __future__ import annotations

import collections
import csv
import http.client
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import readme_commands
from tiny_repository import tiny_repository

from lwc.core.errors import GATE_FAILED, USAGE, RecipeError, ServingError
from lwc.serving.rollout.canary import Limits
from lwc.serving.rollout.run import Target, deploy, rollback
from lwc.serving.triton import server as server_module
from lwc.serving.triton.embedded import RESTRICTED_HEADER
from lwc.serving.triton.readme import curl_commands
from lwc.serving.triton.server import TritonServer

pytestmark = pytest.mark.serving

KEY = "a key of this test"
ROOT = Path(__file__).resolve().parents[2]
LABELS = [(f"great{number}", "other") for number in range(6)]


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six versions; each has a label and scores of its own."""
    folder = tmp_path_factory.mktemp("builds")
    return [
        tiny_repository(folder / f"r{number}", labels=labels, bias=2.0 + number)
        for number, labels in enumerate(LABELS)
    ]  # fmt: skip


Answer = tuple[str, str, float]


class Load:
    """Threads that ask ``reviews`` all the time; ``answers`` by (version, label, score), ``failures`` by words."""

    def __init__(self, server: TritonServer, threads: int = 4) -> None:
        self.url = server.http_url
        self.answers: collections.Counter[Answer] = collections.Counter()
        self.failures: collections.Counter[str] = collections.Counter()
        self._lock, self._end = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._ask_on) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.wait(20)
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def wait(self, more: int) -> None:
        """Until that many further requests were answered or failed."""
        count = self.total + more
        deadline = time.monotonic() + 240
        while self.total < count and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.total >= count, "requests hang"

    def versions_of_the_next(self, count: int) -> set[str]:
        """Who answers requests from now on."""
        self.wait(len(self._threads))  # those under way
        before = self.answers.copy()
        self.wait(count)
        return {answer[0] for answer, number in self.answers.items() if number > before[answer]}

    @property
    def total(self) -> int:
        return sum(self.answers.values()) + sum(self.failures.values())

    def _ask_on(self) -> None:
        connection = http.client.HTTPConnection(self.url, timeout=30)
        while not self._end.is_set():
            try:
                answer: Answer | str = ask(connection)
            except (OSError, http.client.HTTPException) as error:
                answer = repr(error)
                connection.close()
            with self._lock:
                if isinstance(answer, str):
                    self.failures[answer] += 1
                else:
                    self.answers[answer] += 1
        connection.close()


def ask(connection: http.client.HTTPConnection, text: str = "good") -> Answer | str:
    """(version, label, first score), or the words of a refusal."""
    entry = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": [text]}
    connection.request("POST", "/v2/models/reviews/infer", json.dumps({"inputs": [entry]}))
    answer = connection.getresponse()
    content = json.loads(answer.read())
    if answer.status != 200:
        return f"{answer.status} {content}"
    outputs = {output["name"]: output["data"] for output in content["outputs"]}
    return content["model_version"], outputs["label"][0], round(outputs["scores"][0], 4)


def ask_once(server: TritonServer) -> Answer | str:
    connection = http.client.HTTPConnection(server.http_url, timeout=30)
    try:
        return ask(connection)
    finally:
        connection.close()


def loaded(server: TritonServer) -> set[str]:
    """Models in the server's memory."""
    request = urllib.request.Request(f"http://{server.http_url}/v2/repository/index", b"{}", {RESTRICTED_HEADER: KEY})
    with urllib.request.urlopen(request) as answer:
        return {entry["name"] for entry in json.load(answer) if entry.get("state", "UNAVAILABLE") != "UNAVAILABLE"}


@pytest.fixture
def server(tmp_path: Path, builds: list[Path]) -> Iterator[TritonServer]:
    """A server that may be told what to load, on a folder that holds version 1 as it was made."""
    folder = tmp_path / "models"
    shutil.copytree(builds[0], folder)
    with TritonServer(folder, control=True, key=KEY) as running:
        yield running


def target(server: TritonServer, **changes: Any) -> Target:
    return Target(server.repository, server.http_url, KEY, **changes)


def samples(folder: Path, label: str) -> Path:
    """Twelve texts with one label."""
    path = folder / "samples.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "label"])
        writer.writerows([number, f"good {number}", label] for number in range(12))
    return path


def expected(number: int) -> tuple[str, float]:
    """Label and first score of build ``number`` for a text of one word."""
    return LABELS[number][0], round(1 / (1 + math.exp(-(1.0 + number))), 4)


def test_five_rollouts_and_a_rollback_under_load_fail_no_request(server: TritonServer, builds: list[Path]) -> None:
    with Load(server) as load:
        for number, build in enumerate(builds[1:], 2):
            assert deploy(build, target(server))["version"] == number
            assert load.versions_of_the_next(40) == {str(number)}
        assert rollback(target(server))["version"] == 5
        assert load.versions_of_the_next(40) == {"5"}
    assert not load.failures
    # Version 1 + n is build n: version, label and scores always belong together.
    assert set(load.answers) == {(str(number + 1), *expected(number)) for number in range(6)}
    assert loaded(server) == {"reviews", "reviews-v5", "reviews_tokens-v5"}
    assert server.dead_instances == []


def test_a_failed_check_or_load_leaves_everything_as_it_was(
    server: TritonServer, builds: list[Path], tmp_path: Path
) -> None:
    def files() -> list[str]:
        return sorted(str(p) for p in server.repository.rglob("*") if "__pycache__" not in p.parts)

    deploy(builds[1], target(server))
    before, models = files(), loaded(server)
    broken = tmp_path / "broken"
    shutil.copytree(builds[3], broken)
    script = broken / "reviews" / "1" / "model.py"
    script.write_text(script.read_text() + "\nraise ValueError('broken on purpose')\n")  # only loading shows it
    failing = tmp_path / "failing"
    shutil.copytree(builds[3], failing)
    code = failing / "reviews" / "1" / "model.py"
    code.write_text(code.read_text().replace("logits = self.classify(texts)", "raise RuntimeError('fails on purpose')"))
    theirs, mine = samples(tmp_path, "great2"), tmp_path / "mine.csv"
    mine.write_text(theirs.read_text().replace("great2", "great3"))
    cases: list[tuple[Path, Path | None, Limits, str]] = [
        (builds[2], theirs, Limits(min_agreement=0.9), "0.0000 of the answers"),
        (builds[2], mine, Limits(min_accuracy=0.9), "accuracy 0.0000"),
        (builds[2], theirs, Limits(max_latency_ratio=0.01), "median latency"),
        (broken, None, Limits(), "broken on purpose"),
        (failing, theirs, Limits(), "12 of 12 texts failed: .*fails on purpose"),
    ]
    with Load(server, threads=2) as load:
        for build, texts, limits, words in cases:
            with pytest.raises(ServingError, match=words) as caught:
                deploy(build, target(server), texts, limits)
            assert caught.value.exit_code == GATE_FAILED
            assert files() == before
            assert loaded(server) == models
        load.wait(20)
        # The server is well: what passes its check goes live.
        result = deploy(builds[2], target(server), theirs, Limits(min_accuracy=1.0, max_latency_ratio=1e6))
        load.wait(20)
    assert result["check"]["accuracy"] == 1.0
    assert result["check"]["agreement"] == 0.0
    assert result["check"]["n"] == 12
    assert not load.failures
    assert {answer[1] for answer in load.answers} == {"great1", "great2"}


def test_a_renamed_recipe_takes_over_the_live_name_and_titles_pass_the_switch(
    server: TritonServer, builds: list[Path], tmp_path: Path
) -> None:
    renamed = tiny_repository(tmp_path / "next", "next", LABELS[1], bias=3.0, fields=("title", "body"))
    texts, said = samples(tmp_path, "great1"), list[str]()
    titled = tmp_path / "titled.csv"
    titled.write_text("title,text,label\ngood,it works,great1\n")
    with pytest.raises(RecipeError, match="the live version of reviews takes none"):
        deploy(renamed, target(server), titled, name="reviews")
    with Load(server, threads=2) as load:
        result = deploy(renamed, target(server), texts, Limits(min_accuracy=1.0), name="reviews")
        load.wait(20)
    assert not load.failures
    assert (result["model"], result["version"], result["check"]["accuracy"]) == ("reviews", 2, 1.0)
    assert loaded(server) == {"reviews", "reviews-v2", "reviews_tokens-v2"}
    assert ask_once(server) == ("2", *expected(1)[:1], round(1 / (1 + math.exp(-2.0)), 4))
    (command,) = curl_commands(server.repository, server.http_url)
    assert "title" in command
    # Two words of the title, and three and a full stop of the text: 3 − 6.
    assert readme_commands.ask(command)["scores"][0] == pytest.approx(1 / (1 + math.exp(3.0)), abs=1e-4)
    again = deploy(renamed, target(server), titled, Limits(min_accuracy=1.0), said.append, "reviews")
    assert (again["version"], again["check"]) == (2, None)
    assert "version 2 of reviews has these files already: its samples and limits are not checked again" in said
    with pytest.raises(RecipeError, match="the new one does not"):
        deploy(builds[2], target(server))
    assert rollback(target(server))["version"] == 1
    assert ask_once(server) == ("1", *expected(0))


def lwc(*arguments: str | Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "LWC_ADMIN_KEY": KEY, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "lwc.cli.main", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments: str | Path) -> tuple[int, str, str]:
    process = lwc(*arguments)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def test_the_commands_from_an_empty_folder_on(builds: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    with TritonServer(folder, control=True, key=KEY) as server:
        to = ("--to", folder, "--url", server.http_url, "--json")
        code, out, err = run("deploy", builds[0], *to, "--samples", samples(tmp_path, "nothing"), "--min-accuracy", "1")
        assert code == GATE_FAILED, err
        assert "accuracy 0.0000" in err
        assert [path for path in folder.iterdir() if path.is_dir()] == []
        assert loaded(server) == set()
        code, out, err = run("deploy", builds[0], *to, "--samples", samples(tmp_path, "great0"), "--min-accuracy", "1")
        assert code == 0, err
        assert json.loads(out)["check"]["accuracy"] == 1.0
        # The number of an attempt that failed is not used again.
        assert ask_once(server) == ("2", *expected(0))
        assert run("deploy", builds[1], *to)[0] == 0
        assert ask_once(server) == ("3", *expected(1))
        code, out, err = run("rollback", folder, "--url", server.http_url, "--json")
        assert (code, json.loads(out)["version"]) == (0, 2), err
        assert ask_once(server) == ("2", *expected(0))
    # The next start takes the same version from the files.
    with TritonServer(folder) as server:
        assert ask_once(server) == ("2", *expected(0))


def test_a_deploy_killed_under_load_fails_no_request_and_can_be_run_again(
    server: TritonServer, builds: list[Path]
) -> None:
    killed = 0
    with Load(server, threads=2) as load:
        for number, words in enumerate(["loading", "loading", ""], 1):
            process = lwc("deploy", builds[number], "--to", server.repository, "--url", server.http_url)
            assert process.stderr is not None
            if words:  # it says so when its models are in place and the server is about to load them
                assert any(words in line for line in iter(process.stderr.readline, ""))
            # At once, a little later, and in the third round before it says anything.
            time.sleep(0.2 * (number - 1))
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
            process.communicate()
            deploy(builds[number], target(server))
            load.wait(20)
            assert ask_once(server)[1:] == expected(number)
    assert killed >= 2
    assert not load.failures
    assert {answer[1:] for answer in load.answers} == {expected(number) for number in range(4)}


@pytest.mark.grid
def test_a_server_that_polls_rolls_too(builds: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = server_module.safe_flags
    polls = ["--model-control-mode=poll", "--repository-poll-secs=1"]

    def flags(key: str, control: bool = False) -> list[str]:
        return [*polls, *(flag for flag in original(key, control) if not flag.startswith("--model-control-mode"))]

    monkeypatch.setattr(server_module, "safe_flags", flags)
    folder = tmp_path / "models"
    shutil.copytree(builds[0], folder)
    with TritonServer(folder, key=KEY) as server, Load(server, threads=2) as load:
        deploy(builds[1], target(server))
        load.wait(40)
        rollback(target(server))
        load.wait(40)
        deploy(builds[2], target(server))
        load.wait(40)
        assert ask_once(server) == ("3", *expected(2))
    assert not load.failures
    assert set(load.answers) == {(str(number + 1), *expected(number)) for number in range(3)}


def test_a_server_that_does_not_load_on_request_is_told_before_anything_changes(
    builds: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(builds[0], folder)
    with TritonServer(folder, key=KEY) as server:
        before = sorted(folder.rglob("*.pbtxt"))
        for key, words in (("", "403"), ("wrong", "403")):
            with pytest.raises(ServingError, match=words) as caught:
                deploy(builds[1], Target(folder, server.http_url, key))
            assert caught.value.exit_code == USAGE
        with pytest.raises(ServingError, match="not ready after") as caught:
            deploy(builds[1], target(server, seconds=2.0))
        assert "--control" in caught.value.hint
        assert sorted(path for path in folder.rglob("*.pbtxt") if path.parent.name != "1") == before
        assert ask_once(server) == ("1", *expected(0))
    with pytest.raises(ServingError, match="nothing that speaks"):
        deploy(builds[1], Target(folder, "127.0.0.1:9", KEY))
