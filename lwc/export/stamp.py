"""``plan.json``: what a TensorRT plan was built from, and the only place that it runs.

A plan holds code for one kind of GPU, written by one TensorRT. The stamp says where it belongs before a server finds
out, and lies beside the plan wherever it goes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwc.core.errors import LwcError, MissingDependency, ModelError
from lwc.core.store import file_digest, read_json
from lwc.export.tensorrt import Library, Shapes

STAMP = "plan.json"
PLAN = "model.plan"
# The GPU of plans that TensorRT for RTX finishes where they are loaded.
ANY = "any"
_TEXTS = ("library", "tensorrt", "gpu", "compute_capability", "driver", "precision", "plan_sha256")


@dataclass(frozen=True)
class Gpu:
    """A graphics processor as ``nvidia-smi`` names it: ``NVIDIA L4``, ``8.9``, ``580.65.06``."""

    name: str
    compute_capability: str
    driver: str


def this_gpu() -> Gpu | None:
    """The GPU that CUDA uses here, None where there is none. Raises as `these_gpus` does."""
    return next(iter(these_gpus()), None)


def these_gpus() -> list[Gpu]:
    """The GPUs that CUDA may use here, all of one kind; empty where there is none.

    Raises:
        MissingDependency: ``nvidia-smi`` fails, or there are several kinds of GPU and none is chosen.
    """
    if shutil.which("nvidia-smi") is None:
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader",
         *([f"--id={chosen}"] if chosen else [])],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise MissingDependency(f"nvidia-smi fails: {(done.stderr or done.stdout).strip()}", "check the driver")
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if len(set(lines)) > 1:
        raise MissingDependency(
            f"several kinds of GPU: {'; '.join(sorted(set(lines)))}", "choose one with CUDA_VISIBLE_DEVICES"
        )
    return [Gpu(*(field.strip() for field in line.split(","))) for line in lines]


def make_stamp(
    plan: Path, onnx: Path, library: Library, version: str, gpu: Gpu | None, precision: str, profiles: list[Shapes]
) -> dict[str, Any]:
    """The stamp of a plan file. ``gpu`` is None where the plan is for any (TensorRT for RTX)."""
    place = gpu or Gpu(ANY, ANY, ANY)
    return {
        "library": library,
        "tensorrt": version,
        "gpu": place.name,
        "compute_capability": place.compute_capability,
        "driver": place.driver,
        "precision": precision,
        "onnx": {"file": onnx.name, "sha256": file_digest(onnx)},
        "plan_sha256": file_digest(plan),
        "profiles": profiles,
    }


def read_stamp(plan: Path) -> dict[str, Any]:
    """The stamp beside a plan, whose bytes are the stamped ones.

    Raises:
        ModelError: there is none, a field is missing, or the plan is another file.
    """
    path = plan.with_name(STAMP)
    try:
        stamp = read_json(path)
    except LwcError as error:
        raise ModelError(error.message, "build the plan with `lwc export`, which writes its stamp") from error
    fault = stamp_fault(stamp)
    if fault is not None:
        raise ModelError(f"{path}: {fault}", "build the plan again")
    if not plan.is_file():
        raise ModelError(f"{plan}: no such plan", "build it with `lwc export`")
    if file_digest(plan) != stamp["plan_sha256"]:
        raise ModelError(f"{plan}: not the file that {path.name} was written for", "copy both, or build it again")
    return dict(stamp)


def stamp_fault(stamp: object) -> str | None:
    """What is wrong with the content of a stamp, None where nothing is."""
    if not isinstance(stamp, dict):
        return "no JSON object"
    for key in _TEXTS:
        if not isinstance(stamp.get(key), str):
            return f"no text under {key!r}"
    profiles = stamp.get("profiles")
    if not isinstance(profiles, list) or not profiles or not all(isinstance(p, dict) and p for p in profiles):
        return "no shapes under 'profiles'"
    ranks: dict[str, int] = {}
    for number, profile in enumerate(profiles):
        for tensor, shapes in profile.items():
            sizes = [shapes.get(key) for key in ("min", "opt", "max")] if isinstance(shapes, dict) else [None]
            whole = [isinstance(s, list) and bool(s) and all(isinstance(n, int) for n in s) for s in sizes]
            found = {len(s) for s in sizes if s is not None} if all(whole) else set()
            if len(found) != 1 or ranks.setdefault(tensor, max(found)) not in found:
                return f"profile {number} of {tensor!r}: min, opt and max are not three shapes of one rank"
    return None


def misfits(stamp: dict[str, Any], gpu: str | None, compute_capability: str | None, version: str | None) -> list[str]:
    """Why a plan does not run at a place, both sides named; empty where it does. None is not judged."""
    sides = (
        ("TensorRT", stamp["tensorrt"], version),
        ("GPU", stamp["gpu"], gpu),
        ("compute capability", stamp["compute_capability"], compute_capability),
    )
    return [
        f"the plan was built for {what} {built}, here is {here}"
        for what, built, here in sides
        if here is not None and built not in (here, ANY)
    ]


def read_trtexec_log(text: str) -> tuple[Gpu, str]:
    """GPU and TensorRT version (``10.9.0``) from what ``trtexec`` prints, with the driver's line that we have added.

    Raises:
        ModelError: a line is missing, or the build failed.
    """
    found = {}
    for what, pattern in (
        ("GPU", r"Selected Device: (.+)"),
        ("compute capability", r"Compute Capability: (\d+\.\d+)"),
        ("TensorRT version", r"TensorRT version: (\d+\.\d+\.\d+)"),
        ("driver", r"^Driver: (\S+)"),
    ):
        match = re.search(pattern, text, re.MULTILINE)
        if match is None:
            raise ModelError(f"the log of trtexec has no {what}", "run the printed command again, and look at its log")
        found[what] = match[1].strip()
    if "&&&& PASSED" not in text:
        raise ModelError("the log of trtexec does not end in PASSED", "check the errors in the log")
    return Gpu(found["GPU"], found["compute capability"], found["driver"]), found["TensorRT version"]
