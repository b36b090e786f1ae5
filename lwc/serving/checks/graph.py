"""The ONNX file of a model against its configuration: both sides of every difference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from lwc.core.errors import ModelError
from lwc.export.onnx_files import all_tensors
from lwc.export.onnx_io import TensorInfo, io_of
from lwc.serving.checks.model import DERIVED, Finding, Model, Repository, Tensor, escapes, type_name
from lwc.serving.triton.config import graph_type


def check_graphs(model: Model, repository: Repository) -> Iterator[Finding]:
    """Every served version of a model of the onnxruntime backend."""
    for path, read in model.graphs.items():
        file = model.at(path)
        if isinstance(read, ModelError):
            yield file.error(read.message.removeprefix(f"{path}: "), read.hint)
        else:
            yield from _external_data(file, path.parent, read.graph)
            yield from _interface(model, file, read.graph)
    absent = [kind for kind in ("input", "output") if not getattr(model.config, kind)]
    if absent and model.graph is not None:
        where, hint = model.path(), f"write them: such a server shows them at /v2/models/{model.name}/config"
        severity = repository.machine.incomplete
        yield Finding(severity, model.name, where, f"no {' and no '.join(absent)}: {DERIVED}", hint)


def _interface(model: Model, file: Model, proto: onnx.GraphProto) -> Iterator[Finding]:
    """Inputs and outputs of the file against those of the configuration."""
    info = io_of(proto)
    shaped = {value.name for value in (*proto.input, *proto.output) if value.type.tensor_type.HasField("shape")}
    config, faults = model.config, list[Finding]()
    # Sequence controls, states and ragged batches feed inputs that are no entry of `input`.
    fed = {entry.name for entry in config.sequence_batching.control_input}
    fed |= {state.input_name for state in config.sequence_batching.state}
    fed |= {name for entry in config.batch_input for name in entry.target_name}
    for kind, entries, tensors in (("input", config.input, info.inputs), ("output", config.output, info.outputs)):
        if not entries:
            continue  # told once of all versions
        graph, names = {tensor.name: tensor for tensor in tensors}, {entry.name for entry in entries}
        # Outputs of a graph may go unused, its inputs not.
        if not names <= set(graph) or (kind == "input" and not set(graph) <= names | fed):
            yield file.error(
                f"{kind}s are {sorted(graph)}, in config.pbtxt {sorted(names)}",
                f"name in config.pbtxt the {kind}s of the graph",
            )
        for entry in entries:
            if entry.name in graph:
                faults += _compare(file, kind, entry, graph[entry.name], entry.name in shaped)
    yield from faults
    can_batch = all(tensor.dims and tensor.dims[0] == -1 for tensor in (*info.inputs, *info.outputs))
    if config.max_batch_size == 0 and not faults and can_batch:
        yield model.warning(
            "max_batch_size is 0, and the first dimension of all inputs and outputs is dynamic: Triton's auto-complete,"
            " on unless the server is told otherwise, may make it 4 and turn batching on",
            "say max_batch_size, or start the server with --disable-auto-complete-config",
        )


def _compare(file: Model, kind: str, entry: Tensor, tensor: TensorInfo, shaped: bool) -> Iterator[Finding]:
    where = f"{kind} {entry.name}:"
    in_file, in_config = graph_type(tensor.dtype), type_name(entry.data_type)
    if in_file is None:
        yield file.error(
            f"{where} no tensor of a type that Triton serves (ONNX type {tensor.dtype})", "export plain tensors"
        )
        return
    if in_file != in_config:
        yield file.error(f"{where} {in_file} in the file, {in_config} in config.pbtxt", f"write data_type: {in_file}")
    # Ragged requests are joined end to end: their shape in the file is another. Some files say no shape at all.
    if shaped and not (kind == "input" and entry.allow_ragged_batch):
        yield from _compare_dims(file, where, entry, list(tensor.dims), kind)


def _compare_dims(file: Model, where: str, entry: Tensor, graph: list[int], kind: str) -> Iterator[Finding]:
    batch = file.config.max_batch_size
    # A reshape says which shape the graph gets, where the requests have another.
    dims = list(entry.reshape.shape) if entry.HasField("reshape") else list(entry.dims)
    if batch > 0 and len(graph) == len(dims):
        yield file.error(
            f"{where} dims {dims} in config.pbtxt repeat the batch: the graph has {len(graph)} dimensions with it,"
            f" {graph}, and max_batch_size {batch} implies it (dims {graph[1:]} in the file)",
            f"write dims: {graph[1:]}",
        )
        return
    if batch > 0 and graph and graph[0] != -1:
        yield file.error(
            f"{where} the file fixes the batch at {graph[0]}, max_batch_size is {batch}",
            "export with a dynamic batch, or set max_batch_size: 0 and write the batch in dims",
        )
    rest = graph[1:] if batch > 0 else graph
    without = " (without the batch)" if batch > 0 else ""
    difference = f"{where} dims {rest} in the file{without}, {dims} in config.pbtxt"
    if len(rest) != len(dims):
        hint = "set max_batch_size, or write the batch in dims" if not batch and len(rest) == len(dims) + 1 else ""
        yield file.error(difference, hint or f"write dims: {rest}")
    elif not all(a in (-1, b) for a, b in zip(rest, dims, strict=True)):
        # A dynamic size in the file admits any in the configuration, not the reverse.
        if kind == "output" and all(a == b or b == -1 for a, b in zip(rest, dims, strict=True)):
            yield file.warning(difference, f"write dims: {rest}")
        else:
            yield file.error(difference, f"write dims: {rest}")


def _external_data(file: Model, folder: Path, graph: onnx.GraphProto) -> Iterator[Finding]:
    """Files beside the ONNX file that hold its weights: there, inside, and long enough."""
    needed: dict[str, int] = {}
    for tensor in all_tensors(graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entry = {item.key: item.value for item in tensor.external_data}
            location = entry.get("location", "")
            numbers = [entry.get(key) or "0" for key in ("offset", "length")]
            if not all(number.isdecimal() for number in numbers):
                yield file.error(f"tensor {tensor.name}: external data at {numbers}", "save the model again")
                continue
            needed[location] = max(needed.get(location, 0), sum(map(int, numbers)))
    for location, size in sorted(needed.items()):
        data = folder / location
        if not location or escapes(location):
            yield file.error(f"its external data is said to be {location!r}, out of its folder", "save the model again")
        elif not data.is_file():
            yield file.error(f"its external data file {location!r} is missing", "copy it beside the model")
        elif data.stat().st_size < size:
            yield file.error(
                f"its external data file {location!r} has {data.stat().st_size} bytes, the graph reads {size}",
                "fetch it whole (run `git lfs pull` where it is a pointer)",
            )
