"""Several processes do what one does: training, scoring, the whole line; and they end together."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shared_work

from lwc.errors import INTERRUPTED, LwcError
from lwc.workers import launch

SCRIPT = Path(__file__).with_name("shared_work.py")


def by_two(job: str, folder: Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    assert launch([sys.executable, str(SCRIPT), job, str(folder)], 2) == 0
    return json.loads((folder / f"{job}.json").read_text())


def by_one(job: str, folder: Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    shared_work.run(job, folder)
    return json.loads((folder / f"{job}.json").read_text())


def losses(found: Any) -> np.ndarray:
    return np.array([entry["train_loss"] for entry in found["history"]])


@pytest.mark.parametrize("job", ["train", "train_few"])
def test_two_processes_train_as_one(tmp_path: Path, job: str) -> None:
    one, two = by_one(job, tmp_path / "one"), by_two(job, tmp_path / "two")
    assert losses(one)[-5:].mean() < 0.7 * losses(one)[:5].mean(), "there is something to compare"
    np.testing.assert_allclose(losses(two), losses(one), rtol=0, atol=1e-4)
    np.testing.assert_allclose(
        [entry["score"] for entry in two["history"]], [entry["score"] for entry in one["history"]], rtol=0, atol=1e-4
    )


def test_a_killed_process_ends_the_run_and_it_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(LwcError, match="worker 1 of 2 was ended by SIGKILL") as ended:
        by_two("killed", tmp_path / "cut")
    assert ended.value.exit_code == INTERRUPTED
    resumed, whole = by_two("killed", tmp_path / "cut"), by_two("train_with_dropout", tmp_path / "whole")
    assert resumed["resumed_from"] == 20
    assert resumed["history"] == whole["history"], "dropout too goes on where it was, in both processes"
    assert resumed["weights"] == whole["weights"]
