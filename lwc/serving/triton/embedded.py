"""The pieces the embedded Triton server is started from: the wheel's files, its environment and its flags."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from lwc.core.errors import MissingDependency

SYSTEM_LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
# What a client that only asks for answers never needs. Statistics stay open: the metrics port tells the same.
RESTRICTED = "shared-memory,model-config,model-repository,trace,logging"
RESTRICTED_HEADER = "x-lwc-key"
# What `assemble_backends` gives the server, and what is part of every server.
BACKENDS = ("python", "onnxruntime", "ensemble")


def safe_flags(key: str, control: bool = False) -> list[str]:
    """Flags for every server, embedded or in the official image.

    ``key`` opens the restricted interfaces to a client that sends it as the header ``x-lwc-key``
    (``triton-grpc-protocol-x-lwc-key`` over gRPC); others get 403 and UNAVAILABLE. With ``control`` its holder may load
    and unload models; the server then is ready while one loads or after one failed to, which strict readiness denies.
    """
    mode = ["--model-control-mode=explicit", "--load-model=*"] if control else ["--model-control-mode=none"]
    return [
        *mode,
        "--disable-auto-complete-config",
        "--exit-on-error=true",
        f"--strict-readiness={'false' if control else 'true'}",
        f"--http-restricted-api={RESTRICTED}:{RESTRICTED_HEADER}={key}",
        f"--grpc-restricted-protocol={RESTRICTED}:{RESTRICTED_HEADER}={key}",
    ]


def installed() -> tuple[Path, Path]:
    """The wheel's folder and this Python's shared library, once all that serving needs is there."""
    spec = importlib.util.find_spec("pytriton")
    places = list(spec.submodule_search_locations or []) if spec else []
    wheel = Path(places[0]) if places else Path()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    triton = wheel / "tritonserver"
    stub = triton / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not places or not (triton / "bin" / "tritonserver").is_file():
        raise MissingDependency("the embedded Triton server is not installed", "pip install nvidia-pytriton==0.7.0")
    if not stub.is_file():
        raise MissingDependency(f"the embedded Triton has no stub for Python {version}", "use Python 3.11 or 3.12")
    numpy = importlib.metadata.version("numpy")
    if int(numpy.split(".")[0]) >= 2:
        raise MissingDependency(
            f"NumPy {numpy} makes the embedded Triton server read its inputs as zeros", 'pip install "numpy<2"'
        )
    name = f"libpython{version}.so.1.0"
    for folder in (Path(sysconfig.get_config_var("LIBDIR") or "/nonexistent"), SYSTEM_LIBRARIES):
        if (folder / name).is_file():
            return wheel, folder / name
    raise MissingDependency(f"{name}, which Triton's Python stub needs, is missing", f"apt install libpython{version}")


def assemble_backends(folder: Path, triton: Path) -> Path:
    """Fill ``folder`` with the Python backend that fits this Python, and the ONNX Runtime one that stands on it."""
    python = folder / "python"
    python.mkdir(parents=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy2(triton / "backends" / "python" / name, python / name)
    stub = python / "triton_python_backend_stub"
    shutil.copy2(triton / "python_backend_stubs" / version / stub.name, stub)
    stub.chmod(0o755)
    (folder / "onnxruntime").mkdir()
    shutil.copy2(Path(__file__).parent / "backends" / "onnxruntime_model.py", folder / "onnxruntime" / "model.py")
    return folder


def environment(wheel: Path, libpython: Path) -> dict[str, str]:
    """Variables under which the server finds its libraries and its stubs find this Python's packages."""
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "PYTHONPATH")}
    libraries = [str(libpython.parent), str(wheel.parent / "nvidia_pytriton.libs")]
    libraries += filter(None, [variables.get("LD_LIBRARY_PATH")])
    variables["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
    # Else glibc raises the threshold to the largest request it has seen and keeps as much for good.
    variables.setdefault("MALLOC_TRIM_THRESHOLD_", "131072")
    # The embedded interpreter takes its prefix from the first Python on PATH.
    variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return variables
