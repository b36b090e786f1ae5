"""The Python environment of the embedded Triton server, which is not the one that lwc runs in.

The server's Python backend silently reads NumPy 2 arrays as zeros and has no stub for Python 3.13, so that lwc itself
could use neither if they shared an environment. It is made once, in the cache folder, from pinned wheels; ONNX Runtime
and ``tokenizers`` are the versions that lwc measures with.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lwc.core.errors import MissingDependency
from lwc.core.machine import cache_dir, versions
from lwc.core.store import read_json, write_json

PYTHON = "LWC_SERVER_PYTHON"
"""Environment variable: the interpreter to make the environment with."""

MODULES = ("numpy", "onnxruntime", "tokenizers")
"""What a Python model can import there, beside the standard library and Triton's own modules."""

_TRITON, _NUMPY = "nvidia-pytriton==0.7.0", "numpy==1.26.4"
_PYTHONS = ("3.12", "3.11")
_LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
_RECORD = "lwc-server.json"
_LOG_LINES = 8
_DESCRIBE = """\
import json, sys, sysconfig
print(json.dumps(["%d.%d" % sys.version_info[:2], sysconfig.get_config_var("LIBDIR") or ""]))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python that Triton has a stub for, and its shared library, which the stub needs."""

    path: Path
    version: str
    libpython: Path


