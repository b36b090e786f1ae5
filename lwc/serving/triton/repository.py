"""Write a Triton model repository from an exported model and its checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx.helper import tensor_dtype_to_np_dtype

from lwc.core.errors import ModelError
from lwc.export.onnx_files import parts, size_of
from lwc.export.onnx_io import OnnxInfo, read_io
from lwc.export.stamp import PLAN, STAMP, read_stamp
from lwc.recipe import Package
from lwc.serving.triton.config import Target, WarmUp, as_text, front_model, graph_model, with_instances
from lwc.serving.triton.readme import README, readme
from lwc.tasks.endpoint import Endpoint, Exported, Front


@dataclass(frozen=True)
class ModelFiles:
    """What a repository is made of: an ONNX file, its checkpoint's folder and, for TensorRT, the plan built from it.

    ``notes`` are parameters of the graph's configuration for readers: its precision, and why it is not another.
    ``fields`` are the text fields that the model was trained on, in the order in which they were joined.
    """

    onnx: Path
    checkpoint: Path
    plan: Path | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    fields: Sequence[str] = ()


def build_repository(
    endpoint: Endpoint, files: ModelFiles, out: Path, package: Package, name: str, target: Target = "cpu"
) -> dict[str, Any]:
    """Write the model ``name``, which clients call, and the one that runs the graph, under ``out``, with a README.

    Names, types and dimensions of tensors are read from the ONNX file, everything else from the checkpoint, and for
    ``target`` tensorrt the limits from the stamp of the plan. Returns what ``package.json`` says of the model.

    Raises:
        ModelError: the file fixes its batch or does not fit the checkpoint, the checkpoint lacks what serving needs, or
            the plan has no sound stamp or is too small.
    """
    info, plan = read_io(files.onnx), files.plan
    package = with_instances(package, target, size_of(files.onnx))
    # Inputs of one profile share batch and length.
    profiles = [] if plan is None else [next(iter(profile.values())) for profile in read_stamp(plan)["profiles"]]
    exported = Exported(
        files.onnx,
        tuple(tensor.name for tensor in info.inputs),
        {tensor.name: tensor.dims for tensor in info.outputs},
        min((shapes["min"][1] for shapes in profiles), default=1),
    )
    front = endpoint.front(files.checkpoint, exported, name, files.fields)
    if profiles:
        batch, longest = (max(shapes["max"][axis] for shapes in profiles) for axis in (0, 1))
        if longest < front.max_length:
            raise ModelError(
                f"{plan}: takes up to {longest} tokens, texts are cut at {front.max_length}",
                "build it with a longer profile",
            )
        package = package.model_copy(update={"max_batch_size": min(package.max_batch_size, batch)})
    warm_ups = _warm_ups(target, package, front, profiles)
    graph = graph_model(front.graph, info, package, warm_ups, target, len(profiles) or 1)
    for tensor in graph.output if front.graph_labels is not None else ():
        tensor.label_filename = "labels.txt"
    for key, value in {**(front.graph_parameters or {}), **files.notes}.items():
        graph.parameters[key].string_value = value
    public = front_model(name, front, package, target)
    for config, labels in ((public, front.labels), (graph, front.graph_labels)):
        folder = out / config.name
        (folder / "1").mkdir(parents=True)
        (folder / "config.pbtxt").write_text(as_text(config), encoding="utf-8")
        if labels is not None:
            (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    _write_warm_ups(out / front.graph / "warmup", warm_ups, info, front)
    if plan is None:
        # The graph finds its data files by their names.
        whole, *data = parts(files.onnx)
        copied = {"model.onnx": whole, **{part.name: part for part in data}}
    else:
        copied = {PLAN: plan, STAMP: plan.with_name(STAMP)}
    for model, found in ((front.graph, copied), (name, {**front.files, "model.py": front.script})):
        for file, source in found.items():
            shutil.copyfile(source, out / model / "1" / file)
    (out / README).write_text(readme(public, front), encoding="utf-8")
    return {**front.described, **front.parameters, **files.notes}


def _warm_ups(
    target: Target, package: Package, front: Front, profiles: Sequence[Mapping[str, Sequence[int]]]
) -> list[WarmUp]:
    """One short input everywhere; on a GPU the largest batch too, whose first run allocates and chooses kernels.

    A plan is run at the optimum and at the end of each profile.
    """
    most, short = package.max_batch_size, WarmUp(1, front.warm_up_length)
    if profiles:
        ends = [shapes[end] for shapes in profiles for end in ("opt", "max")]
        return list(dict.fromkeys(WarmUp(min(most, batch), length) for batch, length, *_ in ends))
    return [short] if target == "cpu" else list(dict.fromkeys((short, WarmUp(most, front.max_length))))


def _write_warm_ups(folder: Path, warm_ups: Sequence[WarmUp], info: OnnxInfo, front: Front) -> None:
    """One row of each length as raw little-endian numbers, a file for each input."""
    folder.mkdir()
    for shape in warm_ups:
        row = front.row(shape.length)
        for tensor in info.inputs:
            if tensor.name not in row:
                raise ModelError(f"input {tensor.name}: nothing to warm it up with", "export the model with lwc")
            values = np.array(row[tensor.name], dtype=tensor_dtype_to_np_dtype(tensor.dtype))
            (folder / shape.file(tensor.name)).write_bytes(values.tobytes())
