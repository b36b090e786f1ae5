"""The v2 inference protocol with binary tensors, as pure functions: bytes in, bytes out, no sockets.

An HTTP body is a JSON header followed by the raw tensors in the order the header lists them; the header
``Inference-Header-Content-Length`` says where the JSON ends. A BYTES tensor is, per element in row-major
order, a 4-byte little-endian length and that many bytes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# A proxy of the environment must not stand between a test and the server, and users must not share a connection.
CHANNEL_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
HEADER_LENGTH = "Inference-Header-Content-Length"
_LENGTH = struct.Struct("<I")
_FP32_BYTES = 4


class WireError(ValueError):
    """A body that does not follow the protocol, or an answer that is not one."""


@dataclass(frozen=True)
class RawTensor:
    """One output as it came: ``datatype`` in Triton's words, ``shape``, little-endian ``data``."""

    datatype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class Answer:
    """What the model said about one text: the label's name and C finite scores."""

    label: str
    scores: tuple[float, ...]


def encode_strings(values: Sequence[str]) -> bytes:
    """Encode strings as the data of a BYTES tensor (4-byte little-endian length, UTF-8 bytes, ...)."""
    parts: list[bytes] = []
    for value in values:
        raw = value.encode("utf-8")
        parts.append(_LENGTH.pack(len(raw)))
        parts.append(raw)
    return b"".join(parts)


def decode_strings(data: bytes) -> list[str]:
    """Decode the data of a BYTES tensor.

    Raises:
        WireError: the data end inside an element, or an element is not UTF-8.
    """
    values: list[str] = []
    at = 0
    while at < len(data):
        if at + _LENGTH.size > len(data):
            raise WireError(f"BYTES tensor ends inside a length, at byte {at} of {len(data)}")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + length > len(data):
            raise WireError(f"BYTES tensor ends inside an element: {length} bytes wanted at byte {at}")
        try:
            values.append(data[at : at + length].decode("utf-8"))
        except UnicodeDecodeError as error:
            raise WireError(f"BYTES element {len(values)} is not UTF-8: {error.reason}") from error
        at += length
    return values


def encode_request(
    texts: Sequence[str],
    outputs: Sequence[str] = ("label", "scores"),
    input_name: str = "text",
    shape: Sequence[int] | None = None,
) -> tuple[bytes, int]:
    """Build the body of ``POST /v2/models/<model>/infer`` for B texts, input shape (B, 1) unless told otherwise.

    Returns the body and the length of its JSON header in bytes.
    """
    data = encode_strings(texts)
    tensor = {
        "name": input_name,
        "shape": [len(texts), 1] if shape is None else list(shape),
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(data)},
    }
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    header = json.dumps(
        {"inputs": [tensor], "outputs": wanted, "parameters": {"binary_data_output": True}},
        separators=(",", ":"),
    ).encode("utf-8")
    return header + data, len(header)


def decode_response(body: bytes, header_length: int | None) -> dict[str, RawTensor]:
    """Split a response body into its tensors.

    ``header_length`` is the value of ``Inference-Header-Content-Length``; None means the body is all JSON.

    Raises:
        WireError: the body is not the protocol's, is cut short, or carries tensors as JSON numbers
            (binary output was asked for).
    """
    split = len(body) if header_length is None else header_length
    if not 0 <= split <= len(body):
        raise WireError(f"JSON header of {split} bytes announced in a body of {len(body)}")
    try:
        header = json.loads(body[:split])
    except ValueError as error:
        raise WireError(f"the response header is not JSON: {error}") from error
    listed = header.get("outputs") if isinstance(header, dict) else None
    if not isinstance(listed, list):
        raise WireError("the response header lists no outputs")
    tensors: dict[str, RawTensor] = {}
    at = split
    for entry in listed:
        name, tensor, at = _take_tensor(entry, body, at)
        tensors[name] = tensor
    if at != len(body):
        raise WireError(f"{len(body) - at} bytes are left over after the last tensor")
    return tensors


def _take_tensor(entry: Any, body: bytes, at: int) -> tuple[str, RawTensor, int]:
    try:
        name, datatype = str(entry["name"]), str(entry["datatype"])
        shape = tuple(int(d) for d in entry["shape"])
        size = int(entry["parameters"]["binary_data_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"an output is not a binary tensor: {entry!r:.200}") from error
    if size < 0 or at + size > len(body):
        raise WireError(f"output {name!r} announces {size} bytes, {len(body) - at} are there")
    return name, RawTensor(datatype, shape, body[at : at + size]), at + size


def read_http(status: int, content: bytes, cause: str, header_length: str | None) -> dict[str, RawTensor]:
    """The outputs in an HTTP answer; ``cause`` is what the answer, or else the client, says of an error.

    Raises:
        WireError: the status is not 200, or the body cannot be read.
    """
    if status != 200:
        raise WireError(f"HTTP {status}: {cause:.200}")
    if header_length is not None and not header_length.isdigit():
        raise WireError(f"{HEADER_LENGTH} is {header_length!r:.40}")
    return decode_response(content, int(header_length) if header_length is not None else None)


def read_grpc(response: Any) -> dict[str, RawTensor]:
    """The tensors of a ModelInferResponse, from raw or typed contents."""
    outputs: dict[str, RawTensor] = {}
    for index, tensor in enumerate(response.outputs):
        if index < len(response.raw_output_contents):
            data = response.raw_output_contents[index]
        elif tensor.datatype == "BYTES":
            data = b"".join(_LENGTH.pack(len(v)) + v for v in tensor.contents.bytes_contents)
        else:
            values = tensor.contents.fp32_contents
            data = struct.pack(f"<{len(values)}f", *values)
        outputs[tensor.name] = RawTensor(tensor.datatype, tuple(tensor.shape), data)
    return outputs


def read_answer(
    outputs: Mapping[str, RawTensor], classes: int | None = None, label: str = "label", scores: str | None = "scores"
) -> Answer:
    """Read the answer to one text: ``label`` holds one BYTES element and ``scores`` FP32 (1, C), None: no scores.

    ``classes`` is C when it is known. A score that is not finite is an error of this request, not an answer.

    Raises:
        WireError: an output is missing, has another type or shape, or a score is NaN or infinite.
    """
    labels = decode_strings(_output(outputs, label, "BYTES").data)
    if len(labels) != 1:
        raise WireError(f"{len(labels)} labels came back for one text")
    if scores is None:
        return Answer(labels[0], ())
    given = _output(outputs, scores, "FP32")
    count = math.prod(given.shape)
    if count < 1 or len(given.data) != count * _FP32_BYTES:
        raise WireError(f"scores of shape {list(given.shape)} came with {len(given.data)} bytes")
    if classes is not None and count != classes:
        raise WireError(f"{count} scores came back for {classes} classes")
    numbers = struct.unpack(f"<{count}f", given.data)
    if not all(math.isfinite(number) for number in numbers):
        raise WireError(f"the scores are not finite: {list(numbers)[:8]}")
    return Answer(labels[0], numbers)


def _output(outputs: Mapping[str, RawTensor], name: str, datatype: str) -> RawTensor:
    if name not in outputs:
        raise WireError(f"the answer has no output {name!r}, only {sorted(outputs)}")
    if outputs[name].datatype != datatype:
        raise WireError(f"output {name!r} is {outputs[name].datatype}, not {datatype}")
    return outputs[name]
