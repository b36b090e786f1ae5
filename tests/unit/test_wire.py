"""The binary tensor protocol: against itself, and against tritonclient's own encoder."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from lwc.serving.loadtest.wire import (
    RawTensor,
    WireError,
    decode_response,
    decode_strings,
    encode_request,
    encode_strings,
    read_answer,
)

TEXTS = ["", "plain", "naïve ☕ 🙂", "with\0zero", "line\nbreak", "x" * 5000]


def test_strings_round_trip() -> None:
    assert decode_strings(encode_strings(TEXTS)) == TEXTS
    assert decode_strings(encode_strings([])) == []
    assert encode_strings(["é"]) == b"\x02\x00\x00\x00\xc3\xa9"


def test_strings_equal_tritonclients_encoder() -> None:
    utils = pytest.importorskip("tritonclient.utils")
    array = np.array(TEXTS, dtype=np.object_)
    assert utils.serialize_byte_tensor(array).item() == encode_strings(TEXTS)
    decoded = utils.deserialize_bytes_tensor(encode_strings(TEXTS))
    assert [v.decode() for v in decoded] == TEXTS


def test_request_equals_tritonclients_request() -> None:
    client = pytest.importorskip("tritonclient.http")
    tensor = client.InferInput("text", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([["naïve ☕"]], dtype=np.object_))
    theirs, split = client.InferenceServerClient.generate_request_body(
        [tensor], outputs=[client.InferRequestedOutput(n, binary_data=True) for n in ("label", "scores")]
    )
    body, header_length = encode_request(["naïve ☕"])
    assert body[header_length:] == theirs[split:]
    ours, reference = json.loads(body[:header_length]), json.loads(theirs[:split])
    assert ours["inputs"] == reference["inputs"]
    assert ours["outputs"] == reference["outputs"]
    assert ours["parameters"]["binary_data_output"] is True


def response(label: bytes, scores: list[float]) -> tuple[bytes, int]:
    data = [struct.pack("<I", len(label)) + label, struct.pack(f"<{len(scores)}f", *scores)]
    outputs = [
        {"name": "label", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": len(data[0])}},
        {
            "name": "scores",
            "datatype": "FP32",
            "shape": [1, len(scores)],
            "parameters": {"binary_data_size": len(data[1])},
        },
    ]
    head = json.dumps({"outputs": outputs}).encode()
    return head + b"".join(data), len(head)


def test_response_round_trip_and_tritonclient_agrees() -> None:
    body, split = response("ça".encode(), [0.25, -1.5])
    answer = read_answer(decode_response(body, split), classes=2)
    assert (answer.label, answer.scores) == ("ça", (0.25, -1.5))
    client = pytest.importorskip("tritonclient.http")
    parsed = client.InferenceServerClient.parse_response_body(body, header_length=split)
    assert parsed.as_numpy("label")[0, 0].decode() == "ça"


@pytest.mark.parametrize("cut", [1, 5, 9])
def test_cut_body_is_an_error(cut: int) -> None:
    body, split = response(b"great", [0.0, 1.0])
    with pytest.raises(WireError):
        decode_response(body[:-cut], split)


@pytest.mark.parametrize(
    ("body", "split"),
    [(b"", None), (b"{}", None), (b"[]", 2), (b"{", 1), (b"{}", 9), (b'{"outputs": [{"name": "label"}]}', None)],
)
def test_bodies_that_are_not_the_protocol(body: bytes, split: int | None) -> None:
    with pytest.raises(WireError):
        decode_response(body, split)


def test_left_over_bytes_are_an_error() -> None:
    body, split = response(b"great", [0.0])
    with pytest.raises(WireError, match="left over"):
        decode_response(body + b"x", split)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_an_error_of_the_request(value: float) -> None:
    with pytest.raises(WireError, match="not finite"):
        read_answer(decode_response(*response(b"great", [0.0, value])))


def test_answers_of_the_wrong_kind() -> None:
    good = decode_response(*response(b"great", [0.0, 1.0]))
    with pytest.raises(WireError, match="3 classes"):
        read_answer(good, classes=3)
    with pytest.raises(WireError, match="no output 'scores'"):
        read_answer({"label": good["label"]})
    with pytest.raises(WireError, match="not FP32"):
        read_answer({**good, "scores": RawTensor("FP64", (1, 2), b"\0" * 16)})
    with pytest.raises(WireError, match="2 labels"):
        read_answer({**good, "label": RawTensor("BYTES", (2, 1), encode_strings(["a", "b"]))})
    with pytest.raises(WireError, match="not UTF-8"):
        read_answer({**good, "label": RawTensor("BYTES", (1, 1), b"\x01\0\0\0\xff")})
