"""Write the Triton repository of a recommender: a front that reads item ids, and the graph that ranks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import onnx
from tritonclient.grpc import model_config_pb2 as pb

from lwc.artifacts import read_json
from lwc.errors import ModelError
from lwc.export.onnx import OnnxInfo, read_io
from lwc.recipe import Package
from lwc.recommender.histories import Catalogue
from lwc.serving.triton_config import as_text, intra_op_threads

_FRONT = Path(__file__).parent / "backends" / "next_item_model.py"
_WARM_UP_ITEMS = 8


def _common(name: str, backend: str, package: Package, parameters: dict[str, str]) -> Any:
    config = pb.ModelConfig(name=name, backend=backend, max_batch_size=package.max_batch_size)
    # No queue policy: docs/decisions/0009.
    config.dynamic_batching.max_queue_delay_microseconds = int(package.queue_delay_microseconds)
    config.version_policy.latest.num_versions = 1
    config.instance_group.add(kind="KIND_CPU", count=package.instances)
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    return config


def _graph(name: str, info: OnnxInfo, package: Package, parameters: dict[str, str]) -> Any:
    threads = {"intra_op_thread_count": str(intra_op_threads(package)), "inter_op_thread_count": "1"}
    config = _common(name, "onnxruntime", package, {**parameters, **threads})
    for tensor in info.inputs:
        config.input.add(name=tensor.name, data_type="TYPE_INT64", dims=list(tensor.dims[1:]))
    for tensor in info.outputs:
        kind = "TYPE_FP32" if tensor.dtype == onnx.TensorProto.FLOAT else "TYPE_INT64"
        config.output.add(name=tensor.name, data_type=kind, dims=list(tensor.dims[1:]))
    warm_up = config.model_warmup.add(name="a history of padding", batch_size=1)
    for tensor in config.input:
        # Zeros are valid ids of every catalogue; random ones may not be.
        entry = warm_up.inputs[tensor.name]
        entry.data_type, entry.zero_data = tensor.data_type, True
        entry.dims.append(_WARM_UP_ITEMS)
    return config


def _front(name: str, package: Package, parameters: dict[str, str]) -> Any:
    config = _common(name, "python", package, parameters)
    # Histories of unequal length are answered together: the front gets each request as it is.
    config.input.add(name="history", data_type="TYPE_STRING", dims=[-1], allow_ragged_batch=True)
    config.input.add(name="k", data_type="TYPE_INT32", dims=[1], optional=True)
    config.output.add(name="items", data_type="TYPE_STRING", dims=[-1])
    config.output.add(name="scores", data_type="TYPE_FP32", dims=[-1])
    config.output.add(name="skipped", data_type="TYPE_INT32", dims=[1])
    return config


def build_repository(onnx_path: Path, model_dir: Path, out: Path, package: Package, name: str) -> dict[str, Any]:
    """Write ``<name>`` (item ids → items, scores, skipped) and ``<name>_graph`` (token ids → top-k) under ``out``.

    The catalogue lies in the front's version folder, and its SHA-256 in both configurations: a model served with
    another one than it was trained with does not load.

    Raises:
        ModelError: graph and catalogue do not belong together.
    """
    info = read_io(onnx_path)
    catalogue = Catalogue.read(model_dir / "catalogue.json")
    config = read_json(model_dir / "config.json")
    if int(config["vocab_size"]) != len(catalogue) + 1:
        raise ModelError(
            f"{model_dir}: {config['vocab_size']} tokens for {len(catalogue)} items", "run the train stage again"
        )
    graph = f"{name}_graph"
    max_length = int(config["n_positions"])
    top_k = next(tensor.dims[-1] for tensor in info.outputs if tensor.name == "items")
    if not 1 <= top_k <= len(catalogue):
        raise ModelError(f"{onnx_path}: answers have {top_k} items, the catalogue {len(catalogue)}", "export it again")
    parameters = {
        "graph": graph,
        "max_length": str(max_length),
        "top_k": str(top_k),
        "catalogue_sha256": catalogue.digest(),
    }
    ranker = _graph(graph, info, package, {"catalogue_sha256": catalogue.digest()})
    for model, built in ((name, _front(name, package, parameters)), (graph, ranker)):
        (out / model / "1").mkdir(parents=True)
        (out / model / "config.pbtxt").write_text(as_text(built), encoding="utf-8")
    shutil.copyfile(onnx_path, out / graph / "1" / "model.onnx")
    catalogue.write(out / name / "1" / "catalogue.json")
    shutil.copyfile(_FRONT, out / name / "1" / "model.py")
    return {"model": name, "items": len(catalogue), **parameters}
