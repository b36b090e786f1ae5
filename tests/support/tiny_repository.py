"""Repositories of tiny text models in a moment: a hand-made ONNX graph instead of a trained model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from lwc.recipe import Package
from lwc.serving.triton.repository import ModelFiles, build_repository
from lwc.tasks.text_endpoint import TextEndpoint

LIMIT = 8
PACKAGE = Package(max_batch_size=LIMIT, queue_delay_microseconds=500, instances=1, intra_op_threads=1)
WORDS = ["good", "bad", "it", "works", "broke"]


def tiny_repository(
    out: Path, name: str = "reviews", labels: tuple[str, ...] = ("great", "other"), bias: float = 0.0,
    fields: tuple[str, ...] = (),
) -> Path:  # fmt: skip
    """A repository whose model prefers the first label by ``bias`` less the number of words of the text."""
    checkpoint = out.with_name(f"{out.name}-checkpoint")
    checkpoint.mkdir(parents=True)
    config = {"id2label": dict(enumerate(labels)), "max_position_embeddings": 32}
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 32, "pad_token": "[PAD]"}))
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[PAD]"])  # as transformers does for what tokenizer_config.json names
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    onnx.save(_graph(len(labels), bias), checkpoint / "model.onnx")
    files = ModelFiles(checkpoint / "model.onnx", checkpoint, fields=fields)
    build_repository(TextEndpoint(), files, out, PACKAGE, name)
    return out


def _graph(classes: int, bias: float) -> onnx.ModelProto:
    weights, biases = np.zeros((1, classes), np.float32), np.zeros(classes, np.float32)
    weights[0, 0], biases[0] = -1.0, bias
    embeddings = np.zeros(len(WORDS) + 2, np.float32)  # of no effect, but ids beyond the vocabulary fail as in a model
    constants = {"axis": np.array([1], np.int64), "weights": weights, "biases": biases, "embeddings": embeddings}
    nodes = [
        helper.make_node("Gather", ["embeddings", "input_ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["embedded", "mask"], ["hidden"]),
        helper.make_node("ReduceSum", ["hidden", "axis"], ["words"], keepdims=1),
        helper.make_node("MatMul", ["words", "weights"], ["product"]),
        helper.make_node("Add", ["product", "biases"], ["logits"]),
    ]
    shape = ["batch", "length"]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
