"""Several processes do what one does: training, scoring, the whole line; and they end together."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shared_work

from lwc.core import distributed
from lwc.core.errors import BUG, INTERRUPTED, LwcError
from lwc.core.launcher import launch

SCRIPT = Path(shared_work.__file__)


def read(folder: Path, job: str) -> Any:
    return json.loads((folder / f"{job}.json").read_text())


def in_two(folder: Path, *jobs: str) -> int:
    folder.mkdir(exist_ok=True)
    return launch([sys.executable, str(SCRIPT), str(folder), *jobs], 2)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote, one job after the other."""
    folder = tmp_path_factory.mktemp("two")
    assert in_two(folder, "gather", "train", "train_few", "recover", "next_item", "score", "train_with_dropout") == 0
    return folder


def by_one(job: str, folder: Path) -> Any:
    shared_work.run(job, folder)
    return read(folder, job)


def losses(found: Any) -> np.ndarray:
    return np.array([entry["train_loss"] for entry in found["history"]])


@pytest.mark.slow
@pytest.mark.parametrize("job", ["train", "train_few", "recover", "next_item"])
def test_two_processes_train_as_one(two: Path, tmp_path: Path, job: str) -> None:
    found, expected = read(two, job), by_one(job, tmp_path)
    assert losses(expected)[-5:].mean() < 0.7 * losses(expected)[:5].mean(), "there is something to compare"
    np.testing.assert_allclose(losses(found), losses(expected), rtol=0, atol=1e-4)
    scores = [[entry["score"] for entry in one["history"]] for one in (found, expected)]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-4)


def numbers(value: Any, path: str = "") -> dict[str, float]:
    """Every number of a nested result by its path, but how long things took."""
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: one for name, part in inner for key, one in numbers(part, f"{path}.{name}").items()}
    return {path: value} if isinstance(value, int | float) and not path.endswith(".seconds") else {}


@pytest.mark.slow
def test_two_processes_score_as_one(two: Path, tmp_path: Path) -> None:
    found, expected = numbers(read(two, "score")), numbers(by_one("score", tmp_path))
    assert found.keys() == expected.keys()
    assert len(expected) > 300
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-12), name


def test_what_processes_tell_each_other(two: Path) -> None:
    assert read(two, "gather") == {
        "spread": [0, 1, 4, 9, 16], "broadcast": 0, "from_main": [0, 1], "gather": [0, 1], "total": 1.0
    }  # fmt: skip


def test_a_process_whose_work_failed_keeps_nothing_of_the_group(tmp_path: Path) -> None:
    """Threads of a group that a wrapped model keeps alive abort the process when it exits, whatever its exit code."""
    assert in_two(tmp_path, "left") == 0
    assert read(tmp_path, "left") == {"left": 0, "processes": 1}


def test_rows_are_shared_whole_and_weighted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rows in (list(range(7)), list(range(3)), [4, 2]):
        mean, seen = 0.0, []
        for rank in range(3):
            monkeypatch.setenv("RANK", str(rank))
            mine, weight = distributed.share(rows)
            mean += weight * float(np.mean(mine))
            seen += mine
        assert mean == pytest.approx(np.mean(rows))
        assert set(seen) == set(rows)


@pytest.mark.slow
@pytest.mark.grid
def test_a_killed_process_ends_the_run_and_it_goes_on_from_the_checkpoint(two: Path, tmp_path: Path) -> None:
    with pytest.raises(LwcError, match="worker 1 of 2 was ended by SIGKILL") as ended:
        in_two(tmp_path, "killed")
    assert ended.value.exit_code == INTERRUPTED
    assert in_two(tmp_path, "killed") == 0
    resumed, whole = read(tmp_path, "killed"), read(two, "train_with_dropout")
    assert resumed["resumed_from"] == 20
    assert resumed["history"] == whole["history"], "dropout too goes on where it was, in both processes"
    assert resumed["weights"] == whole["weights"]


def end(*codes: str) -> list[str]:
    """A command whose processes each run one line of Python, without anything heavy."""
    return [sys.executable, "-c", f"import os, sys, time\nexec({codes!r}[int(os.environ['RANK'])])"]


def test_the_exit_code_of_the_main_process_is_that_of_the_run() -> None:
    assert launch(end("sys.exit(0)", "sys.exit(0)"), 2) == 0
    assert launch(end("time.sleep(0.5); sys.exit(3)", "sys.exit(0)"), 2) == 3
    assert launch(end("sys.exit(2)", "sys.exit(130)"), 2) == 2, "who lost another process is not the cause"


def test_a_process_that_fails_alone_is_heard_and_the_others_are_stopped(tmp_path: Path) -> None:
    alive = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with pytest.raises(LwcError, match="worker 1 of 2 failed") as ended:
        launch(end(alive, "time.sleep(1); print('error: no GPU', file=sys.stderr); sys.exit(4)"), 2)
    assert "error: no GPU" in ended.value.message
    assert ended.value.exit_code == 4
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()


def test_a_crash_is_a_bug_and_an_interrupt_is_not() -> None:
    crash = "print('terminate called', file=sys.stderr, flush=True); os.kill(os.getpid(), 11)"
    with pytest.raises(LwcError, match=r"SIGSEGV.*\n.*terminate called") as ended:
        launch(end("sys.exit(130)", crash), 2)
    assert ended.value.exit_code == BUG
    with pytest.raises(KeyboardInterrupt):
        launch(end("sys.exit(130)", "sys.exit(130)"), 2)


def test_processes_share_the_cores_and_meet_on_this_machine_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("lwc.core.launcher.cpu_limit", lambda: 8)
    told = "open({!r} + os.environ['RANK'], 'w').write(repr(dict(os.environ)))".format(str(tmp_path / "env"))
    assert launch(end(told, told), 2) == 0
    one, two = (ast.literal_eval((tmp_path / f"env{rank}").read_text()) for rank in (0, 1))
    assert one["OMP_NUM_THREADS"] == "4"
    assert one["GLOO_SOCKET_IFNAME"] == "lo"
    assert one[distributed.RENDEZVOUS] == two[distributed.RENDEZVOUS]
    assert not Path(one[distributed.RENDEZVOUS]).parent.exists(), "nothing is left behind"
