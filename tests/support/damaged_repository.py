"""A sound repository of a token model, a Python model and an ensemble, and ways to damage it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CONFIG = """\
backend: "onnxruntime"
max_batch_size: 128
input { name: "ids" data_type: TYPE_INT64 dims: -1 }
output { name: "logits" data_type: TYPE_FP32 dims: 2 label_filename: "labels.txt" }
dynamic_batching { }
instance_group { kind: KIND_CPU count: 1 }
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
model_warmup {
  name: "w" batch_size: 1
  inputs { key: "ids" value { data_type: TYPE_INT64 dims: 8 zero_data: true } }
}
"""
PYTHON = """\
backend: "python"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 2 }
output { name: "y" data_type: TYPE_FP32 dims: 2 }
"""
ENSEMBLE = """\
platform: "ensemble"
max_batch_size: 8
input { name: "words" data_type: TYPE_INT64 dims: -1 }
output { name: "scores" data_type: TYPE_FP32 dims: 2 }
ensemble_scheduling {
  step {
    model_name: "t" model_version: -1
    input_map { key: "ids" value: "words" } output_map { key: "logits" value: "logits" }
  }
  step {
    model_name: "p" model_version: -1
    input_map { key: "x" value: "logits" } output_map { key: "y" value: "scores" }
  }
}
"""
MODEL_PY = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"


def write_graph(
    path: Path,
    batch: int | str = "batch",
    length: int | str = "length",
    kind: int = TensorProto.INT64,
    external: bool = False,
    rows: int = 0,
) -> None:
    """A graph of ids (batch, length) in and logits (batch, 2) out.

    With ``external``, weights are in ``weights.bin``; with ``rows``, ids are looked up in a table of so many.
    """
    nodes = [
        helper.make_node("Cast", ["ids"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers"], ["mean"], axes=[1]),
        helper.make_node("MatMul", ["mean", "weight"], ["logits"]),
    ]
    weights = {"weight": np.ones((1, 2), dtype=np.float32)}
    if rows:
        looked_up = [
            helper.make_node("Cast", ["ids"], ["whole"], to=TensorProto.INT32),
            helper.make_node("Gather", ["table", "whole"], ["numbers"]),
        ]
        nodes, weights = [*looked_up, *nodes[1:]], {**weights, "table": np.zeros(rows, dtype=np.float32)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", kind, [batch, length])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 2])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=external, location="weights.bin", size_threshold=0)


def sound_repository(folder: Path) -> Path:
    """Token model ``t``, Python model ``p``, and ensemble ``e`` of both."""
    for name, text in (("t", CONFIG), ("p", PYTHON), ("e", ENSEMBLE)):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(text)
    write_graph(folder / "t" / "1" / "model.onnx")
    (folder / "t" / "labels.txt").write_text("bad\ngood\n")
    (folder / "p" / "1" / "model.py").write_text(MODEL_PY)
    return folder


def edit(model: str, old: str, new: str) -> Callable[[Path], None]:
    def change(repository: Path) -> None:
        path = repository / model / "config.pbtxt"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def append(model: str, text: str) -> Callable[[Path], None]:
    first = "platform" if model == "e" else "backend"
    return edit(model, first, f"{text}\n{first}")


def graph(**arguments: Any) -> Callable[[Path], None]:
    return lambda repository: write_graph(repository / "t" / "1" / "model.onnx", **arguments)


def touch(name: str) -> Callable[[Path], None]:
    """An empty file, or a folder where the name ends in a slash."""

    def make(repository: Path) -> None:
        path = repository / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.write_text("")

    return make


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda repository: (repository / name).write_bytes(data)


def both(*steps: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(repository: Path) -> None:
        for step in steps:
            step(repository)

    return change


def warm_ids(*ids: int) -> Callable[[Path], None]:
    """A graph whose table has eight rows, warmed up with these ids and zeros."""
    row = np.zeros(8, dtype="<i8")
    row[: len(ids)] = ids
    named_file = edit("t", "zero_data: true", 'input_data_file: "f"')
    return both(graph(rows=8), named_file, touch("t/warmup/"), write("t/warmup/f", row.tobytes()))


def named(name: str) -> Callable[[Path], object]:
    """One more sound model of that name."""
    return lambda repository: shutil.copytree(repository / "p", repository / name)


def runtime(
    opsets: dict[str, int] | None = None, ir: int = 8, node: onnx.NodeProto | None = None
) -> Callable[[Path], None]:
    """The graph with other versions, or with one node more."""

    def change(repository: Path) -> None:
        path = repository / "t" / "1" / "model.onnx"
        model = onnx.load(path)
        model.ir_version = ir
        if opsets is not None:
            del model.opset_import[:]
            model.opset_import.extend(helper.make_opsetid(*entry) for entry in opsets.items())
        if node is not None:
            model.graph.node.append(node)
        path.write_bytes(model.SerializeToString())

    return change


def environment(value: str) -> Callable[[Path], None]:
    return append("p", f'parameters {{ key: "EXECUTION_ENV_PATH" value {{ string_value: "{value}" }} }}')
