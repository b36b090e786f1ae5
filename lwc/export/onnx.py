"""A model to ONNX: dynamic batch and length, evaluation mode, checked."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import onnx
import torch

from lwc.core.errors import ModelError
from lwc.export.onnx_files import gather
from lwc.export.onnx_io import OnnxInfo, read_io
from lwc.models.types import Model, Tokenizer
from lwc.tasks.task import Graph
from lwc.tasks.text import text_graph

OPSET = 18
logger = logging.getLogger(__name__)


def export_graph(graph: Graph, path: Path) -> OnnxInfo:
    """Write ``path``, with a data file if the weights do not fit in it, and return what it declares.

    Batch, length and the other named axes are dynamic.

    The TorchScript exporter is used: about ten times faster than the other one, and exact for every family in the
    table (the parity check proves it each time).

    Raises:
        ModelError: the exporter cannot do this model, or the checker refuses the graph.
    """
    axes = {name: {0: "batch", 1: graph.axes[name]} for name in graph.sample}
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            # Tracer warnings about shapes that Python reads; the parity check over many shapes is the judge.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph.module,
                tuple(graph.sample.values()),
                str(path),
                input_names=list(graph.sample),
                output_names=list(graph.outputs),
                dynamic_axes={**axes, **{name: {0: "batch"} for name in graph.outputs}},
                opset_version=OPSET,
                do_constant_folding=True,
                dynamo=False,
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise ModelError(f"{graph.name}: ONNX export failed: {error}", "this model cannot be exported yet") from error
    gather(path)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{path}: the ONNX checker refuses the graph: {error}", "report it with the recipe") from error
    return read_io(path)


def export_onnx(model: Model, tokenizer: Tokenizer, path: Path) -> OnnxInfo:
    """`export_graph` of a text model: its inputs are those of the tokenizer that the graph uses, by name."""
    return export_graph(text_graph(model, tokenizer), path)
