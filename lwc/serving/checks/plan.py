"""TensorRT plans by the stamp beside them: a plan runs only on the GPU and the TensorRT that built it."""

from __future__ import annotations

import json
from collections.abc import Iterator

from lwc.core.store import file_digest
from lwc.export.stamp import STAMP, misfits, stamp_fault
from lwc.export.tensorrt import Shapes
from lwc.serving.checks.model import Finding, Model, Repository, escapes

_ONNX = "use the ONNX model, or build the plan on this machine"


def check_plans(model: Model, repository: Repository) -> Iterator[Finding]:
    """Every served version of a model of the tensorrt backend.

    The stamp is the ``plan.json`` of `lwc.export.stamp` beside the plan.
    """
    name, machine = model.file_name, repository.machine
    if name is None or escapes(name):
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
        file = model.at(path)
        try:
            stamp = json.loads(path.read_text(encoding="utf-8"))
            fault = stamp_fault(stamp)
        except ValueError as error:  # broken JSON, or not UTF-8
            fault = f"not JSON: {error}"
        if fault is not None:
            yield file.error(fault, "build the plan again")
            continue
        if stamp["plan_sha256"] != file_digest(version / name):
            yield file.error(f"{name} is not the file that the stamp was written for", "copy both")
        if stamp["library"] != "tensorrt":
            yield file.error(
                f"built with {stamp['library']}, whose plans Triton's tensorrt backend does not load", _ONNX
            )
        for misfit in misfits(stamp, machine.gpu, machine.compute_capability, machine.tensorrt):
            yield file.error(misfit, _ONNX)
        yield from _profiles(model, file, stamp["profiles"])


def _profiles(model: Model, file: Model, profiles: list[Shapes]) -> Iterator[Finding]:
    """The profiles that the instance groups name, the first where they name none, against the model's inputs."""
    names = sorted({name for group in model.config.instance_group for name in group.profile})
    if not names and len(profiles) > 1:
        yield model.warning(
            f"the plan has {len(profiles)} profiles, no instance_group names one: only the first is used",
            f"write profile: {[str(number) for number in range(len(profiles))]}",
        )
    chosen: list[Shapes] = []
    for name in names or ["0"]:
        if name.isdecimal() and int(name) < len(profiles):
            chosen.append(profiles[int(name)])
        else:
            yield file.error(
                f"instance_group names profile {name!r}, the plan has {len(profiles)}", "number them from 0"
            )
    for tensor in sorted({tensor for profile in chosen for tensor in profile}):
        # Each as (min, opt, max). TensorRT 10 itself takes a profile that does not rise without a word.
        shapes = [[profile[tensor][key] for key in ("min", "opt", "max")] for profile in chosen if tensor in profile]
        unordered = [one for one in shapes if not all(list(sizes) == sorted(sizes) for sizes in zip(*one, strict=True))]
        for low, best, high in unordered:
            yield file.error(f"profile of {tensor}: not min {low} ≤ opt {best} ≤ max {high}", "build it again")
        if not unordered:
            low = [min(sizes) for sizes in zip(*(one[0] for one in shapes), strict=True)]
            high = [max(sizes) for sizes in zip(*(one[2] for one in shapes), strict=True)]
            yield from _bounds(file, tensor, low, high)


def _bounds(file: Model, tensor: str, low: list[int], high: list[int]) -> Iterator[Finding]:
    entries = {entry.name: entry for entry in file.config.input}
    if tensor not in entries:
        yield file.error(
            f"the plan has input {tensor!r}, in config.pbtxt are {sorted(entries)}", "name the plan's inputs"
        )
        return
    batch, dims = file.config.max_batch_size, list(entries[tensor].dims)
    if batch > high[0]:
        yield file.error(
            f"input {tensor}: the plan takes batches up to {high[0]}, max_batch_size is {batch}",
            f"write max_batch_size: {high[0]}, or build the plan with a larger profile",
        )
    if batch > 0 and low[0] > 1:
        yield file.warning(
            f"input {tensor}: the plan takes no batch below {low[0]}", "build it with a batch of 1 as the minimum"
        )
    start = 1 if batch > 0 else 0
    low, high = low[start:], high[start:]
    if len(dims) != len(low) or any(d != -1 and not a <= d <= b for a, d, b in zip(low, dims, high, strict=True)):
        yield file.error(f"input {tensor}: dims {dims}, the plan takes {low} to {high}", "write what it takes")
