"""``lwc repo check --start``: a real Triton says of each model what the rules could only guess."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from damaged_repository import (
    MODEL_PY,
    PYTHON,
    append,
    both,
    edit,
    environment,
    graph,
    runtime,
    sound_repository,
    touch,
    warm_ids,
    write,
)  # fmt: skip
from onnx import helper
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
    assert found.not_checked == {
        "the files of backend 'pytorch'": ["torch"], "anything else": ["typo"], "answers to requests": sorted(states),
    }  # fmt: skip
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
    assert list(shown["not_checked"]) == ["answers to requests"]


FAULTS: dict[str, Callable[[Path], object]] = {
    "no class": write("p/1/model.py", "class Model:\n" + EXECUTE),
    "syntax": write("p/1/model.py", "class TritonPythonModel\n" + EXECUTE),
    "a zero byte": write("p/1/model.py", MODEL_PY + "\0"),
    "constructor with arguments": write("p/1/model.py", MODEL_PY + "    def __init__(self, more):\n        pass\n"),
    "code after a byte order mark": write("p/1/model.py", "\ufeff" + MODEL_PY),
    "code with a base class": write(
        "p/1/model.py", MODEL_PY.replace("Triton", "My") + "class TritonPythonModel(MyPythonModel):\n    pass\n"
    ),
    "no environment": environment("$$TRITON_MODEL_DIRECTORY/env.tar.gz"),
    "another variable": environment("$TRITON_MODEL_DIRECTORY/env.tar.gz"),
    "environment without activate": both(environment("$$TRITON_MODEL_DIRECTORY/env"), touch("p/env/")),
    "configuration with CRLF": write("p/config.pbtxt", PYTHON.replace("\n", "\r\n")),
    "no label file": lambda folder: (folder / "t" / "labels.txt").unlink(),
    "opset of the future": runtime(opsets={"": 99}),
    "IR of the future": runtime(ir=99),
    "custom operator": runtime(node=helper.make_node("Foo", ["ids"], ["unused"], domain="com.acme")),
    "later operator": runtime(node=helper.make_node("Gelu", ["mean"], ["unused"])),
    "last id": warm_ids(7, -8),
    "id past the vocabulary": warm_ids(8),
    "id far below zero": warm_ids(-9),
    "warm-up file too short": both(warm_ids(1), lambda folder: os.truncate(folder / "t" / "warmup" / "f", 63)),
    "warm-up file too long": both(warm_ids(1), lambda folder: os.truncate(folder / "t" / "warmup" / "f", 65)),
    "random ids": both(graph(rows=8), edit("t", "zero_data", "random_data")),
    "a version no number holds": touch(f"p/{2**63}/"),
    "negative version": lambda folder: (folder / "p" / "1").rename(folder / "p" / "-3"),
    "specific version absent": append("p", "version_policy { specific { versions: 3 } }"),
    "one specific version absent": append("p", "version_policy { specific { versions: [1, 3] } }"),
}


@pytest.mark.slow
def test_the_rules_call_an_error_what_triton_refuses_and_nothing_else(tmp_path: Path) -> None:
    """Each fault in a copy of the same two models; the damaged ones are served together, numbered."""
    sound, everything = sound_repository(tmp_path / "sound"), tmp_path / "all"
    everything.mkdir()
    (sound / "p").rename(everything / "sound")
    sources = {}
    for number, (fault, damage) in enumerate(FAULTS.items()):
        one = sound_repository(tmp_path / str(number))
        before = digests(one)
        damage(one)
        (name,) = {path.split("/")[0] for path, _ in before ^ digests(one)}
        (one / name).rename(everything / f"m{number}")
        sources[f"m{number}"] = fault
    found = examine(everything, start=True, seconds=5)
    refused = {sources.get(one.model) for one in found.started if one.state == "FAILED"}
    errors = {sources.get(one.model) for one in found.findings if one.severity == "error"}
    assert refused == errors
    assert {"no class", "IR of the future"} < refused
    assert {one.model: one.state for one in found.started}["sound"] == "READY"


def digests(folder: Path) -> set[tuple[str, bytes]]:
    return {(str(path.relative_to(folder)), path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*")}
