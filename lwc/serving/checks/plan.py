"""TensorRT plans by the stamp beside them: a plan runs only on the GPU and the TensorRT that built it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lwc.serving.checks.layout import model_file_name
from lwc.serving.checks.model import Finding, Machine, Model

STAMP = "plan.json"
_SHAPE = ("min", "opt", "max")
_ONNX = "use the ONNX model, or build the plan on this machine"


def check_plans(model: Model, machine: Machine) -> Iterator[Finding]:
    """Every served version of a model of the tensorrt backend; nothing for other backends.

    The stamp is ``plan.json`` beside the plan: ``{"tensorrt": "10.3.0", "gpu": "NVIDIA L4", "compute_capability":
    "8.9", "profile": {"input_ids": {"min": [1, 1], "opt": [8, 64], "max": [32, 128]}}}``, shapes with the batch.
    """
    name = model_file_name(model)
    if model.backend != "tensorrt" or name is None:
        return
    for version in model.served.values():
        if not (version / name).is_file():
            continue
        path = version / STAMP
        if not path.is_file():
            yield model.warning(
                f"no {STAMP} beside the plan: its GPU, its TensorRT and its batch limit are not known",
                "keep the stamp that was written with the plan",
                version / name,
            )
            continue
        stamp = _read(path)
        if isinstance(stamp, str):
            yield model.error(stamp, "build the plan again", path)
            continue
        yield from _built_for(model, machine, stamp, path)
        for tensor, shapes in sorted(stamp["profile"].items()):
            yield from _profile(model, tensor, shapes, path)


def _read(path: Path) -> dict[str, Any] | str:
    """The stamp, or what is wrong with it."""
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # broken JSON, or not UTF-8
        return f"not JSON: {error}"
    if not isinstance(stamp, dict):
        return "no JSON object"
    for key in ("tensorrt", "gpu", "compute_capability"):
        if not isinstance(stamp.get(key), str):
            return f"no text under {key!r}"
    profile = stamp.get("profile")
    if not isinstance(profile, dict) or not profile:
        return "no shapes under 'profile'"
    for tensor, shapes in profile.items():
        sizes = [shapes.get(key) for key in _SHAPE] if isinstance(shapes, dict) else [None]
        numbers = [isinstance(s, list) and bool(s) and all(isinstance(n, int) for n in s) for s in sizes]
        if not all(numbers) or len({len(s) for s in sizes if s is not None}) != 1:
            return f"profile of {tensor!r}: min, opt and max are not three shapes of one rank"
    return stamp


def _built_for(model: Model, machine: Machine, stamp: dict[str, Any], path: Path) -> Iterator[Finding]:
    sides = (
        ("TensorRT", stamp["tensorrt"], machine.tensorrt),
        ("GPU", stamp["gpu"], machine.gpu),
        ("compute capability", stamp["compute_capability"], machine.compute_capability),
    )
    for what, built, here in sides:
        if here is not None and built != here:
            yield model.error(f"the plan was built for {what} {built}, here is {here}", _ONNX, path)


def _profile(model: Model, tensor: str, shapes: dict[str, list[int]], path: Path) -> Iterator[Finding]:
    low, best, high = (shapes[key] for key in _SHAPE)
    # TensorRT itself takes such a profile without a word.
    if not all(a <= b <= c for a, b, c in zip(low, best, high, strict=True)):
        yield model.error(f"profile of {tensor}: not min {low} ≤ opt {best} ≤ max {high}", "build it again", path)
        return
    entries = {entry.name: entry for entry in model.config.input}
    if tensor not in entries:
        yield model.error(
            f"the plan has input {tensor!r}, in config.pbtxt are {sorted(entries)}", "name the plan's inputs", path
        )
        return
    batch, dims = model.config.max_batch_size, list(entries[tensor].dims)
    if batch > high[0]:
        yield model.error(
            f"input {tensor}: the plan takes batches up to {high[0]}, max_batch_size is {batch}",
            f"write max_batch_size: {high[0]}, or build the plan with a larger profile",
            path,
        )
    if batch > 0 and low[0] > 1:
        yield model.warning(
            f"input {tensor}: the plan takes no batch below {low[0]}", "build it with a batch of 1 as the minimum", path
        )
    start = 1 if batch > 0 else 0
    low, high = low[start:], high[start:]
    if len(dims) != len(low) or any(d != -1 and not a <= d <= b for a, d, b in zip(low, dims, high, strict=True)):
        yield model.error(f"input {tensor}: dims {dims}, the plan takes {low} to {high}", "write what it takes", path)
