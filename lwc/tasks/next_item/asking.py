"""The wire of a served recommender, as pure functions: histories to a request, an answer to items. No sockets."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lwc.serving.loadtest.wire import RawTensor, WireError, decode_strings, encode_strings

OUTPUTS = ("items", "scores", "skipped")


@dataclass(frozen=True)
class Recommended:
    """Item ids with their scores, best first, and how many items of the history were unknown."""

    items: tuple[str, ...]
    scores: tuple[float, ...]
    skipped: int


def padded(histories: Sequence[Sequence[str]]) -> tuple[list[str], list[int]]:
    """The ids of all histories (B × L, row by row) and the shape: shorter ones end in empty ids, L is at least 1."""
    width = max(1, *(len(history) for history in histories))
    return [item for history in histories for item in [*history, *[""] * (width - len(history))]], [
        len(histories),
        width,
    ]


def request_body(histories: Sequence[Sequence[str]], k: int) -> tuple[bytes, int]:
    """The body of ``POST /v2/models/<model>/infer`` for B histories, and the length of its JSON header in bytes."""
    ids, shape = padded(histories)
    data, wanted = encode_strings(ids), struct.pack(f"<{len(histories)}i", *[k] * len(histories))
    inputs = [
        _tensor("history", shape, "BYTES", len(data)),
        _tensor("k", [len(histories), 1], "INT32", len(wanted)),
    ]
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in OUTPUTS]
    header = json.dumps(
        {"inputs": inputs, "outputs": outputs, "parameters": {"binary_data_output": True}}, separators=(",", ":")
    ).encode()
    return header + data + wanted, len(header)


def _tensor(name: str, shape: list[int], datatype: str, size: int) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}


def grpc_request(model: str, histories: Sequence[Sequence[str]], k: int) -> Any:
    """The same as a ModelInferRequest with raw contents."""
    from tritonclient.grpc import service_pb2

    ids, shape = padded(histories)
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="history", datatype="BYTES", shape=shape)
    request.inputs.add(name="k", datatype="INT32", shape=[len(histories), 1])
    request.raw_input_contents.append(encode_strings(ids))
    request.raw_input_contents.append(struct.pack(f"<{len(histories)}i", *[k] * len(histories)))
    for name in OUTPUTS:
        request.outputs.add(name=name)
    return request


def grpc_outputs(response: Any) -> dict[str, RawTensor]:
    """The tensors of a ModelInferResponse.

    Raises:
        WireError: they did not come as raw contents.
    """
    if len(response.raw_output_contents) != len(response.outputs):
        raise WireError("the outputs did not come as raw contents")
    return {
        tensor.name: RawTensor(tensor.datatype, tuple(tensor.shape), data)
        for tensor, data in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def read_answers(outputs: Mapping[str, RawTensor]) -> list[Recommended]:
    """The answer to each history; empty places at the end of a list are left out.

    Raises:
        WireError: an output is missing, or has another type or shape than the others.
    """
    for name, datatype in (("items", "BYTES"), ("scores", "FP32"), ("skipped", "INT32")):
        if name not in outputs or outputs[name].datatype != datatype:
            raise WireError(f"the answer has no output {name!r} of type {datatype}")
    shape = outputs["items"].shape
    items = decode_strings(outputs["items"].data)
    rows, k = shape if len(shape) == 2 else (0, 0)
    if rows * k != len(items) or outputs["scores"].shape != shape or 4 * len(items) != len(outputs["scores"].data):
        raise WireError(f"items of shape {list(shape)} came with scores of shape {list(outputs['scores'].shape)}")
    if 4 * rows != len(outputs["skipped"].data):
        raise WireError(f"{rows} lists came with {len(outputs['skipped'].data)} bytes of counts")
    scores = struct.unpack(f"<{len(items)}f", outputs["scores"].data)
    skipped = struct.unpack(f"<{rows}i", outputs["skipped"].data)
    answers = []
    for row in range(rows):
        mine = [
            pair for pair in zip(items[row * k : row * k + k], scores[row * k : row * k + k], strict=True) if pair[0]
        ]
        answers.append(Recommended(tuple(item for item, _ in mine), tuple(s for _, s in mine), skipped[row]))
    return answers
