"""This machine and installation. Imports nothing heavy."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

LIBRARIES = (
    "torch", "transformers", "tokenizers", "accelerate", "numpy", "scikit-learn", "onnx", "onnxruntime",
    "tritonclient", "locust", "tensorrt",
)  # fmt: skip


def versions(names: tuple[str, ...] = LIBRARIES) -> dict[str, str | None]:
    """The installed version of each distribution; None if it is not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def cache_dir() -> Path:
    """``$LWC_CACHE_DIR``, or ``~/.cache/lwc``."""
    return Path(os.environ.get("LWC_CACHE_DIR") or Path.home() / ".cache" / "lwc")


def _cpuinfo(field: str) -> str:
    """A field of the first processor in Linux's ``/proc/cpuinfo``; empty if there is none."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def cpu_model() -> str:
    """The name of the processor, or the architecture if the system does not report one."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """Instruction-set flags of the processor (Linux); empty if unknown."""
    return set(_cpuinfo("flags").split())


def cpu_limit() -> int:
    """Cores that this process may use, by affinity and cgroup v2 quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, _, period = quota.read_text().strip().partition(" ")
        if limit != "max" and period:
            cores = max(1, min(cores, int(int(limit) / int(period))))
    return cores


def ran_and_waited() -> tuple[float, float] | None:
    """Seconds that the threads of this process ran, and were ready to run but had no core (Linux; None elsewhere)."""
    ran = waited = 0
    for file in Path("/proc/self/task").glob("*/schedstat"):
        try:
            running, waiting, _ = map(int, file.read_text().split())
        except (OSError, ValueError):
            continue  # the thread ended, or the kernel does not count
        ran, waited = ran + running, waited + waiting
    return (ran / 1e9, waited / 1e9) if ran else None


# Instruction sets that multiply bf16; without them it is emulated, and slower than fp32.
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


def gpu_present() -> bool:
    """Whether the NVIDIA driver's tool is installed and the GPUs are not hidden; cheap, without torch."""
    return shutil.which("nvidia-smi") is not None and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1")


def cpu_asked_for() -> bool:
    """Whether `accelerate launch --cpu` excludes the GPUs."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on", "y", "t")


@cache
def _compute_capability() -> float | None:
    """The lowest compute capability of the GPUs; None if torch could use none."""
    if not gpu_present() or (versions(("torch",))["torch"] or "").endswith("+cpu"):
        return None
    asked = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout
        return min((float(line) for line in told.split()), default=None)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def auto_precision() -> Literal["bf16", "fp32"]:
    """The meaning of ``precision: auto`` on this machine: bf16 if the hardware multiplies it, else fp32.

    GPUs do from compute capability 8.0. Cache keys and training both ask here, and not torch, so that no result is
    cached under a precision that is not its own.
    """
    capability = None if cpu_asked_for() else _compute_capability()
    native = bool(cpu_flags() & BF16_FLAGS) if capability is None else capability >= 8.0
    return "bf16" if native else "fp32"


def precision_here(setting: str) -> str:
    """A recipe's ``precision`` on this machine; ``auto`` differs between machines."""
    return auto_precision() if setting == "auto" else setting


def describe() -> dict[str, Any]:
    """Machine, library versions and date, for the report."""
    memory = None
    info = Path("/proc/meminfo")
    if info.is_file():
        memory = round(int(info.read_text().split()[1]) / 1024**2, 1)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu": cpu_model(),
        "cores": cpu_limit(),
        "memory_gib": memory,
        "gpu": gpu_present(),
        "libraries": versions(),
    }
