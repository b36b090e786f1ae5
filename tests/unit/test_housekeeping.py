"""`lwc store`: what is there, who uses it, and that pruning takes nothing that a run needs."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lwc.cli.main import app
from lwc.core.errors import LwcError
from lwc.core.store import RECORD, STORE_FOLDER, Store, key_of, write_json
from lwc.pipeline.housekeeping import contents, prune, unneeded


def made(runs: Path, stage: str, number: int, size: int = 1000) -> dict[str, object]:
    """A finished result; what it was made from."""
    ingredients: dict[str, object] = {"stage": stage, "number": number}
    store = Store(runs / STORE_FOLDER)
    with store.build(stage, key_of(ingredients)) as (out, _):
        (out / "model.bin").write_bytes(b"x" * size)
    store.commit(stage, key_of(ingredients), ingredients, 1.0)
    return ingredients


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs that share a train result, and an older train result that none uses any more."""
    shared, own, old = made(tmp_path, "train", 1), made(tmp_path, "score", 2), made(tmp_path, "train", 3, 5000)
    del old
    for name, record in (("one", {"train": shared, "score": own}), ("two", {"train": shared})):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / RECORD, record)
    with Store(tmp_path / STORE_FOLDER).build("recover", "k" * 64) as (out, scratch):
        (out / "part").write_bytes(b"x")
        (scratch / "checkpoint").write_bytes(b"x" * 70)
    return tmp_path


def test_it_says_who_uses_what(runs: Path) -> None:
    users = {(one.stage, one.runs) for one in contents(runs)}
    assert users == {("train", ("one", "two")), ("train", ()), ("score", ("one",)), ("work", ())}


def test_pruning_takes_what_no_run_uses_and_nothing_else(runs: Path) -> None:
    going = unneeded(contents(runs), 0, unfinished=False)
    assert [(one.stage, one.runs) for one in going] == [("train", ())]
    assert prune(going) > 5000
    left = contents(runs)
    assert {(one.stage, one.runs) for one in left} == {
        ("train", ("one", "two")), ("score", ("one",)), ("work", ()),
    }  # fmt: skip
    for one in left:
        if one.stage != "work":
            found = Store(runs / STORE_FOLDER)
            key = json.loads((one.path / "manifest.json").read_text())["key"]
            assert found.find(one.stage, key) is not None


def test_young_and_unfinished_results_stay_unless_asked(runs: Path) -> None:
    found = contents(runs)
    assert unneeded(found, 1, unfinished=True) == []
    later = found[0].written + 2 * 86_400
    assert {one.stage for one in unneeded(found, 1, unfinished=True, now=later)} == {"train", "work"}


def test_what_a_run_works_on_is_held_and_never_pruned(runs: Path) -> None:
    with (runs / STORE_FOLDER / "locks" / f"recover-{'k' * 24}").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (work,) = [one for one in contents(runs) if one.stage == "work"]
        assert work.held
        assert prune([work]) == 0
        assert work.path.is_dir()
    assert prune([work]) == 71


def test_a_damaged_record_stops_it(runs: Path) -> None:
    (runs / "one" / RECORD).write_text("{")
    with pytest.raises(LwcError):
        contents(runs)


def test_the_commands(runs: Path) -> None:
    listed = CliRunner().invoke(app, ["store", "ls", "--runs", str(runs)])
    assert listed.exit_code == 0, listed.output
    assert "one, two" in listed.output
    assert "no run" in listed.output
    as_json = json.loads(CliRunner().invoke(app, ["store", "ls", "--runs", str(runs), "--json"]).stdout)
    assert len(as_json) == 4
    dry = CliRunner().invoke(app, ["store", "prune", "--runs", str(runs), "--dry-run"])
    assert "would free" in dry.output
    assert len(contents(runs)) == 4
    done = CliRunner().invoke(app, ["store", "prune", "--runs", str(runs)])
    assert done.exit_code == 0, done.output
    assert len(contents(runs)) == 3
    nowhere = CliRunner().invoke(app, ["store", "ls", "--runs", str(runs / "nothing")])
    assert isinstance(nowhere.exception, LwcError)
