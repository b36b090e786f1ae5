"""Write a Triton model repository from an exported model and its checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

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
    return [names[index] for index in range(len(names))]


def build_repository(onnx_path: Path, model_dir: Path, out: Path, package: Package, name: str) -> dict[str, Any]:
    """Write ``<name>`` (text → label, scores) and ``<name>_tokens`` (token ids → logits) under ``out``.

    Names, types and dimensions of tensors are read from the ONNX file, labels and tokenizer from the checkpoint.

    Raises:
        ModelError: the file fixes its batch, or does not fit the checkpoint's labels.
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
    max_length = int(tokenizer["model_max_length"])
    tokens = f"{name}_tokens"
    parameters = {
        "token_model": tokens,
        "token_inputs": ",".join(tensor.name for tensor in info.inputs),
        "length_buckets": ",".join(str(size) for size in length_buckets(max_length)),
        "pad_id": str(config["pad_token_id"]),
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
