"""Eight-bit integers for the CPU, with a way back to fp32 for the operators that spoil the answers.

Only matrix products with constant weights and embedding tables become int8; attention products, masks, softmax and
LayerNorm stay in fp32. Weights are symmetric int8, one scale an output channel, and use seven of the eight bits:
processors without VNNI add two products in 16 bits, which eight-bit weights overflow, so the answers would depend on
the processor. The graph is not fused first: ONNX Runtime's offline attention fusion is wrong for left-padded and
scattered masks.

**Dynamic** quantization measures each activation's range when it runs, one scale for the whole batch: a text's answer
depends a little on the texts it shares its batch with. **Static** quantization fixes the ranges on the calibration
rows: a row's answer is then the same in any batch of that padded length.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

from lwc.core.arrays import Array
from lwc.core.errors import ModelError
from lwc.export.onnx_files import remove_graph, save_graph, size_of, too_large
from lwc.export.onnx_io import depends_on_batch
from lwc.export.session import logits
from lwc.recipe import Int8

_PRODUCTS = ("MatMul", "Gemm")
_OPERATORS = [*_PRODUCTS, "Gather"]
_WEIGHTS = {
    "op_types_to_quantize": _OPERATORS, "per_channel": True, "reduce_range": True, "weight_type": QuantType.QInt8
}  # fmt: skip
_INT8 = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)


@dataclass(frozen=True)
class Difference:
    """A graph's logits against the reference; both differences are infinite where a logit is not finite."""

    agreement: float
    max_abs: float
    mean_abs: float


def difference(path: Path, batches: Sequence[dict[str, Array]], reference: Array) -> Difference:
    """Run ``path`` on padded inputs and compare with ``reference`` (N, C), the same rows in the same order.

    Raises:
        ValueError: the batches have no rows, or other than N.
    """
    rows = sum(len(batch["input_ids"]) for batch in batches)
    if rows == 0 or rows != len(reference):
        raise ValueError(f"{rows} calibration rows for {len(reference)} reference rows")
    return apart(logits(path, batches), reference)


def apart(given: Array, reference: Array) -> Difference:
    """Logits (N, C) against those of the reference."""
    if not np.isfinite(given).all():
        return Difference(0.0, float("inf"), float("inf"))
    gap = np.abs(given.astype(np.float64) - reference)
    agreement = float((given.argmax(axis=1) == reference.argmax(axis=1)).mean())
    return Difference(agreement, float(gap.max()), float(gap.mean()))


def quantize(
    source: Path, target: Path, settings: Int8, calibration: Sequence[dict[str, Array]], reference: Array
) -> dict[str, Any]:
    """Write an int8 version of ``source`` whose labels agree with ``reference`` as the recipe asks.

    ``calibration`` are padded inputs, int64 (B, T) by name; ``reference`` the fp32 logits (N, C) of those rows in
    order. Where agreement is below ``settings.min_agreement``, or a logit is not finite, operators go back to fp32, one
    after the other, until the agreement holds: first those of the most harmful group (a block, or a module outside the
    blocks), and of these the most harmful first, each measured as the only one in int8. ``target`` is written only
    then.

    Returns mode, agreement, max_abs_diff, mean_abs_diff, bytes, quantized (operators in int8; 0 where everything had
    to go back), fallback (modules in fp32 by their Hugging Face names, in the order they went back), rows and
    depends_on_batch (see `lwc.export.onnx_io.depends_on_batch`).

    Raises:
        ModelError: nothing can be quantized, or the fp32 graph itself does not agree with the reference.
        ValueError: rows of calibration and reference differ in number.
    """
    groups = operator_groups(source)
    if not groups:
        raise ModelError(f"{source}: no operator with constant weights to quantize", "export the model again")
    with tempfile.TemporaryDirectory() as folder:
        builder = _Builder(source, Path(folder), settings, calibration)
        chosen, fallback = [node for nodes in groups.values() for node in nodes], list[str]()
        built = builder.build(chosen)
        found = difference(built, calibration, reference)
        if not _holds(found, settings):
            plain = difference(source, calibration, reference)
            if not _holds(plain, settings):
                raise ModelError(
                    f"{source}: even in fp32 the graph agrees with the reference on only {plain.agreement:.1%} of "
                    f"{len(reference)} calibration rows, int8 needs {settings.min_agreement:.1%}",
                    "the reference logits must be this model's own: export and calibrate the same checkpoint",
                )
            suspects = _suspects(builder, groups, calibration, reference)
            while chosen and not _holds(found, settings):
                node = next(suspects)
                chosen.remove(node)
                fallback.append(_module(node))
                built = builder.build(chosen) if chosen else source
                found = difference(built, calibration, reference)
        save_graph(onnx.load(str(built)), target)
    return {
        "mode": settings.mode,
        "agreement": found.agreement,
        "max_abs_diff": found.max_abs,
        "mean_abs_diff": found.mean_abs,
        "bytes": size_of(target),
        "quantized": quantized_operators(target),
        "fallback": fallback,
        "rows": len(reference),
        "depends_on_batch": depends_on_batch(target),
    }


