"""Checks of this machine, with a fix for each missing piece. Starts nothing and downloads nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from lwc.core.machine import cpu_flags, cpu_limit, cpu_model, gpu_present, versions
from lwc.pipeline.preflight import SERVING

_FEATURES = {
    "AVX2": "avx2", "AVX-512": "avx512f", "VNNI (int8)": "avx512_vnni", "BF16": "avx512_bf16", "AMX": "amx_tile",
}  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One finding: ``ok`` is True, False (missing, with its fix) or None (optional)."""

    name: str
    ok: bool | None
    found: str
    fix: str = ""


def examine() -> list[Check]:
    """Every check, in the order in which a new user needs them."""
    return [_python(), _cpu(), _packages(), _numpy(), *_triton(), _data(), _gpu(), _tensorrt(), _docker()]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] <= (3, 12)
    return Check("Python", good, version, "" if good else "use Python 3.11 or 3.12; the embedded server needs it")


def _cpu() -> Check:
    features = [name for name, flag in _FEATURES.items() if flag in cpu_flags()]
    return Check("CPU", True, f"{cpu_model()}, {cpu_limit()} cores, {', '.join(features) or 'features unknown'}")


def _packages() -> Check:
    found = versions()
    needed = ("torch", "transformers", "accelerate", "onnx", "onnxruntime")
    missing = [name for name in needed if found[name] is None]
    told = ", ".join(f"{name} {found[name]}" for name in needed if found[name])
    return Check("packages", not missing, told, f"pip install {' '.join(missing)}" if missing else "")


def _numpy() -> Check:
    version = versions(("numpy",))["numpy"] or "not installed"
    good = version.startswith("1.")
    fix = "pip install 'numpy<2': NumPy 2 corrupts inputs of the embedded server"
    return Check("NumPy < 2", good, version, "" if good else fix)


def _triton() -> list[Check]:
    found = versions(tuple(SERVING))
    missing = [name for name, version in found.items() if version is None]
    told = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    checks = [Check("Triton and Locust", not missing, told or "none", "pip install 'lwc[serve]'" if missing else "")]
    library = sysconfig.get_config_var("INSTSONAME") or ""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    folders = [Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib"), Path("/usr/lib") / multiarch]
    names = {library, f"libpython{version}.so.1.0"}
    shared = [folder / name for folder in folders for name in names if ".so" in name and (folder / name).is_file()]
    fix = "" if shared else f"apt-get install libpython{version}: the embedded server links against it"
    return [*checks, Check("shared libpython", bool(shared), str(shared[0]) if shared else "not found", fix)]


def _data() -> Check:
    folder = os.environ.get("LWC_DATA_DIR")
    if not folder:
        return Check("LWC_DATA_DIR", None, "not set: relative data paths start in the current folder only")
    good = Path(folder).is_dir()
    return Check("LWC_DATA_DIR", good, folder, "" if good else "create the folder, or set another path")


def _gpu() -> Check:
    if not gpu_present():
        return Check("GPU", None, "none: training and serving run on the CPU")
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    good = done.returncode == 0
    fix = "" if good else "check the NVIDIA driver: nvidia-smi failed"
    return Check("GPU", good, (done.stdout or done.stderr).strip(), fix)


def _tensorrt() -> Check:
    found = versions(("tensorrt", "tensorrt-rtx-cu12"))
    told = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    return Check("TensorRT", None, told or "not installed; needed only to build plans (`lwc export`)")


def _docker() -> Check:
    return Check("Docker", None, shutil.which("docker") or "none: `lwc serve` uses the embedded server")
