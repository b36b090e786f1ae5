"""What a person is told of a failure that no code of ours raised, and with which exit code."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from typer.testing import CliRunner

from lwc.cli import main as cli
from lwc.core.errors import BUG, USAGE, MissingDependency


def _weights(target: str) -> None:
    save_file({"weight": np.zeros(4, dtype=np.float32)}, target)


def _tokenizer(target: str) -> None:
    Tokenizer(WordLevel({"a": 0}, unk_token="a")).save(target)


@pytest.mark.parametrize("write", [_weights, _tokenizer])
@pytest.mark.parametrize("folder_exists", [True, False])
def test_a_full_disk_is_not_our_bug_whatever_library_meets_it(
    write: Any, folder_exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = str(tmp_path / "file" if folder_exists else tmp_path / "nowhere" / "file")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def app(standalone_mode: bool) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8, limits[1]))  # as a disk with room for eight bytes
        try:
            write(target)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(cli, "_stop_on_signals", lambda: None)
    monkeypatch.setattr("sys.argv", ["lwc"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr().err
    assert ended.value.code == (1 if folder_exists else USAGE), told
    assert ("free some space" if folder_exists else "has room") in told
    assert "bug" not in told


def test_a_bug_is_called_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def app(standalone_mode: bool) -> None:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(cli, "_stop_on_signals", lambda: None)
    monkeypatch.setattr("sys.argv", ["lwc"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == BUG
    assert "bug: ZeroDivisionError: of ours" in capsys.readouterr().err


def test_what_the_server_lacks_is_told_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks() -> None:
        raise MissingDependency("libpython3.11.so.1.0 is missing", "apt install libpython3.11")

    monkeypatch.setattr("lwc.serving.triton.environment.existing", lambda: None)
    monkeypatch.setattr("lwc.serving.triton.environment.interpreter", lacks)
    recipe = str(Path(__file__).resolve().parents[2] / "recipes" / "tiny.yaml")
    done = CliRunner().invoke(cli.app, ["run", recipe, "--runs", str(tmp_path / "runs")])
    assert isinstance(done.exception, MissingDependency)
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_inside_an_exec_exits_130_too(tmp_path: Path) -> None:
    """Libraries execute generated code while they are imported; CPython would then end `python -m` by the signal."""
    (tmp_path / "interrupted.py").write_text(
        "from lwc.cli import main\n"
        "def app(**options):\n"
        "    exec('raise KeyboardInterrupt')\n"
        "main.app = app\n"
        "main.main()\n"
    )
    done = subprocess.run([sys.executable, "-m", "interrupted"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert done.stderr == "interrupted; rerun the same command to resume\n"
