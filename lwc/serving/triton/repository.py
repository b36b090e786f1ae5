"""Write a Triton model repository from an exported model and its checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from onnx.helper import tensor_dtype_to_np_dtype
from tokenizers import Tokenizer

from lwc.core.errors import ModelError
from lwc.export.onnx import OnnxInfo, read_io
from lwc.export.stamp import PLAN, STAMP, read_stamp
from lwc.models.source import is_language_model
from lwc.models.token_names import token_names
from lwc.recipe import Package
from lwc.serving.triton.config import Target, WarmUp, as_text, length_buckets, text_model, token_model

# Neither praise nor blame, and in no vocabulary a problem: what is not known becomes the unknown token.
_WARM_UP_TEXT = "The product arrived on time and does what its description says. "
_TEXT_MODEL = Path(__file__).parent / "backends" / "text_model.py"


@dataclass(frozen=True)
class Answers:
    """What the text model makes of the logits (B, C): the names of its labels, how many scores, and how it chooses.

    ``class`` is the name of the highest logit. ``number`` is the name nearest to the one logit, which is the score.
    """

    names: list[str]
    outputs: int
    choice: Literal["class", "number"] = "class"


def _answers(config: dict[str, Any], tokenizer: Path) -> Answers:
    """From the checkpoint itself, never typed twice. A language model's classes are the tokens of its vocabulary."""
    if is_language_model(config.get("architectures")):
        size = int(config["vocab_size"])
        return Answers(token_names(Tokenizer.from_file(str(tokenizer)), size), size)
    if config.get("problem_type") == "regression":
        return Answers([f"{number:g}" for number in config["numbers"]], 1, "number")
    names = _labels(config)
    return Answers(names, len(names))


def _labels(config: dict[str, Any]) -> list[str]:
    """Class names in id order."""
    # transformers leaves out names that are its own defaults.
    given = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    names = {int(index): str(name) for index, name in given.items()}
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


def _warm_ups(target: Target, package: Package, longest: int, profiles: list[tuple[WarmUp, WarmUp]]) -> list[WarmUp]:
    """One short text everywhere; on a GPU the largest batch too, whose first run allocates and chooses kernels.

    A plan is run at the optimum and at the end of each profile.
    """
    if target == "tensorrt":
        return list(dict.fromkeys(shape for both in profiles for shape in both))
    short = WarmUp(1, min(32, longest))
    return [short] if target == "cpu" else list(dict.fromkeys((short, WarmUp(package.max_batch_size, longest))))


def write_warm_ups(
    folder: Path, warm_ups: Sequence[WarmUp], info: OnnxInfo, row_of: Callable[[int], dict[str, list[int]]]
) -> None:
    """One row of each length as raw little-endian numbers, a file for each input; ``row_of`` a length: name → numbers.

    Raises:
        ModelError: the graph has an input that ``row_of`` does not know.
    """
    folder.mkdir()
    for shape in warm_ups:
        row = row_of(shape.length)
        for tensor in info.inputs:
            if tensor.name not in row:
                raise ModelError(f"input {tensor.name}: nothing to warm it up with", "export the model with lwc")
            values = np.array(row[tensor.name], dtype=tensor_dtype_to_np_dtype(tensor.dtype))
            (folder / shape.file(tensor.name)).write_bytes(values.tobytes())


