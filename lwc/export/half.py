"""Half precision for GPUs, with fp32 kept for the operators whose numbers do not fit.

An fp16 number ends at 65504. LayerNorm squares its input, masks hold the smallest fp32 number, and some checkpoints
carry a few huge channels: each becomes infinity, then NaN, and a server hands that out with status 200. The largest
absolute value of every tensor is therefore measured on calibration rows first.

ONNX Runtime's CPU has no fp16 kernel for most operators: it computes neighbours in fp32 and may drop the rounding
between them, so that a graph which overflows on a GPU can look sound there. Finite logits prove too little: every fp16
number of the finished graph is looked at as well. What a CPU cannot show is a GPU's rounding inside a product.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from lwc.core.arrays import Array
from lwc.core.errors import ModelError
from lwc.core.machine import cpu_limit
from lwc.export.onnx_files import save_graph, size_of, typed
from lwc.export.quantize import difference
from lwc.export.session import cpu_session, run_all

FP16 = TensorProto.FLOAT16
FP16_MAX = 65504.0
# Half of it: other texts than the calibration rows may go somewhat higher.
LIMIT = FP16_MAX / 2
# These square their input before anything makes it small again.
_SQUARING = frozenset({"LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization", "LpNormalization"})
# They hand numbers on or describe them; nothing is computed.
_SILENT = frozenset({"Constant", "Shape"})


def to_fp16(
    source: Path, target: Path, calibration: Sequence[dict[str, Array]], reference: Array, tolerance: float
) -> dict[str, Any]:
    """Write ``source`` with fp16 weights and compute; logits stay float32.

    ``calibration`` are padded inputs, int64 (B, T) by name; ``reference`` the fp32 logits (N, C) of those rows in
    order; ``tolerance`` the largest |Δ logit| allowed. In fp32 stay: every operator that reads or writes a number
    beyond ``LIMIT`` on the calibration rows (LayerNorm: beyond its root), and what is computed from ids and masks
    alone, where fp16 cannot tell position 2049 from 2048.

    Returns max_abs_diff, mean_abs_diff, agreement of labels (a label can change only where two logits lie within
    twice the tolerance), bytes, kept_fp32 (node names, for their size), positions_fp32 (how many nodes for the other
    reason) and rows.

    Raises:
        ModelError: fp32 logits are not finite already, a number does not fit in fp16, or the logits differ by more
            than the tolerance.
        ValueError: rows of calibration and reference differ in number.
    """
    model = onnx.load(str(source))
    plain = difference(source, calibration, reference)
    if not np.isfinite(plain.max_abs):
        raise ModelError(f"{source}: logits are not finite in fp32 already", "check the training, not fp16")
    kept = overflowing(model, largest_values(source, calibration))
    positions = [name for name in before_weights(model) if name not in kept]
    silent = {node.name for node in model.graph.node if node.op_type in _SILENT}
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "half.onnx"
        save_graph(convert(model, kept + positions), draft)
        found = difference(draft, calibration, reference)
        over = {name for name, value in largest_values(draft, calibration, FP16).items() if value > FP16_MAX}
        fault = f"{min(over)} does not fit in fp16" if over else f"logits differ by {found.max_abs:.3g}"
        if over or found.max_abs > tolerance:
            raise ModelError(
                f"{source}: in fp16 {fault} (allowed {tolerance:g}, {len(kept)} operators kept in fp32)",
                "serve the fp32 graph, or allow a larger difference",
            )
        save_graph(onnx.load(str(draft)), target)
    return {
        "max_abs_diff": found.max_abs,
        "mean_abs_diff": found.mean_abs,
        "agreement": found.agreement,
        "bytes": size_of(target),
        "kept_fp32": [name for name in kept if name not in silent],
        "positions_fp32": len([name for name in positions if name not in silent]),
        "rows": len(reference),
    }


def _results(model: onnx.ModelProto, kind: int) -> set[str]:
    """Names of the results of nodes that have this element type."""
    graph = typed(model)
    made = {name for node in graph.node for name in node.output}
    values = (*graph.value_info, *graph.output)
    return {value.name for value in values if value.type.tensor_type.elem_type == kind and value.name in made}


def largest_values(
    path: Path, calibration: Sequence[dict[str, Array]], kind: int = TensorProto.FLOAT
) -> dict[str, float]:
    """Largest absolute value of every result and weight of this element type over the rows; NaN counts as infinite."""
    model = onnx.load(str(path))
    graph = model.graph
    weights = [value for value in graph.initializer if value.data_type == kind]
    found = {value.name: float(np.abs(numpy_helper.to_array(value)).max(initial=0.0)) for value in weights}
    names = sorted(_results(model, kind))
    # Only one number a tensor leaves the graph: whole activations of every layer would not fit in memory.
    for name in names:
        chain = [name, *(f"{name}/{step}" for step in ("fp32", "abs", "largest"))]
        graph.node.append(helper.make_node("Cast", chain[:1], chain[1:2], to=TensorProto.FLOAT))
        graph.node.append(helper.make_node("Abs", chain[1:2], chain[2:3]))
        graph.node.append(helper.make_node("ReduceMax", chain[2:3], chain[3:], keepdims=0))
    del graph.output[:]
    graph.output.extend(helper.make_tensor_value_info(f"{name}/largest", TensorProto.FLOAT, []) for name in names)
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.onnx"
        save_graph(model, probe)
        session = cpu_session(probe, cpu_limit())
    for batch in calibration:
        for name, value in zip(names, run_all(session, batch), strict=True):
            found[name] = max(found.get(name, 0.0), float("inf") if np.isnan(value) else float(value))
    return found


def overflowing(model: onnx.ModelProto, large: dict[str, float]) -> list[str]:
    """Names of the nodes that read or write a number beyond the limit, in the graph's order."""
    kept = []
    for node in model.graph.node:
        touched = max((large.get(name, 0.0) for name in (*node.input, *node.output)), default=0.0)
        squared = large.get(node.input[0], 0.0) ** 2 if node.op_type in _SQUARING else 0.0
        if max(touched, squared) > LIMIT:
            kept.append(node.name)
    return kept


