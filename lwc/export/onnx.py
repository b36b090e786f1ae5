"""A model to ONNX: dynamic batch and length, evaluation mode, checked."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from lwc.core.errors import ModelError

OPSET = 18
OUTPUT = "logits"
logger = logging.getLogger(__name__)


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


class Answer(nn.Module):
    """Positional inputs in, logits out: what a graph needs, no optional outputs.

    Logits are (B, C); those of a language model are of the token after the last real one, (B, V).
    """

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = list(names)

    def forward(self, *values: Tensor) -> Tensor:
        inputs = dict(zip(self.names, values, strict=True))
        logits: Tensor = self.model(**inputs).logits
        if logits.ndim == 2:
            return logits
        mask = inputs["attention_mask"]
        # Sizes that Python reads would freeze in the graph: the last real token is where the running count is highest.
        last = (mask.cumsum(dim=1) * mask).argmax(dim=1)
        return logits.gather(1, last[:, None, None].expand(-1, 1, logits.shape[2])).squeeze(1)


def _sample(tokenizer: Any) -> dict[str, Tensor]:
    """Two texts of different length, so that tracing meets padding."""
    encoded = tokenizer(["a short text", "another text that is a little longer"], padding=True, return_tensors="pt")
    wanted = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in encoded]
    return {name: encoded[name] for name in wanted}


def export_onnx(model: Any, tokenizer: Any, path: Path) -> OnnxInfo:
    """Write ``path`` and return what it declares.

    Inputs are those of the tokenizer that the graph uses, by name; the batch and length dimensions are dynamic. The
    TorchScript exporter is used: about ten times faster than the other one, and exact for every family in the
    table (the parity check proves it each time).

    Raises:
        ModelError: the exporter cannot do this model, or the checker refuses the graph.
    """
    sample = _sample(tokenizer)
    wrapper = Answer(model, list(sample)).eval()
    dynamic = {name: {0: "batch", 1: "length"} for name in sample} | {OUTPUT: {0: "batch"}}
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            # Tracer warnings about shapes that Python reads; the parity check over many shapes is the judge.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                wrapper,
                tuple(sample.values()),
                str(path),
                input_names=list(sample),
                output_names=[OUTPUT],
                dynamic_axes=dynamic,
                opset_version=OPSET,
                do_constant_folding=True,
                dynamo=False,
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise ModelError(
            f"{model.config.model_type}: ONNX export failed: {error}", "this family cannot be exported yet"
        ) from error
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{path}: the ONNX checker refuses the graph: {error}", "report it with the recipe") from error
    return read_io(path)


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


def _info(value: Any) -> TensorInfo:
    kind = value.type.tensor_type
    dims = tuple(int(d.dim_value) if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    return TensorInfo(value.name, int(kind.elem_type), dims)
