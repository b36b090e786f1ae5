"""Look a model repository over before a server does: each fault named with both sides, all in one go."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from onnx import helper
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.utils import np_to_triton_dtype

from lwc.errors import ModelError
from lwc.export.onnx import TensorInfo, read_io
from lwc.serving.triton_config import parse

_FILES = {"onnxruntime": "model.onnx", "python": "model.py"}


def check_repository(folder: Path) -> list[str]:
    """Lines about what Triton will ignore in ``folder``; empty where nothing is out of place.

    Raises:
        ModelError: something that would keep the server from starting or fail every request, all faults together.
    """
    notes: list[str] = []
    faults: list[str] = []
    models = sorted(path for path in folder.iterdir() if path.is_dir())
    for model in models:
        if not (model / "config.pbtxt").is_file():
            # Triton ignores stray folders inside a model but not beside one: it does not start.
            faults.append(f"{model.name}: no config.pbtxt, so it is no model; remove it")
            continue
        _check_model(model, notes, faults)
    if not models:
        faults.append("no model in it")
    if faults:
        raise ModelError(
            f"model repository {folder}:\n" + "\n".join(f"  {fault}" for fault in faults),
            "package the model again, or repair the files that are named",
        )
    return notes


def _check_model(model: Path, notes: list[str], faults: list[str]) -> None:
    try:
        config = parse((model / "config.pbtxt").read_text(encoding="utf-8"))
    except (text_format.ParseError, UnicodeDecodeError) as error:
        faults.append(f"{model.name}/config.pbtxt: {error}")
        return
    if config.name not in ("", model.name):
        faults.append(f"{model.name}/config.pbtxt: its name is {config.name!r}, the folder's is {model.name!r}")
    token_model = config.parameters["token_model"].string_value if "token_model" in config.parameters else ""
    if token_model and not (model.parent / token_model).is_dir():
        faults.append(f"{model.name}: calls {token_model!r}, which is not in the repository")
    folders = [path for path in sorted(model.iterdir()) if path.is_dir()]
    versions = [path for path in folders if path.name.isdecimal() and int(path.name) > 0]
    strays = [path for path in folders if path not in versions]
    inside = [path for version in versions for path in sorted(version.iterdir()) if path.is_dir()]
    # Triton's Python leaves __pycache__ beside a model.py that it serves.
    strays += [path for path in inside if path.name != "__pycache__"]
    notes += [f"ignored: {path.relative_to(model.parent)}/ is no version of {model.name}" for path in strays]
    if not versions:
        faults.append(f"{model.name}: no version folder such as 1/")
    for version in versions:
        name = config.default_model_filename or _FILES.get(config.backend)
        if name is None:
            continue
        path = version / name
        if not path.is_file():
            faults.append(f"{path.relative_to(model.parent)}: no such file")
        elif config.backend == "onnxruntime":
            faults += _check_graph(path, config)


def _check_graph(path: Path, config: Any) -> Iterable[str]:
    """What the configuration says otherwise than the ONNX file."""
    where = path.relative_to(path.parents[2])
    try:
        info = read_io(path)
    except ModelError as error:
        return [error.message]
    faults = []
    for kind, declared, tensors in (("input", config.input, info.inputs), ("output", config.output, info.outputs)):
        graph = {tensor.name: tensor for tensor in tensors}
        names = {entry.name for entry in declared}
        missing = set(graph) - names if kind == "input" else set()
        if names - set(graph) or missing:
            faults.append(f"{where}: {kind}s are {sorted(graph)}, in config.pbtxt {sorted(names)}")
        for entry in declared:
            if entry.name in graph:
                faults += [
                    f"{where}: {kind} {entry.name}: {fault}" for fault in _compare(entry, graph[entry.name], config)
                ]
    return faults


def _compare(entry: Any, tensor: TensorInfo, config: Any) -> Iterable[str]:
    numpy_type = helper.tensor_dtype_to_np_dtype(tensor.dtype)
    graph_type = "TYPE_" + str(np_to_triton_dtype(numpy_type)).replace("BYTES", "STRING")
    config_type = pb.DataType.Name(entry.data_type)
    if graph_type != config_type:
        yield f"{graph_type} in the file, {config_type} in config.pbtxt"
    dims = list(tensor.dims)
    if config.max_batch_size > 0:
        if dims and dims[0] != -1:
            yield f"the file fixes the batch at {dims[0]}, max_batch_size is {config.max_batch_size}"
        dims = dims[1:]
    # A dynamic size in the file admits any in the configuration, not the reverse.
    fits = len(dims) == len(entry.dims) and all(a in (-1, b) for a, b in zip(dims, entry.dims, strict=True))
    if not fits:
        yield f"dims {dims} in the file (without the batch), {list(entry.dims)} in config.pbtxt"