def before_weights(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that see ids, masks and shapes only, no embedding yet: rotary angles, buckets, masks.

    Constants are among them where such a node reads them.
    """
    graph = model.graph
    numbers = _results(model, TensorProto.FLOAT)
    numbers |= {value.name for value in graph.initializer if value.data_type == TensorProto.FLOAT}
    after: set[str] = set()
    fixed = {value.name for value in graph.initializer}
    constants = []
    nodes = []
    for node in graph.node:
        if fixed.issuperset(node.input):
            fixed.update(node.output)
            constants.append(node)
        elif (node.op_type == "Gather" and node.input[0] in fixed & numbers) or after & set(node.input):
            # A shape says nothing about the numbers that have it.
            after.update(node.output if node.op_type != "Shape" else ())
        elif numbers & {*node.input, *node.output}:
            nodes.append(node)
    read = {name for node in nodes for name in node.input}
    for node in reversed(constants):
        if numbers & read & set(node.output):
            nodes.append(node)
            read.update(node.input)
    return [node.name for node in nodes]


def convert(model: onnx.ModelProto, kept: Sequence[str]) -> onnx.ModelProto:
    """The graph in fp16 but for the ``kept`` nodes; inputs and outputs keep their types. ``model`` is used up.

    The converter rounds the result of every kept node to fp16 and back, so that a large number between two of them
    overflows all the same: those round trips are taken out.
    """
    values = typed(model).value_info
    del model.graph.value_info[:]
    model.graph.value_info.extend(values)
    half = convert_float_to_float16(model, keep_io_types=True, node_block_list=list(kept), disable_shape_infer=True)
    graph = half.graph
    casts = [node for node in graph.node if node.op_type == "Cast"]
    rounded = {node.output[0]: node.input[0] for node in casts if node.name.endswith("_cast_to_fp16_node")}
    outputs = {value.name for value in graph.output}
    exact = {}
    for node in casts:
        if node.input[0] in rounded and node.attribute[0].i == TensorProto.FLOAT:
            if node.output[0] in outputs:
                node.input[0] = rounded[node.input[0]]  # fp32 to fp32: an output keeps its name
            else:
                exact[node.output[0]] = rounded[node.input[0]]
    for node in graph.node:
        node.input[:] = [exact.get(name, name) for name in node.input]
    read = {name for node in graph.node for name in node.input if node.op_type != "Cast" or node.output[0] not in exact}
    unused = exact.keys() | (rounded.keys() - read)
    nodes = [node for node in graph.node if node.op_type != "Cast" or node.output[0] not in unused]
    del graph.node[:]
    graph.node.extend(nodes)
    ordered = OnnxModel(half)
    ordered.topological_sort()  # the converter appends its casts at the end
    return ordered.model
