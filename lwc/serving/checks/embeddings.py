"""How many ids a graph has a row for: the embedding table that each of its inputs looks up."""

from __future__ import annotations

import onnx

# Operators that pass ids, or a table, on as they are.
_SAME_IDS = {"Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose"}
_SAME_TABLE = {"Cast", "Identity", "DequantizeLinear"}
# Fused by ONNX Runtime: input → its table.
_FUSED = {"EmbedLayerNormalization": {0: 2, 1: 4}, "QEmbedLayerNormalization": {0: 2, 1: 4}}


def rows_by_input(graph: onnx.GraphProto) -> dict[str, int]:
    """Rows of the table that an input indexes, of the smallest if there are several; no entry where none was found."""
    weights = {tensor.name for tensor in graph.initializer}
    tables = {tensor.name: tensor.dims[0] for tensor in graph.initializer if len(tensor.dims) >= 1}
    carried = {value.name: value.name for value in graph.input if value.name not in weights}
    found: dict[str, int] = {}
    for node in graph.node:  # in the order of execution, as ONNX wants them
        if node.op_type == "Constant" and node.output:
            for attribute in node.attribute:
                if attribute.name == "value" and attribute.t.dims:
                    tables[node.output[0]] = attribute.t.dims[0]
        if not node.input or not node.output:
            continue
        first = node.input[0]
        if node.op_type in _SAME_IDS and first in carried:
            carried[node.output[0]] = carried[first]
        if node.op_type in _SAME_TABLE and first in tables:
            tables[node.output[0]] = tables[first]
        along = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        pairs = {1: 0} if node.op_type == "Gather" and along == 0 else _FUSED.get(node.op_type, {})
        for ids, table in pairs.items():
            if max(ids, table) < len(node.input):
                name, rows = carried.get(node.input[ids]), tables.get(node.input[table])
                if name is not None and rows is not None:
                    found[name] = min(rows, found.get(name, rows))
    return found
