"""Inputs and outputs of an ONNX file. Imports no torch: whoever serves a graph reads them too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from lwc.core.errors import ModelError
from lwc.core.store import LFS_POINTER


@dataclass(frozen=True)
class TensorInfo:
    """An input or output as the file declares it; ``dims`` has −1 where a size is dynamic."""

    name: str
    dtype: int
    dims: tuple[int, ...]


@dataclass(frozen=True)
class OnnxInfo:
    """Inputs and outputs of a graph, read from the file."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


_MOST_BYTES = 2**31 - 1
# Measure the range of a whole activation, all rows of the batch, when they run.
_MEASURING = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")


def depends_on_batch(path: Path) -> bool:
    """Whether a row's answer changes with the rows that share its batch: dynamic int8, which rounds by their range.

    Any other graph of lwc gives a row the same answer in every batch, but for the order of float sums.
    """
    return _measures(onnx.load(str(path), load_external_data=False).graph)


def _measures(graph: onnx.GraphProto) -> bool:
    inner = (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g"))
    return any(node.op_type in _MEASURING for node in graph.node) or any(map(_measures, inner))


def load_graph(path: Path) -> onnx.ModelProto:
    """An ONNX file without its external data.

    Raises:
        ModelError: the file is missing, a Git LFS pointer, or no ONNX model.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such ONNX file", "export it first")
    if is_lfs_pointer(path):
        raise ModelError(f"{path}: a Git LFS pointer, not a model", "run `git lfs pull`")
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise ModelError(
            f"{path}: not an ONNX model that can be read: {size} bytes, and protobuf reads up to 2 GB",
            "save it with save_as_external_data=True",
        )
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises its own kinds
        raise ModelError(f"{path}: not an ONNX model: {error}", "export it again") from error
    if not model.graph.output:  # an empty file is a valid, empty protobuf
        raise ModelError(f"{path}: not an ONNX model: it has no outputs", "export it again")
    return model


def is_lfs_pointer(path: Path) -> bool:
    """Whether Git LFS left its pointer where the file should be."""
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def read_io(path: Path) -> OnnxInfo:
    """Inputs and outputs of an ONNX file; raises as `load_graph` does."""
    return io_of(load_graph(path).graph)


def io_of(graph: onnx.GraphProto) -> OnnxInfo:
    """Inputs and outputs of a graph; initializers that are listed among the inputs are none."""
    weights = {initializer.name for initializer in graph.initializer}
    return OnnxInfo(
        tuple(_info(value) for value in graph.input if value.name not in weights),
        tuple(_info(value) for value in graph.output),
    )


def _info(value: onnx.ValueInfoProto) -> TensorInfo:
    kind = value.type.tensor_type
    dims = tuple(int(d.dim_value) if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    return TensorInfo(value.name, int(kind.elem_type), dims)
