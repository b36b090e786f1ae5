"""The embedded server's own Python environment: which Python, what is installed, and what is said where it fails."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from lwc.core.errors import MISSING, MissingDependency
from lwc.serving.triton import environment


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LWC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv(environment.PYTHON, raising=False)
    return tmp_path / "cache"


def python(path: Path, says: str) -> Path:
    """An interpreter that describes itself as ``says``."""
    path.write_text(f"#!/bin/sh\necho '{says}'\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_it_is_made_once_and_found_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def make(folder: Path, chosen: environment.Interpreter) -> None:
        (folder / "bin").mkdir()
        (folder / "bin" / "python").symlink_to(chosen.path)
        made.append(folder)

    monkeypatch.setattr(environment, "_make", make)
    said: list[str] = []
    first = environment.ensure(said.append)
    assert environment.ensure(said.append) == first == environment.existing()
    assert len(made) == len(said) == 1
    assert str(first.folder) in said[0]
    assert [path.name for path in cache.glob("server/*") if path.is_dir()] == [first.folder.name], "and nothing else"

    (first.folder / "bin" / "python").unlink()  # the Python was uninstalled
    assert environment.existing() is None
    assert environment.ensure(said.append) == first
    assert len(made) == 2


def test_one_that_failed_is_never_trusted_and_says_what_the_installer_said(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(cache))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(MissingDependency, match="No matching distribution") as caught:
        environment.ensure()
    assert caught.value.exit_code == MISSING
    assert "PIP_FIND_LINKS" in caught.value.hint
    assert environment.existing() is None
    assert not [path for path in cache.glob("server/*") if path.is_dir()]


def test_the_server_runs_the_versions_that_lwc_measures_with(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = dict(line.split("==") for line in environment.requirements())
    assert pinned["onnxruntime"] == metadata.version("onnxruntime")
    assert pinned["tokenizers"] == metadata.version("tokenizers")
    assert pinned["numpy"].startswith("1."), "the server reads NumPy 2 arrays as zeros"
    monkeypatch.setattr(environment, "versions", lambda names: {"onnxruntime": None, "onnxruntime-gpu": "1.30.0+cu13",
                                                                "tokenizers": "0.22.0"})  # fmt: skip
    assert environment.requirements()[2:] == ["onnxruntime==1.30.0", "tokenizers==0.22.0"]


def test_a_newer_python_leaves_the_server_an_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "libpython3.11.so.1.0"
    monkeypatch.setattr(environment, "_LIBRARIES", tmp_path / "none")
    newest = python(tmp_path / "python3.13", '["3.13", ""]')
    bare = python(tmp_path / "python3.12", '["3.12", ""]')
    good = python(tmp_path / "python3.11", f'["3.11", "{tmp_path}"]')
    monkeypatch.setattr(environment, "_candidates", lambda: iter([newest, tmp_path / "gone", bare, good]))
    with pytest.raises(MissingDependency, match=r"libpython3\.12\.so\.1\.0") as caught:
        environment.interpreter()
    assert caught.value.hint == "apt install libpython3.12"
    library.touch()
    assert environment.interpreter() == environment.Interpreter(good, "3.11", library)

    monkeypatch.setattr(environment, "_candidates", lambda: iter([newest]))
    with pytest.raises(MissingDependency, match=r"needs Python 3\.12 or 3\.11 beside this Python") as caught:
        environment.interpreter()
    assert environment.PYTHON in caught.value.hint
    monkeypatch.setenv(environment.PYTHON, str(good))
    assert environment.interpreter().path == good
    monkeypatch.setenv(environment.PYTHON, str(newest))
    with pytest.raises(MissingDependency, match=f"{environment.PYTHON}=.* is no Python"):
        environment.interpreter()


def test_lwc_of_this_python_finds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests that start servers need it, so a machine without one fails here, with the reason."""
    found = environment.interpreter()
    assert found.libpython.is_file()
    if sys.version_info[:2] in ((3, 11), (3, 12)):
        assert found.version in ("3.11", "3.12")
