"""ONNX models on disk: beyond protobuf's 2 GB the weights are in a data file next to the graph, which names it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

# Protobuf writes no message of 2 GiB; what is not weights is some MB at most.
LARGEST = 2**31 - 2**26
# Bytes of a constant whose value may decide a shape.
_SMALL = 1024


def all_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph: initializers, and those in attributes and inner graphs."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from all_tensors(inner)


def parts(path: Path) -> list[Path]:
    """All files of a model: the graph, then the data files that it names."""
    graph = onnx.load(str(path), load_external_data=False).graph
    names = {ExternalDataInfo(tensor).location for tensor in all_tensors(graph) if uses_external_data(tensor)}
    return [path, *(path.with_name(name) for name in sorted(names))]


def size_of(path: Path) -> int:
    """Bytes of a model in all its files."""
    return sum(part.stat().st_size for part in parts(path))


def copy_graph(source: Path, target: Path) -> None:
    """Copy a model; its data files keep their names, by which the graph finds them."""
    graph, *data = parts(source)
    shutil.copyfile(graph, target)
    for part in data:
        shutil.copyfile(part, target.with_name(part.name))


def remove_graph(path: Path) -> None:
    """Remove a model, if it is there."""
    for part in parts(path) if path.is_file() else ():
        part.unlink(missing_ok=True)


def too_large(path: Path) -> bool:
    """Whether a model does not fit in one file."""
    return size_of(path) > LARGEST


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a model in place of what is at ``path``, with a data file ``<name>.data`` if it does not fit in one."""
    remove_graph(path)  # onnx would append to an old data file
    weights = sum(len(tensor.raw_data) for tensor in all_tensors(model.graph))
    if weights <= LARGEST:
        onnx.save(model, str(path))
        return
    onnx.save(model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=f"{path.name}.data")


def gather(path: Path) -> None:
    """Put the weights that the exporter has written to a file each into one data file."""
    if len(parts(path)) > 1 or too_large(path):
        save_graph(onnx.load(str(path)), path)


def typed(model: onnx.ModelProto) -> onnx.GraphProto:
    """The graph with the types of its inner values, and without its weights: inference would copy them all."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for tensor in all_tensors(bare.graph):
        if len(tensor.raw_data) > _SMALL:
            tensor.ClearField("raw_data")
    return onnx.shape_inference.infer_shapes(bare).graph