def _holds(found: Difference, settings: Int8) -> bool:
    return bool(np.isfinite(found.max_abs)) and found.agreement >= settings.min_agreement


def _suspects(
    builder: _Builder, groups: dict[str, list[str]], calibration: Sequence[dict[str, Array]], reference: Array
) -> Iterator[str]:
    """All operators, the most harmful first: group after group, so that only the harmful ones are looked into."""

    def by_harm(parts: dict[str, list[str]]) -> list[str]:
        """Parts from the most harmful on: each one quantized alone, by lost labels, then by mean |Δ logit|."""
        if len(parts) == 1:
            return list(parts)
        harm = {}
        for name, nodes in parts.items():
            found = difference(builder.build(nodes), calibration, reference)
            harm[name] = (-found.agreement, found.mean_abs)
        return sorted(parts, key=lambda name: harm[name], reverse=True)

    for group in by_harm(groups):
        yield from by_harm({node: [node] for node in groups[group]})


def operator_groups(path: Path) -> dict[str, list[str]]:
    """Names of the operators that can be int8, by group: a transformer block, or a module outside the blocks.

    Products of two constants are left out: ONNX Runtime computes them once, when it loads the graph.
    """
    graph = onnx.load(str(path), load_external_data=False).graph
    weights = {value.name for value in graph.initializer if value.data_type == onnx.TensorProto.FLOAT}
    groups: dict[str, list[str]] = {}
    for node in graph.node:
        table = node.op_type == "Gather" and node.input[0] in weights
        product = node.op_type in _PRODUCTS and node.input[1] in weights and node.input[0] not in weights
        if table or product:
            groups.setdefault(_group(node.name), []).append(node.name)
    return groups


def _module(node: str) -> str:
    """``/model/bert/encoder/layer.3/output/dense/MatMul`` is of ``bert.encoder.layer.3.output.dense``."""
    path = node.strip("/").removeprefix("model/")
    return (path.rpartition("/")[0] or path).replace("/", ".")


def _group(node: str) -> str:
    """The block of a node, ``bert.encoder.layer.3``, or its module where it is in none."""
    module = _module(node)
    block = re.match(r"(.*?\.\d+)\.", module)
    return block[1] if block else module


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    """Calibration batches with the inputs that the graph declares; ONNX Runtime refuses any other."""

    def __init__(self, names: set[str], batches: Sequence[dict[str, Array]]) -> None:
        self._left = iter([{name: batch[name] for name in batch if name in names} for batch in batches])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._left, None)


@dataclass(frozen=True)
class _Builder:
    """Quantized versions of one graph, in one scratch folder; static ranges are measured once and kept there."""

    source: Path
    folder: Path
    settings: Int8
    calibration: Sequence[dict[str, Array]]

    def build(self, chosen: Sequence[str]) -> Path:
        """The graph with only the ``chosen`` nodes (one or more: ONNX Runtime reads none as all) in int8."""
        assert chosen
        nodes = list(chosen)
        target = self.folder / "candidate.onnx"
        remove_graph(target)
        external = too_large(self.source)
        options = {"MatMulConstBOnly": True}
        with _without_advice():
            if self.settings.mode == "dynamic":
                # A Gemm becomes MatMul + Add first, under this name; for others it names nothing.
                nodes += [f"{node}_MatMul" for node in nodes]
                quantize_dynamic(
                    self.source,
                    target,
                    nodes_to_quantize=nodes,
                    extra_options=options,
                    use_external_data_format=external,
                    **_WEIGHTS,
                )
            else:
                names = {value.name for value in onnx.load(str(self.source), load_external_data=False).graph.input}
                quantize_static(
                    self.source,
                    target,
                    _Rows(names, self.calibration),
                    nodes_to_quantize=nodes,
                    activation_type=QuantType.QUInt8,
                    extra_options={**options, "OpTypesToExcludeOutputQuantization": _OPERATORS},
                    calibration_cache_path=self.folder / "ranges.json",
                    use_external_data_format=external,
                    **_WEIGHTS,
                )
        # Quantization writes the shapes of inner tensors into the graph. Where ONNX Runtime reads them, it joins Add
        # and LayerNormalization to a SkipLayerNormalization, whose CPU kernel takes several times as long as the two.
        model = onnx.load(str(target))
        del model.graph.value_info[:]
        save_graph(model, target)
        return target


@contextmanager
def _without_advice() -> Iterator[None]:
    """ONNX Runtime advises a pre-processing step that fails on DistilBERT; that advice is not passed on."""
    root = logging.getLogger()

    def keep(record: logging.LogRecord) -> bool:
        return "pre-processing" not in record.getMessage()

    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)


def quantized_operators(path: Path) -> int:
    """Operators of a graph that read int8 weights, in either mode's form."""
    graph = onnx.load(str(path), load_external_data=False).graph
    integers = {value.name for value in graph.initializer if value.data_type in _INT8}
    restored = {
        node.output[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in integers
    }
    return sum(
        node.op_type == "MatMulInteger"
        or (node.op_type == "Gather" and node.input[0] in integers | restored)
        or (node.op_type in _PRODUCTS and node.input[1] in restored)
        for node in graph.node
    )