def _text_row(tokenizer: Path, pad_id: int, length: int) -> dict[str, list[int]]:
    """A real text, cut or padded to so many tokens."""
    reader = Tokenizer.from_file(str(tokenizer))
    reader.enable_truncation(length)
    reader.enable_padding(length=length, pad_id=pad_id)
    text = reader.encode(_WARM_UP_TEXT * (1 + length // 8))
    return {"input_ids": text.ids, "attention_mask": text.attention_mask, "token_type_ids": text.type_ids}


def build_repository(
    onnx_path: Path,
    model_dir: Path,
    out: Path,
    package: Package,
    name: str,
    target: Target = "cpu",
    plan: Path | None = None,
) -> dict[str, Any]:
    """Write ``<name>`` (text → label, scores) and ``<name>_tokens`` (token ids → logits) under ``out``.

    Names, types and dimensions of tensors are read from the ONNX file, labels and tokenizer from the checkpoint, and
    for ``target`` tensorrt the limits from the stamp of ``plan``, which was built from that ONNX file.

    Raises:
        ModelError: the file fixes its batch or does not fit the checkpoint's labels, the checkpoint has no usable
            length limit, padding token or label names, or the plan has no sound stamp or is too small.
    """
    info = read_io(onnx_path)
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((model_dir / "tokenizer_config.json").read_text(encoding="utf-8"))
    answers = _answers(config, model_dir / "tokenizer.json")
    classes = info.outputs[0].dims[-1]
    if classes not in (-1, answers.outputs):
        raise ModelError(
            f"{onnx_path}: {classes} outputs for {answers.outputs} labels", "export the model of this checkpoint"
        )
    max_length = _max_length(config, tokenizer)
    buckets = list(length_buckets(max_length))
    profiles: list[tuple[WarmUp, WarmUp]] = []
    if plan is not None:
        package, buckets, profiles = _within(plan, package, buckets)
    tokens = f"{name}_tokens"
    pad_id = _pad_id(model_dir, tokenizer)
    parameters = {
        "token_model": tokens,
        "token_inputs": ",".join(tensor.name for tensor in info.inputs),
        "length_buckets": ",".join(str(size) for size in buckets),
        "pad_id": str(pad_id),
        "choice": answers.choice,
    }
    warm_ups = _warm_ups(target, package, max_length, profiles)
    configs = {
        name: text_model(name, answers.outputs, package, parameters),
        tokens: token_model(tokens, info, package, warm_ups, target, len(profiles)),
    }
    outputs = answers.names if answers.choice == "class" else [answers.choice]
    for (model, built), names in zip(configs.items(), (answers.names, outputs), strict=True):
        folder = out / model
        (folder / "1").mkdir(parents=True)
        (folder / "config.pbtxt").write_text(as_text(built), encoding="utf-8")
        (folder / "labels.txt").write_text("".join(f"{label}\n" for label in names), encoding="utf-8")
    write_warm_ups(out / tokens / "warmup", warm_ups, info, partial(_text_row, model_dir / "tokenizer.json", pad_id))
    if plan is None:
        shutil.copyfile(onnx_path, out / tokens / "1" / "model.onnx")
    else:
        shutil.copyfile(plan, out / tokens / "1" / PLAN)
        shutil.copyfile(plan.with_name(STAMP), out / tokens / "1" / STAMP)
    shutil.copyfile(model_dir / "tokenizer.json", out / name / "1" / "tokenizer.json")
    shutil.copyfile(_TEXT_MODEL, out / name / "1" / "model.py")
    described = {"text_model": name, "token_model": tokens, "outputs": answers.outputs, "max_length": max_length}
    return {**described, **parameters}


def _within(plan: Path, package: Package, buckets: list[int]) -> tuple[Package, list[int], list[tuple[WarmUp, WarmUp]]]:
    """What a plan takes of the settings: its batch limit, its lengths, and optimum and end of each profile."""
    shapes = [next(iter(profile.values())) for profile in read_stamp(plan)["profiles"]]
    batch = min(package.max_batch_size, max(one["max"][0] for one in shapes))
    shortest, longest = min(one["min"][1] for one in shapes), max(one["max"][1] for one in shapes)
    if longest < buckets[-1]:
        raise ModelError(
            f"{plan}: takes up to {longest} tokens, texts are cut at {buckets[-1]}", "build it with a longer profile"
        )
    ends = [
        (WarmUp(min(batch, one["opt"][0]), one["opt"][1]), WarmUp(min(batch, one["max"][0]), one["max"][1]))
        for one in shapes
    ]
    fitting = [size for size in buckets if size >= shortest]
    return package.model_copy(update={"max_batch_size": batch}), fitting, ends
