"""Write a Triton model repository from an exported model and its checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from lwc.errors import ModelError
from lwc.export.onnx import read_io
from lwc.recipe import Package
from lwc.serving.triton_config import as_text, length_buckets, text_model, token_model

_TEXT_MODEL = Path(__file__).parent / "backends" / "text_model.py"


def _labels(config: dict[str, Any]) -> list[str]:
    """Class names in id order, from the checkpoint itself: never typed twice."""
    names = {int(index): str(name) for index, name in config["id2label"].items()}
    if sorted(names) != list(range(len(names))):
        raise ModelError(f"id2label has ids {sorted(names)}", "number the labels from 0 without gaps")
    for name in names.values():
        if "\n" in name or "\r" in name:
            raise ModelError(f"label {name!r} holds a line break", "labels.txt has one label a line: rename it")
    return [names[index] for index in range(len(names))]


def _max_length(config: dict[str, Any], tokenizer: dict[str, Any]) -> int:
    """Where texts are cut; tokenizers without a limit carry 10^30 for it."""
    length, positions = tokenizer.get("model_max_length"), config.get("max_position_embeddings")
    if length is None or (positions is not None and int(length) > int(positions)):
        raise ModelError(
            f"the tokenizer's model_max_length is {length}, the model has {positions} positions",
            "set model_max_length in tokenizer_config.json to the length that the model was trained on",
        )
    return int(length)


def _pad_id(model_dir: Path, tokenizer: dict[str, Any]) -> int:
    """The tokenizer's own padding id, which training pads with too; the config's may be absent or another."""
    token = tokenizer.get("pad_token")
    text = token.get("content") if isinstance(token, dict) else token
    number = Tokenizer.from_file(str(model_dir / "tokenizer.json")).token_to_id(text) if text else None
    if number is None:
        raise ModelError(f"{model_dir}: its tokenizer has no padding token", "set pad_token and save it again")
    return int(number)


def build_repository(onnx_path: Path, model_dir: Path, out: Path, package: Package, name: str) -> dict[str, Any]:
    """Write ``<name>`` (text → label, scores) and ``<name>_tokens`` (token ids → logits) under ``out``.

    Names, types and dimensions of tensors are read from the ONNX file, labels and tokenizer from the checkpoint.

    Raises:
        ModelError: the file fixes its batch or does not fit the checkpoint's labels, or the checkpoint has no usable
            length limit, padding token or label names.
    """
    info = read_io(onnx_path)
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((model_dir / "tokenizer_config.json").read_text(encoding="utf-8"))
    labels = _labels(config)
    classes = info.outputs[0].dims[-1]
    if classes not in (-1, len(labels)):
        raise ModelError(
            f"{onnx_path}: {classes} outputs for {len(labels)} labels", "export the model of this checkpoint"
        )
    max_length = _max_length(config, tokenizer)
    tokens = f"{name}_tokens"
    parameters = {
        "token_model": tokens,
        "token_inputs": ",".join(tensor.name for tensor in info.inputs),
        "length_buckets": ",".join(str(size) for size in length_buckets(max_length)),
        "pad_id": str(_pad_id(model_dir, tokenizer)),
    }
    configs = {
        name: text_model(name, len(labels), package, parameters),
        tokens: token_model(tokens, info, package, min(32, max_length)),
    }
    for model, built in configs.items():
        folder = out / model
        (folder / "1").mkdir(parents=True)
        (folder / "config.pbtxt").write_text(as_text(built), encoding="utf-8")
        (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    shutil.copyfile(onnx_path, out / tokens / "1" / "model.onnx")
    shutil.copyfile(model_dir / "tokenizer.json", out / name / "1" / "tokenizer.json")
    shutil.copyfile(_TEXT_MODEL, out / name / "1" / "model.py")
    return {"text_model": name, "token_model": tokens, "labels": labels, "max_length": max_length, **parameters}
