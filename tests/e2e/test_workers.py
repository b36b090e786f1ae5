"""`lwc run --workers 2` as a user runs it: the result of one process, and an end that leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grid import kept

# Dropout is drawn by each process for itself, so that only without it two processes do what one does.
RECIPE = """\
schema_version: 1
name: shared
data:
  source: {kind: table, paths: [reviews.csv], columns: {body: review, rating: stars}}
  labels: {scheme: binary}
  calibration: 32
model: {kind: config, blocks: 4, hidden: 16, heads: 2, vocab_size: 200, max_length: 16, dropout: 0.0}
train: {epochs: 4, batch_size: 16, learning_rate: 3e-3, checkpoint_every: 5, precision: fp32}
recover: {epochs: 2, batch_size: 16, learning_rate: 1e-3, checkpoint_every: 5, precision: fp32}
score: {batch_size: 8}
target: {ratio: 2x, of: blocks}
evaluate: {bootstrap: 200}
"""
WORDS = {1: ("bad", "broken", "awful", "refund", "never"), 5: ("good", "love", "great", "works", "again")}
RUN = ("run", "recipe.yaml", "--until", "evaluate")

pytestmark = pytest.mark.slow


def folder_with_reviews(folder: Path) -> Path:
    random = np.random.default_rng(0)
    rows = []
    for number in range(300):
        stars = (1, 5)[number % 2]
        words = [*random.choice(WORDS[stars], size=5), *random.choice(WORDS[6 - stars], size=2), f"item{number}"]
        rows.append(f"{' '.join(random.permutation(words))},{stars}")
    (folder / "reviews.csv").write_text("\n".join(["review,stars", *rows]), encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


def lwc(folder: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, "-m", "lwc", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500, check=False)


def result(folder: Path, stage: str, name: str) -> Any:
    (path,) = (folder / "runs" / ".store" / stage).glob(f"*/{name}")
    return json.loads(path.read_text())


def numbers(value: Any, path: str = "") -> dict[str, float]:
    """Every number of a nested result by its path, but how long things took."""
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: one for name, part in inner for key, one in numbers(part, f"{path}.{name}").items()}
    return {path: value} if isinstance(value, int | float) and not path.endswith(".seconds") else {}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where two processes ran the line."""
    folder = folder_with_reviews(tmp_path_factory.mktemp("shared"))
    done = lwc(folder, *RUN, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("✓ train") == 1, "one process speaks"
    assert done.stdout == ""
    return folder


def test_the_line_gives_what_one_process_gives(shared: Path, tmp_path: Path) -> None:
    done = lwc(folder_with_reviews(tmp_path), *RUN)
    assert done.returncode == 0, done.stderr
    files = {"train": "metrics.json", "score": "importance.json", "select": "selection.json",
             "recover": "metrics.json", "evaluate": "evaluation.json"}  # fmt: skip
    for stage, name in files.items():
        one, two = (numbers(result(folder, stage, name)) for folder in (tmp_path, shared))
        assert one.keys() == two.keys(), stage
        for path, value in one.items():
            assert two[path] == pytest.approx(value, rel=1e-3, abs=1e-4), f"{stage}{path}"


LAUNCHERS = {
    "torchrun": ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    "accelerate": ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
}


@pytest.mark.parametrize("launcher", kept(LAUNCHERS, ["torchrun"]))
def test_other_launchers_find_the_results_and_only_the_main_process_speaks(shared: Path, launcher: str) -> None:
    done = lwc(shared, *RUN, launcher=LAUNCHERS[launcher])
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("reused") == 7


def workers_of(process: int) -> dict[str, int]:
    """RANK → process id of the processes that this one started."""
    found = {}
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        entries = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        found.update({entry[5:].decode(): int(child) for entry in entries if entry.startswith(b"RANK=")})
    return found


@pytest.mark.parametrize("victim", kept(["0", "1", "launcher"], ["1"]))
def test_a_killed_process_ends_all_and_the_same_command_goes_on(shared: Path, tmp_path: Path, victim: str) -> None:
    folder = folder_with_reviews(tmp_path)
    command = [sys.executable, "-m", "lwc", *RUN, "--workers", "2"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    checkpoints = folder / "runs" / ".store" / "work"
    deadline = time.monotonic() + 300
    while not list(checkpoints.glob("train-*/scratch/checkpoints/step-*")) and time.monotonic() < deadline:
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.002)
    workers = workers_of(process.pid)
    assert sorted(workers) == ["0", "1"]
    os.kill(workers.get(victim, process.pid), signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    for worker in workers.values():
        while Path(f"/proc/{worker}").exists():
            assert time.monotonic() < deadline, f"a process stayed behind: {said}"
            time.sleep(0.05)
    if victim != "launcher":
        assert process.returncode == 130
        assert said.count("error:") == 1, said
        assert f"worker {victim} of 2 was ended by SIGKILL" in said
        assert "Traceback" not in said
    assert not list((folder / "runs" / ".store").glob("train/*/manifest.json"))
    again = lwc(folder, *RUN, "--workers", "2")
    assert again.returncode == 0, again.stderr
    found, expected = (result(one, "train", "metrics.json") for one in (folder, shared))
    assert found["resumed_from"] >= 5
    assert found["history"] == expected["history"]


@pytest.mark.grid
def test_an_error_is_told_once_with_its_own_code(tmp_path: Path) -> None:
    folder = folder_with_reviews(tmp_path)
    (folder / "reviews.csv").write_text("review,stars\nonly one,5\n", encoding="utf-8")
    done = lwc(folder, *RUN, "--workers", "2")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error:") == 1, done.stderr
    assert "worker" not in done.stderr
