"""`lwc push` against a local server that answers as the hub does, and every way in which it can fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_stand_in import TOKEN, hub
from planted_runs import make_run, wrong

WEIGHTS = bytes(range(256)) * 64


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return finished(tmp_path, *range(10))


def finished(place: Path, *errors: int) -> Path:
    folder = make_run(place / "runs", "mine", wrong(*errors))
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "README.md").write_text("---\ntags: [lwc]\n---\n\n# mine\n")
    (folder / "model" / "model.safetensors").write_bytes(WEIGHTS)
    return folder


def push(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the library reads its settings when it is imported. Weights go the way without Xet."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    home = str(arguments[0])
    return subprocess.run(
        [sys.executable, "-m", "lwc", "push", *map(str, arguments)],
        env={**own, "HF_HOME": home, "HF_HUB_DISABLE_XET": "1", **environment}, capture_output=True, text=True,
        check=False, timeout=100,
    )  # fmt: skip


def test_the_folder_arrives_with_its_card(run: Path) -> None:
    with hub() as found:
        done = push(run, "me/smaller", "--private", HF_TOKEN=TOKEN, HF_ENDPOINT=found.url)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == f"{found.url}/me/smaller"
    assert found.private == {"me/smaller"}
    assert found.files == {path.name: path.read_bytes() for path in (run / "model").iterdir()}
    assert found.message == "lwc: mine"
    assert "warning" not in done.stderr


def test_a_run_that_failed_is_pushed_with_a_warning_to_the_endpoint_of_the_option(tmp_path: Path) -> None:
    failed = finished(tmp_path, *range(300))
    with hub() as found:
        done = push(failed, "me/worse", "--endpoint", found.url, HF_TOKEN=TOKEN, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert found.public == {"me/worse"}
    assert "did not pass its gates" in done.stderr


def test_nothing_private_goes_to_a_public_repository(run: Path) -> None:
    with hub(public={"me/known"}) as found:
        done = push(run, "me/known", "--private", HF_TOKEN=TOKEN, HF_ENDPOINT=found.url)
    assert done.returncode == 2
    assert "me/known exists and is public" in done.stderr
    assert not found.files


@pytest.mark.parametrize(
    ("name", "environment", "code", "said"),
    [
        ("me/x", {}, 2, "no Hugging Face token"),
        ("me/x", {"HF_TOKEN": "hf_another"}, 2, "the hub refused me/x (401)"),
        ("me/x/y", {"HF_TOKEN": TOKEN}, 2, "me/x/y: "),
        ("me/x", {"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1"}, 4, "the hub cannot be reached"),
        ("me/x", {"HF_TOKEN": TOKEN, "HF_ENDPOINT": "http://127.0.0.1:9"}, 4, "the hub cannot be reached"),
    ],
    ids=["no token", "wrong token", "wrong name", "offline", "unreachable"],
)
def test_one_clear_error(run: Path, name: str, environment: dict[str, str], code: int, said: str) -> None:
    with hub() as found:
        done = push(run, name, **{"HF_ENDPOINT": found.url, **environment})
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    assert said in lines[0]
    assert lines[1].startswith("  do: ")
    assert not found.files


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    bare = make_run(tmp_path, "bare", wrong(1))
    for folder, said in ((bare, "no model folder with a model card"), (tmp_path / "nowhere", "no such folder")):
        done = push(folder, "me/x", HF_TOKEN=TOKEN)
        assert done.returncode == 2
        assert said in done.stderr
