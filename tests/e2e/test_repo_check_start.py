"""``lwc repo check --start``: a real Triton says of each model what the rules could only guess."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_repository import tiny_repository

from lwc.serving.checks.run import examine

pytestmark = pytest.mark.serving

CONFIG = """\
backend: "python"
input { name: "x" data_type: TYPE_FP32 dims: 2 }
output { name: "y" data_type: TYPE_FP32 dims: 2 }
instance_group { kind: KIND_CPU count: 1 }
"""
ENSEMBLE = """\
platform: "ensemble"
input { name: "x" data_type: TYPE_FP32 dims: 2 }
output { name: "y" data_type: TYPE_FP32 dims: 2 }
ensemble_scheduling { step {
  model_name: "z_sound" model_version: -1
  input_map { key: "x" value: "x" } output_map { key: "y" value: "y" }
} }
"""
EXECUTE = "    def execute(self, requests):\n        return []\n"
CODE = {
    "z_sound": "class TritonPythonModel:\n" + EXECUTE,
    "raises": "class TritonPythonModel:\n    def initialize(self, args):\n        raise ValueError('no luck')\n"
    + EXECUTE,
    "package": "import no_such_package\nclass TritonPythonModel:\n" + EXECUTE,
    "ends": "import os\nos.kill(os.getppid(), 9)\nclass TritonPythonModel:\n" + EXECUTE,
    "no_class": "class Model:\n" + EXECUTE,
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tiny_repository(tmp_path / "models")
    for name, code in CODE.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(CONFIG)
        (folder / name / "1" / "model.py").write_text(code)
    for name, config in (("all", ENSEMBLE), ("torch", CONFIG.replace("python", "pytorch"))):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(config)
    (folder / "typo").mkdir()
    (folder / "typo" / "config.pbtxt").write_text(CONFIG.replace("TYPE_FP32", "TYPE_FP"))
    return folder


def test_each_model_is_ready_or_refused_in_the_words_of_triton(repository: Path) -> None:
    found = examine(repository, start=True, seconds=60)
    states = {one.model: one.state for one in found.started}
    assert states == {
        "all": "READY", "ends": "FAILED", "no_class": "FAILED", "package": "FAILED", "raises": "FAILED",
        "reviews": "READY", "reviews_tokens": "READY", "torch": "NOT TRIED", "z_sound": "READY",
    }  # fmt: skip
    reasons = {one.model: one.reason for one in found.started}
    assert reasons["raises"] == "Internal: ValueError: no luck"
    assert "No module named 'no_such_package'" in reasons["package"]
    assert "TritonPythonModel" in reasons["no_class"]
    assert "server ended" in reasons["ends"]
    assert "pytorch" in reasons["torch"]
    assert found.not_checked == {"the files of backend 'pytorch'": ["torch"], "anything else": ["typo"]}
    assert not found.sound


def test_the_command_prints_both_and_exits_with_2(repository: Path) -> None:
    for name in ("ends", "raises", "package", "typo", "torch"):
        shutil.rmtree(repository / name)
    command = [sys.executable, "-m", "lwc", "repo", "check", str(repository), "--start", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    shown = json.loads(done.stdout)
    assert [one["model"] for one in shown["started"] if one["state"] == "FAILED"] == ["no_class"]
    assert [one["path"] for one in shown["findings"] if one["severity"] == "error"] == ["no_class/1/model.py"]
    assert shown["not_checked"] == {}