@dataclass(frozen=True)
class ServerEnvironment:
    """A finished environment: ``version`` is its Python's, such as 3.11."""

    folder: Path
    version: str
    libpython: Path

    @property
    def packages(self) -> Path:
        """Its installed packages."""
        return self.folder / "lib" / f"python{self.version}" / "site-packages"

    @property
    def triton(self) -> Path:
        """The server's files: binary, backends and stubs."""
        return self.packages / "pytriton" / "tritonserver"

    def variables(self) -> dict[str, str]:
        """Variables under which the server finds its libraries, and its stubs this environment's packages."""
        variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "PYTHONPATH")}
        libraries = [str(self.libpython.parent), str(self.packages / "nvidia_pytriton.libs")]
        libraries += filter(None, [variables.get("LD_LIBRARY_PATH")])
        variables["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
        # Else glibc raises the threshold to the largest request it has seen and keeps as much for good.
        variables.setdefault("MALLOC_TRIM_THRESHOLD_", "131072")
        # The stub's interpreter takes its prefix from the first Python on PATH.
        variables["PATH"] = os.pathsep.join([str(self.folder / "bin"), os.environ.get("PATH", os.defpath)])
        return variables


def requirements() -> list[str]:
    """What is installed, and nothing that it depends on: none of it is imported."""
    own = versions(("onnxruntime", "onnxruntime-gpu", "tokenizers"))
    runtime = own["onnxruntime"] or own["onnxruntime-gpu"]
    pinned = [f"onnxruntime=={runtime}", f"tokenizers=={own['tokenizers']}"]
    return [_TRITON, _NUMPY, *(pin.partition("+")[0] for pin in pinned)]  # less the build's name: 1.32.0+cpu


def existing() -> ServerEnvironment | None:
    """The environment, if it was made and its Python is still there. Cheap."""
    record = _folder() / _RECORD
    if not record.is_file():
        return None
    known = read_json(record)
    found = ServerEnvironment(_folder(), known["version"], Path(known["libpython"]))
    whole = (found.folder / "bin" / "python").exists() and found.libpython.is_file()
    return found if whole else None


def interpreter() -> Interpreter:
    """The Python to make the environment with: `LWC_SERVER_PYTHON`, lwc's own, or one of this machine.

    Raises:
        MissingDependency: there is none, or none with a shared library.
    """
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise MissingDependency(
            "the embedded Triton server needs Linux on x86-64",
            "stop earlier with --until package, and serve the repository in the official image",
        )
    bare: list[str] = []
    asked = os.environ.get(PYTHON)
    for path in [Path(asked)] if asked else _candidates():
        version, libraries = _described(path)
        if version not in _PYTHONS:
            if asked:
                raise MissingDependency(
                    f"{PYTHON}={asked} is no Python {' or '.join(_PYTHONS)}", "give the path of one, or unset it"
                )
            continue
        for folder in (Path(libraries), _LIBRARIES):
            library = folder / f"libpython{version}.so.1.0"
            if library.is_file():
                return Interpreter(path, version, library)
        bare.append(version)
    if bare:
        version = bare[0]
        raise MissingDependency(
            f"libpython{version}.so.1.0, which Triton's Python stub needs, is missing",
            f"apt install libpython{version}",
        )
    raise MissingDependency(
        f"the embedded Triton server needs Python {' or '.join(_PYTHONS)} beside this Python "
        f"{sys.version_info.major}.{sys.version_info.minor}",
        f"apt install python3.11 libpython3.11, or uv python install 3.12, or set {PYTHON} to the path of one",
    )


def ensure(say: Callable[[str], None] = lambda text: None) -> ServerEnvironment:
    """The environment, made first if need be, which ``say`` is told. Processes that need it at once wait for the first.

    Raises:
        MissingDependency: no Python for it, or its wheels cannot be installed; with what the installer said.
    """
    found = existing()
    if found is not None:
        return found
    folder = _folder()
    with _alone(folder):
        found = existing()
        if found is not None:
            return found
        chosen = interpreter()
        say(f"making the embedded server's environment, once: Python {chosen.version}, about 100 MB, in {folder}")
        aside = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
        try:
            _make(aside, chosen)
            write_json(aside / _RECORD, {"version": chosen.version, "libpython": str(chosen.libpython)})
            shutil.rmtree(folder, ignore_errors=True)  # of a Python that is gone
            aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return ServerEnvironment(folder, chosen.version, chosen.libpython)


def _folder() -> Path:
    named = json.dumps([requirements(), os.environ.get(PYTHON, "")])
    return cache_dir() / "server" / hashlib.sha256(named.encode()).hexdigest()[:16]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _candidates() -> Iterator[Path]:
    """Interpreters of this machine: the one that lwc's environment is made of, on PATH, of pyenv and of uv."""
    bases = Path(sys.base_prefix) / "bin"
    yield bases / f"python{sys.version_info.major}.{sys.version_info.minor}"
    for version in _PYTHONS:
        found = shutil.which(f"python{version}")
        if found:
            yield Path(found)
        for folder, pattern in ((".pyenv/versions", f"{version}.*"), (".local/share/uv/python", f"cpython-{version}*")):
            for one in sorted((Path.home() / folder).glob(pattern)):
                yield one / "bin" / f"python{version}"


def _described(python: Path) -> tuple[str, str]:
    """The version of an interpreter, and where its shared library may be; empty where it does not start."""
    try:
        done = subprocess.run([python, "-I", "-c", _DESCRIBE], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "", ""
    version, libraries = json.loads(done.stdout) if done.returncode == 0 else ("", "")
    return version, libraries


def _make(folder: Path, chosen: Interpreter) -> None:
    # Without pip: Debian's Python cannot make an environment with it unless another package is installed.
    _run([str(chosen.path), "-I", "-m", "venv", "--without-pip", str(folder)])
    python = folder / "bin" / "python"
    _run([*_installer(python), "--no-deps", "--only-binary=:all:", *requirements()])
    _run([str(python), "-I", "-c", f"import {', '.join(MODULES)}"])
    triton = ServerEnvironment(folder, chosen.version, chosen.libpython).triton
    if not (triton / "python_backend_stubs" / chosen.version / "triton_python_backend_stub").is_file():
        raise MissingDependency(f"{_TRITON} has no stub for Python {chosen.version}", f"set {PYTHON} to another one")


def _installer(python: Path) -> list[str]:
    """The command that installs packages into another environment: this one's pip, or uv."""
    if importlib.util.find_spec("pip") is not None:
        return [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
    uv = shutil.which("uv")
    if uv is None:
        raise MissingDependency("neither pip nor uv is there to make the embedded server's environment", "install pip")
    return [uv, "pip", "install", "--quiet", "--python", str(python)]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-_LOG_LINES:])
        raise MissingDependency(
            f"the embedded server's environment could not be made; {Path(command[0]).name} says:\n{said}",
            "check that the package registry can be reached, or set PIP_NO_INDEX=1 and PIP_FIND_LINKS to a folder with "
            f"the wheels of {', '.join(requirements())}",
        )
