"""What the files of a model say: text, names, ONNX Runtime's versions and Python code, each fault planted alone."""

from __future__ import annotations

import errno
import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from damaged_repository import (
    MODEL_PY,
    PYTHON,
    append,
    both,
    edit,
    environment,
    named,
    runtime,
    sound_repository,
    touch,
    write,
)  # fmt: skip
from onnx import helper

from lwc.serving.checks.run import examine, inspect_repository
from lwc.serving.checks.runtime import IMAGE, installed


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return sound_repository(tmp_path / "repository")


Case = tuple[Callable[[Path], object], str, str, list[str]]
# What is done to the sound repository; severity, path and words of the one finding that follows.
CASES: dict[str, Case] = {
    # Text files.
    "labels with CRLF": (write("t/labels.txt", "bad\r\ngood\r\n"), "error", "t/labels.txt", ["line 1", r"'bad\r'"]),
    "labels with one CR": (write("t/labels.txt", "bad\ngood\r"), "error", "t/labels.txt", ["line 2", r"'good\r'"]),
    "labels with a BOM": (write("t/labels.txt", "\ufeffbad\ngood\n"), "error", "t/labels.txt", ["byte order mark"]),
    "labels in UTF-16": (write("t/labels.txt", "bad\ngood\n".encode("utf-16")), "error", "t/labels.txt", ["UTF-16"]),
    "labels in UTF-16 without a BOM": (
        write("t/labels.txt", "bad\ngood\n".encode("utf-16-le")), "error", "t/labels.txt", ["UTF-16"]),
    "labels in Latin-1": (
        write("t/labels.txt", "bad\ncafé\n".encode("latin-1")), "error", "t/labels.txt", ["UTF-8", "0xe9", "line 2"]),
    "a blank label": (write("t/labels.txt", "bad\n\n"), "error", "t/labels.txt", ["line 2 is blank"]),
    "a blank line after the labels": (
        write("t/labels.txt", "bad\ngood\n\n"), "error", "t/labels.txt", ["line 3 is blank"]),
    "one label for two classes": (
        write("t/labels.txt", "bad\nbad\n"), "warning", "t/labels.txt", ["line 2", "'bad'", "line 1"]),
    "a label with a space": (write("t/labels.txt", "bad\ngood \n"), "warning", "t/labels.txt", ["'good '"]),
    "one label": (write("t/labels.txt", "bad"), "error", "t/labels.txt", ["1 labels", "[2]"]),
    "labels that are a pointer": (
        write("t/labels.txt", "version https://git-lfs.github.com/spec/v1\n"), "error", "t/labels.txt", ["Git LFS"]),
    "labels that are a folder": (
        both(lambda r: (r / "t/labels.txt").unlink(), touch("t/labels.txt/")),
        "error", "t/labels.txt/", ["a folder"]),
    "labels that no output names": (
        write("p/labels.txt", "bad\r\n"), "error", "p/labels.txt", ["carriage return"]),
    "configuration with a BOM": (
        lambda r: write("p/config.pbtxt", "\ufeff" + PYTHON)(r), "error", "p/config.pbtxt", ["byte order mark"]),
    "configuration in UTF-16": (
        write("p/config.pbtxt", PYTHON.encode("utf-16")), "error", "p/config.pbtxt", ["UTF-16"]),
    "binary configuration": (
        write("p/config.pbtxt", PYTHON.encode() + b"\n\0"), "error", "p/config.pbtxt", ["binary", "line 6"]),
    "huge configuration": (
        write("p/config.pbtxt", PYTHON + "#" * 5_000_000), "error", "p/config.pbtxt", ["5000", "no configuration"]),
    "a placeholder": (
        edit("p", "size: 8", "size: ${SIZE}"), "error", "p/config.pbtxt:2", ["${SIZE}", "template"]),
    "a placeholder of Jinja": (
        edit("p", "max_batch_size: 8", "max_batch_size: {{ size }}"), "error", "p/config.pbtxt:2", ["{{ size }}"]),
    "configuration under another name": (
        lambda r: (r / "p/config.pbtxt").rename(r / "p/config.pbtxt.txt"), "error", "p/", ["'config.pbtxt.txt'"]),
    "configuration that is a folder": (
        both(lambda r: (r / "p/config.pbtxt").unlink(), touch("p/config.pbtxt/")), "error", "p/", ["is a folder"]),
    # Names.
    "a space in a name": (named("x y"), "error", "x y/", ["' '", "HTTP"]),
    "a percent sign in a name": (named("x%20y"), "error", "x%20y/", ["'%'"]),
    "a letter that is not ASCII in a name": (named("größe"), "error", "größe/", ["'ßö'"]),
    "a shell's sign in a name": (named("x;y"), "error", "x;y/", ["';'"]),
    "a hidden name": (named(".x"), "warning", ".x/", ["dot"]),
    "the name of another model": (append("p", 'name: "t"'), "error", "p/config.pbtxt", ["'t'", "'p'"]),
    "a link to nothing": (lambda r: (r / "l").symlink_to(r / "m"), "error", "l", ["link to nothing"]),
    "a link to itself": (lambda r: (r / "l").symlink_to("l"), "error", "l", ["link to nothing"]),
    # What ONNX Runtime can read.
    "opset of the future": (
        runtime(opsets={"": 99}), "error", "t/1/model.onnx", ["opset 99 of ai.onnx", "up to", "official image"]),
    "opset of ai.onnx.ml of the future": (
        runtime(opsets={"": 17, "ai.onnx.ml": 99}), "error", "t/1/model.onnx", ["opset 99 of ai.onnx.ml"]),
    "opset that only the embedded runtime has": (
        runtime(opsets={"": IMAGE.opsets[""] + 1}), "warning", "t/1/model.onnx", [str(IMAGE.opsets[""])]),
    "IR of the future": (runtime(ir=99), "error", "t/1/model.onnx", ["IR version 99", "up to", "official image"]),
    "opset before 7": (runtime(opsets={"": 6}), "warning", "t/1/model.onnx", ["opset 6", "7 and later"]),
    "no opset": (runtime(opsets={}), "error", "t/1/model.onnx", ["no opset"]),
    "a custom domain": (
        runtime(node=helper.make_node("Foo", ["ids"], ["unused"], domain="com.acme")),
        "error", "t/1/model.onnx", ["['Foo']", "com.acme"]),
    "a custom domain and its library": (
        both(runtime(node=helper.make_node("Foo", ["ids"], ["unused"], domain="com.acme")),
             append("t", 'model_operations { op_library_filename: "libfoo.so" }')),
        "warning", "t/1/model.onnx", ["libfoo.so", "embedded server"]),
    "an operator of a later opset": (
        runtime(node=helper.make_node("Gelu", ["mean"], ["unused"])), "error", "t/1/model.onnx", ["Gelu", "opset 17"]),
    "an operator that was dropped": (
        runtime(node=helper.make_node("Upsample", ["mean"], ["unused"])), "error", "t/1/model.onnx", ["Upsample"]),
    "an operator inside a branch": (
        runtime(node=helper.make_node("If", ["mean"], ["unused"], then_branch=helper.make_graph(
            [helper.make_node("Bar", [], ["b"])], "then", [], []))), "error", "t/1/model.onnx", ["['Bar']"]),
    # Python models.
    "syntax": (write("p/1/model.py", "class A:\n  def f(self)\n    pass\n"), "error", "p/1/model.py", ["line 2"]),
    "a zero byte": (write("p/1/model.py", MODEL_PY + "\0"), "error", "p/1/model.py", ["does not parse"]),
    "too deep": (write("p/1/model.py", "x = " + "(" * 500), "error", "p/1/model.py", ["does not parse"]),
    "no class": (
        write("p/1/model.py", MODEL_PY.replace("Triton", "Trition")), "error", "p/1/model.py",
        ["no class TritonPythonModel", "TritionPythonModel"]),
    "no execute": (
        write("p/1/model.py", MODEL_PY.replace("execute", "run")), "error", "p/1/model.py", ["line 1 has no execute"]),
    "execute of no requests": (
        write("p/1/model.py", MODEL_PY.replace("self, requests", "requests")), "error", "p/1/model.py",
        ["execute in line 2", "(self, requests)"]),
    "initialize of no arguments": (
        write("p/1/model.py", MODEL_PY + "    def initialize(self):\n        pass\n"), "error", "p/1/model.py",
        ["initialize in line 4", "(self, args)"]),
    "a package that is not here": (
        write("p/1/model.py", "import numpy, no_such_package.part\n" + MODEL_PY), "note", "p/1/model.py",
        ["no_such_package in line 1"]),
    "a package that is not here, in a method": (
        write("p/1/model.py", MODEL_PY.replace("return", "from no_such_package import x\n        return")),
        "note", "p/1/model.py", ["no_such_package in line 3"]),
    "a pointer for code": (
        write("p/1/model.py", "version https://git-lfs.github.com/spec/v1\n"), "error", "p/1/model.py", ["Git LFS"]),
    "a folder for code": (
        both(lambda r: (r / "p/1/model.py").unlink(), touch("p/1/model.py/")),
        "error", "p/1/model.py/", ["a folder"]),
    "no environment": (environment("$$TRITON_MODEL_DIRECTORY/env.tar.gz"),
        "error", "p/config.pbtxt", ["no such file", "p/env.tar.gz"]),
    "environment outside": (environment("$$TRITON_MODEL_DIRECTORY/../env.tar.gz"),
        "error", "p/config.pbtxt", ["leads out"]),
    "environment of another variable": (environment("$TRITON_MODEL_DIRECTORY/env.tar.gz"),
        "error", "p/config.pbtxt", ["does not know"]),
    "environment of one machine": (environment("/no/such/env.tar.gz"),
        "warning", "p/config.pbtxt", ["the machine that serves", "not on this one"]),
    "environment that is no archive": (
        both(environment("$$TRITON_MODEL_DIRECTORY/env.tar.gz"), write("p/env.tar.gz", b"\x1f\x8bcut")),
        "error", "p/config.pbtxt", ["not a tar"]),
    "environment that is an empty folder": (
        both(environment("$$TRITON_MODEL_DIRECTORY/env"), touch("p/env/")),
        "error", "p/config.pbtxt", ["bin/activate"]),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_what_is_planted_is_all_that_is_found(repository: Path, name: str) -> None:
    damage, severity, path, words = CASES[name]
    damage(repository)
    (finding,) = inspect_repository(repository)
    assert (finding.severity, finding.path) == (severity, path)
    assert finding.model == path.split("/")[0]
    for word in words:
        assert word in finding.what
    assert finding.hint


SOUND_PYTHON = {
    "a base class": "import helper\nclass TritonPythonModel(helper.Base):\n    pass\n",
    "imported": "from helper import TritonPythonModel\n",
    "imported with all": "from helper import *\n",
    "assigned": "class A:\n    def execute(self, requests):\n        return []\nTritonPythonModel = A\n",
    "under a condition": "try:\n    import no_such_package\nexcept ImportError:\n    pass\nif True:\n"
    "    class TritonPythonModel:\n        def execute(self, *requests):\n            return []\n",
    "for type checkers": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import no_such_package\n" + MODEL_PY,
    "Triton's module": "import triton_python_backend_utils as pb_utils\nfrom . import helper\n" + MODEL_PY,
    "BOM and CRLF": "\ufeff" + MODEL_PY.replace("\n", "\r\n"),
    "an escape that is none": 'PATTERN = "\\d"\n' + MODEL_PY,
    "a default": MODEL_PY.replace("requests", "requests, more=None"),
}


@pytest.mark.parametrize("name", list(SOUND_PYTHON))
def test_code_that_triton_loads_is_left_alone(repository: Path, name: str, recwarn: pytest.WarningsRecorder) -> None:
    write("p/1/model.py", SOUND_PYTHON[name])(repository)
    write("p/1/helper.py", "raise SystemExit('never imported')\n")(repository)
    assert inspect_repository(repository) == []
    assert not recwarn


def test_a_packed_environment_stands_for_the_packages_it_holds(repository: Path) -> None:
    environment("$$TRITON_MODEL_DIRECTORY/env.tar.gz")(repository)
    write("p/1/model.py", "import no_such_package\n" + MODEL_PY)(repository)
    with tarfile.open(repository / "p" / "env.tar.gz", "w:gz") as archive:
        archive.add(repository / "p" / "1", "bin")
    found = examine(repository)
    assert found.findings == []
    assert found.not_checked["the packages in EXECUTION_ENV_PATH"] == ["p"]


@pytest.mark.parametrize("name", ["t/1/model.onnx", "t/labels.txt", "t/config.pbtxt", "p/1/model.py"])
def test_a_file_that_may_not_be_read_is_one_finding(
    repository: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests may run as root, who reads everything: opening the file fails instead."""
    whole = io.open

    def refuse(file: Any, *arguments: Any, **named: Any) -> Any:
        if str(file).endswith(name):
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return whole(file, *arguments, **named)

    edit("p", 'backend: "python"', 'backend: "python" # alone')(repository)
    shutil.rmtree(repository / "e")
    monkeypatch.setattr(io, "open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    (finding,) = inspect_repository(repository)
    assert (finding.path, finding.what) == (name, "cannot be read: Permission denied")


def test_names_that_are_not_utf8_can_be_shown(repository: Path) -> None:
    Path(os.fsdecode(os.fsencode(repository) + b"/p/\xff.bak")).write_text("")
    (finding,) = inspect_repository(repository)
    assert "udcff.bak" in finding.path
    finding.path.encode()


def test_the_installed_runtime_is_asked_what_it_reads(repository: Path) -> None:
    """The highest versions load, one more does not."""
    path = repository / "t" / "1" / "model.onnx"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4

    def loads() -> bool:
        try:
            onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception:
            return False
        return True

    highest = {"": 17, **{name: version for name, version in installed().opsets.items() if name == "ai.onnx.ml"}}
    runtime(opsets=highest, ir=installed().ir)(repository)
    assert loads()
    for opsets, ir in ((highest, installed().ir + 1), ({**highest, "ai.onnx.ml": highest["ai.onnx.ml"] + 1}, 8)):
        runtime(opsets=opsets, ir=ir)(repository)
        assert not loads()
