"""Checks of this machine, with a fix for each missing piece. Starts nothing and downloads nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lwc.core.errors import MissingDependency
from lwc.core.machine import cpu_flags, cpu_limit, cpu_model, gpu_present, versions
from lwc.pipeline.preflight import SERVING
from lwc.serving.triton.environment import existing, interpreter

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
    return [_python(), _cpu(), _packages(), *_triton(), _data(), _gpu(), _tensorrt(), _docker()]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Check("Python", good, version, "" if good else "use Python 3.11, 3.12 or 3.13")


def _cpu() -> Check:
    features = [name for name, flag in _FEATURES.items() if flag in cpu_flags()]
    return Check("CPU", True, f"{cpu_model()}, {cpu_limit()} cores, {', '.join(features) or 'features unknown'}")


def _packages() -> Check:
    found = versions()
    needed = ("torch", "transformers", "accelerate", "onnx", "onnxruntime")
    missing = [name for name in needed if found[name] is None]
    told = ", ".join(f"{name} {found[name]}" for name in needed if found[name])
    return Check("packages", not missing, told, f"pip install {' '.join(missing)}" if missing else "")


def _triton() -> list[Check]:
    found = versions(tuple(SERVING))
    missing = [name for name, version in found.items() if version is None]
    told = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    packages = Check("load tests", not missing, told or "none", "pip install 'lwc[serve]'" if missing else "")
    return [packages, _server()]


def _server() -> Check:
    made = existing()
    if made is not None:
        return Check("embedded server", True, f"Python {made.version}, in {made.folder}")
    try:
        chosen = interpreter()
    except MissingDependency as error:
        return Check("embedded server", False, error.message, error.hint)
    return Check("embedded server", True, f"made on first use (about 100 MB) with {chosen.path}")


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
