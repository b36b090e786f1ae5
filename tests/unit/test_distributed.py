"""Several processes do what one does: training, scoring, the whole line; and they end together."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shared_work

from lwc import distributed
from lwc.errors import INTERRUPTED, LwcError
from lwc.workers import launch

SCRIPT = Path(__file__).with_name("shared_work.py")


def read(folder: Path, job: str) -> Any:
    return json.loads((folder / f"{job}.json").read_text())


def in_two(folder: Path, *jobs: str) -> int:
    folder.mkdir(exist_ok=True)
    return launch([sys.executable, str(SCRIPT), str(folder), *jobs], 2)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote, one job after the other."""
    folder = tmp_path_factory.mktemp("two")
    assert in_two(folder, "gather", "train", "train_few", "recover", "score", "train_with_dropout") == 0
    return folder


def by_one(job: str, folder: Path) -> Any:
    shared_work.run(job, folder)
    return read(folder, job)


def losses(found: Any) -> np.ndarray:
    return np.array([entry["train_loss"] for entry in found["history"]])


@pytest.mark.parametrize("job", ["train", "train_few", "recover"])
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


def test_a_killed_process_ends_the_run_and_it_goes_on_from_the_checkpoint(two: Path, tmp_path: Path) -> None:
    with pytest.raises(LwcError, match="worker 1 of 2 was ended by SIGKILL") as ended:
        in_two(tmp_path, "killed")
    assert ended.value.exit_code == INTERRUPTED
    assert in_two(tmp_path, "killed") == 0
    resumed, whole = read(tmp_path, "killed"), read(two, "train_with_dropout")
    assert resumed["resumed_from"] == 20
    assert resumed["history"] == whole["history"], "dropout too goes on where it was, in both processes"
    assert resumed["weights"] == whole["weights"]
