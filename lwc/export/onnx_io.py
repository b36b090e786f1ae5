"""Inputs and outputs of an ONNX file. Imports no torch: whoever serves a graph reads them too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from lwc.core.errors import ModelError


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


_LFS = b"version https://git-lfs"


def read_io(path: Path) -> OnnxInfo:
    """Inputs and outputs of an ONNX file.

    Raises:
        ModelError: the file is missing, a Git LFS pointer, or no ONNX model.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such ONNX file", "export it first")
    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise ModelError(f"{path}: a Git LFS pointer, not a model", "run `git lfs pull`")
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf raises its own kinds
        raise ModelError(f"{path}: not an ONNX model: {error}", "export it again") from error
    if not graph.output:  # an empty file is a valid, empty protobuf
        raise ModelError(f"{path}: not an ONNX model: it has no outputs", "export it again")
    weights = {initializer.name for initializer in graph.initializer}
    return OnnxInfo(
        tuple(_info(value) for value in graph.input if value.name not in weights),
        tuple(_info(value) for value in graph.output),
    )


def _info(value: onnx.ValueInfoProto) -> TensorInfo:
    kind = value.type.tensor_type
    dims = tuple(int(d.dim_value) if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    return TensorInfo(value.name, int(kind.elem_type), dims)
