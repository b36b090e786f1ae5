"""Write the Triton repository of a recommender: a front that reads item ids, and the graph that ranks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lwc.core.errors import ModelError
from lwc.core.store import read_json
from lwc.export.onnx import read_io
from lwc.recipe import Package
from lwc.serving.triton.config import WarmUp, as_text, token_model
from lwc.serving.triton.repository import write_warm_ups
from lwc.tasks.next_item.histories import Catalogue
from lwc.tasks.next_item.model import PAD

_FRONT = Path(__file__).parent / "backends" / "next_item_model.py"


def _front(name: str, package: Package, parameters: dict[str, str]) -> Any:
    from tritonclient.grpc import model_config_pb2 as pb

    config = pb.ModelConfig(name=name, backend="python", max_batch_size=package.max_batch_size)
    config.dynamic_batching.max_queue_delay_microseconds = package.queue_delay_microseconds
    config.version_policy.latest.num_versions = 1
    # Histories of unequal length are answered together: the front gets each request as it is.
    config.input.add(name="history", data_type="TYPE_STRING", dims=[-1], allow_ragged_batch=True)
    config.input.add(name="k", data_type="TYPE_INT32", dims=[1], optional=True)
    config.output.add(name="items", data_type="TYPE_STRING", dims=[-1])
    config.output.add(name="scores", data_type="TYPE_FP32", dims=[-1])
    config.output.add(name="skipped", data_type="TYPE_INT32", dims=[1])
    config.instance_group.add(kind="KIND_CPU", count=package.instances)
    for key, value in parameters.items():
        config.parameters[key].string_value = value
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
    warm_ups = [WarmUp(1, min(8, max_length))]
    ranker = token_model(graph, info, package, warm_ups)
    for tensor in ranker.output:
        tensor.ClearField("label_filename")
    ranker.parameters["catalogue_sha256"].string_value = catalogue.digest()
    for model, built in ((name, _front(name, package, parameters)), (graph, ranker)):
        (out / model / "1").mkdir(parents=True)
        (out / model / "config.pbtxt").write_text(as_text(built), encoding="utf-8")
    # The most popular item, again and again.
    write_warm_ups(
        out / graph / "warmup",
        warm_ups,
        info,
        lambda length: {"input_ids": [PAD + 1] * length, "attention_mask": [1] * length, "seen": [PAD] * length},
    )
    shutil.copyfile(onnx_path, out / graph / "1" / "model.onnx")
    catalogue.write(out / name / "1" / "catalogue.json")
    shutil.copyfile(_FRONT, out / name / "1" / "model.py")
    return {"model": name, "items": len(catalogue), **parameters}
