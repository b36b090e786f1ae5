"""What hostile clients send to a real server: each request is told its fault, and the server is as it was.

Three things are Triton's own (2.51): what its HTTP front cannot parse is a 500 or 501 that no model sees, HTTP that is
none is a closed connection, and one request kills it (tests/e2e/test_serve_again.py).
"""

from __future__ import annotations

import collections
import gzip
import http.client
import json
import random
import re
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc
from tiny_repository import LIMIT, WORDS, tiny_repository
from tritonclient.utils import InferenceServerException

from lwc.serving.triton.server import TritonServer

pytestmark = pytest.mark.serving

ROOT = Path(__file__).resolve().parents[2]
LABELS = ("great", "other")
INFER = "/v2/models/reviews/infer"
TOKENS = "/v2/models/reviews_tokens/infer"
HEADER_LENGTH = "Inference-Header-Content-Length"
# Words of Triton's HTTP front about what it cannot read, with status 500 where 400 would be right; 501 for a
# Content-Encoding that it does not know.
FRONT = re.compile(r"failed to parse the request JSON|Unable to parse |failed to get request params|attempt to access ")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_repository(tmp_path_factory.mktemp("served") / "repository", labels=LABELS, bias=2.0)


@pytest.fixture(scope="module")
def server(load: Callable[[Path], TritonServer], repository: Path) -> TritonServer:
    return load(repository)


def send(
    url: str, path: str, body: bytes, method: str = "POST", timeout: float = 30, **headers: str
) -> tuple[int, Any]:
    """Status and JSON of the answer; status 0 where the server closed the connection without one."""
    connection = http.client.HTTPConnection(url, timeout=timeout)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in {"Content-Length": str(len(body)), **named}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        packed = answer.getheader("Content-Encoding")
        if packed:
            content = gzip.decompress(content) if packed == "gzip" else zlib.decompress(content)
        if answer.getheader(HEADER_LENGTH):
            content = content[: int(answer.getheader(HEADER_LENGTH) or 0)]
        return answer.status, json.loads(content, parse_constant=pytest.fail) if content else None
    except TimeoutError:
        pytest.fail(f"no answer to {path} {body[:200]!r} {headers}")
    except (ConnectionError, http.client.HTTPException):
        return 0, None
    finally:
        connection.close()


def as_json(*data: Any, **changes: Any) -> bytes:
    entry = {"name": "text", "datatype": "BYTES", "shape": [len(data), 1], "data": list(data), **changes}
    return json.dumps({"inputs": [entry]}).encode()


def as_binary(data: bytes, size: Any = None, shape: Any = (1, 1)) -> tuple[bytes, int]:
    """A body with binary data and the length of its JSON header; ``size`` may lie."""
    parameters = {"binary_data_size": len(data) if size is None else size}
    entry = {"name": "text", "datatype": "BYTES", "shape": list(shape), "parameters": parameters}
    header = json.dumps({"inputs": [entry]}).encode()
    return header + data, len(header)


def two_inputs() -> bytes:
    return json.dumps({"inputs": 2 * json.loads(as_json("a"))["inputs"]}).encode()


def region() -> bytes:
    """A text that lies in shared memory, so it says."""
    entry = json.loads(as_json("a", parameters={"shared_memory_region": "x", "shared_memory_byte_size": 4}))
    del entry["inputs"][0]["data"]
    return json.dumps(entry).encode()


def elements(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def ids(
    datatype: str = "INT64", shape: list[int] | None = None, value: Any = 1, mask: list[int] | None = None
) -> bytes:
    shapes = {"input_ids": shape or [1, 4], "attention_mask": mask or shape or [1, 4]}
    return json.dumps(
        {
            "inputs": [
                {"name": name, "datatype": datatype, "shape": of, "data": [value] * int(np.prod(of))}
                for name, of in shapes.items()
            ]
        }
    ).encode()


def check_answer(content: Any, count: int | None = None) -> None:
    """Labels of ours and scores that are numbers and sum to 1."""
    outputs = {entry["name"]: entry for entry in content["outputs"]}
    if "data" not in outputs["label"]:
        return  # binary: not looked into
    assert set(outputs["label"]["data"]) <= set(LABELS)
    scores = np.array(outputs["scores"]["data"]).reshape(-1, len(LABELS))
    assert np.allclose(scores.sum(axis=1), 1.0, atol=1e-5)
    assert count in (None, len(scores))


def healthy(server: TritonServer) -> None:
    assert server.running
    assert server.dead_instances == []
    status, content = send(server.http_url, INFER, as_json("good", "good " * 20))
    assert status == 200, content
    # One word of 2 - 1, twenty words of 2 - 20: the answers themselves, not just answers.
    assert [entry["data"] for entry in content["outputs"] if entry["name"] == "label"] == [["great", "other"]]


def test_odd_but_valid_texts_are_answered(server: TritonServer) -> None:
    """200,000 characters are the longest text; control characters, any script and a NUL are text too."""
    for text in (
        "a",
        "good " * 40_000,
        "x" * 200_000,
        "商品 ☺ \U0001f600",
        "a\x00b",
        "\u202e\ufeff\x1b[0m",
        "'); DROP",
    ):
        status, content = send(server.http_url, INFER, as_json(text))
        assert status == 200, (text[:20], content)
        check_answer(content, 1)
    healthy(server)


Refusal = tuple[str, bytes | tuple[bytes, int], str]
REFUSED: dict[str, Refusal] = {
    "empty text": (INFER, as_json(""), "text 0: empty"),
    "only white space": (INFER, as_json(" \n\u3000"), "text 0: empty"),
    "one megabyte": (INFER, as_json("x" * 1_000_000), "1000000 characters, at most 200000"),
    "no body": (INFER, b"", "text 0: empty"),
    "bytes that are not UTF-8, in JSON": (INFER, as_json("a").replace(b'"a"', b'"\xff\xfe"'), "not valid UTF-8"),
    "bytes that are not UTF-8": (INFER, as_binary(elements(b"good \xff")), "not valid UTF-8"),
    "a lone surrogate": (INFER, as_binary(elements(b"\xed\xa0\x80")), "not valid UTF-8"),
    "wrong dtype": (INFER, as_json(1, datatype="INT32"), "INT32"),
    "unknown dtype": (INFER, as_json("a", datatype="TEXT"), "invalid datatype"),
    "wrong shape": (INFER, as_json("a", "b", shape=[1, 2]), "unexpected shape"),
    "no shape": (INFER, as_json("a", shape=[]), "no shape"),
    "no texts": (INFER, as_json(shape=[0, 1]), "string elements"),
    "a shape beyond all memory": (INFER, as_json("a", shape=[2**62, 2**62]), "unexpected shape"),
    "more texts than fit the shape": (INFER, as_binary(elements(b"a", b"b")), "string elements"),
    "batch over the limit": (INFER, as_json(*["a"] * (LIMIT + 1)), f"<= {LIMIT}"),
    "unknown model": ("/v2/models/nobody/infer", as_json("a"), "nobody"),
    "unknown version": ("/v2/models/reviews/versions/9/infer", as_json("a"), "version 9"),
    "a path in the model's name": ("/v2/models/..%2f..%2fetc/infer", as_json("a"), "unknown model"),
    "unknown input": (INFER, as_json("a", name="txt"), "txt"),
    "an input twice": (INFER, two_inputs(), "already exists"),
    "an input without data": (INFER, b'{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1]}]}', "'data'"),
    "memory that is not there": (INFER, region(), "shared memory"),
    "binary size too large": (INFER, as_binary(elements(b"a"), 1000), "additional bytes"),
    "binary size too small": (INFER, as_binary(elements(b"a"), 2), "additional input data"),
    "a text of 4 GB, announced": (INFER, as_binary(struct.pack("<I", 4_000_000_000) + b"a"), "incomplete string"),
    "a length cut short": (INFER, as_binary(b"\x01\x00"), "incomplete string"),
    "ids of 32 bits": (TOKENS, ids("INT32"), "INT32"),
    "ids beyond the vocabulary": (TOKENS, ids(value=10**12), "out of data bounds"),
    "ids and mask of unequal lengths": (TOKENS, ids(shape=[1, 3], mask=[1, 4]), "broadcast"),
    "negative ids beyond the vocabulary": (TOKENS, ids(value=-(10**6)), "out of data bounds"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_a_wrong_request_is_a_4xx_that_says_why(server: TritonServer, name: str) -> None:
    path, body, words = REFUSED[name]
    headers = {}
    if isinstance(body, tuple):
        body, length = body
        headers = {HEADER_LENGTH: str(length)}
    status, content = send(server.http_url, path, body, **headers)
    assert 400 <= status < 500, (status, content)
    assert words in content["error"]
    healthy(server)


BY_THE_FRONT: dict[str, tuple[bytes, dict[str, str]]] = {
    "no JSON": (b"{", {}),
    "JSON that is no object": (b"[]", {}),
    "100,000 open brackets": (b"[" * 100_000, {}),
    "a lone surrogate in JSON": (as_json("\ud800"), {}),
    "a number as text": (as_json(7), {}),
    "a negative shape": (as_json("a", shape=[-1, 1]), {}),
    "a shape that is no list": (as_json("a", shape="x"), {}),
    "a negative binary size": (as_binary(elements(b"a"), -5)[0], {HEADER_LENGTH: str(as_binary(b"", -5)[1])}),
    "parameters that are no object": (as_json("a")[:-1] + b', "parameters": "x"}', {}),
    "a body shorter than it is": (as_json("a"), {"Content-Length": "5"}),
    "unknown compression": (as_json("a"), {"Content-Encoding": "zstd"}),
}


@pytest.mark.parametrize("name", list(BY_THE_FRONT))
def test_what_the_front_cannot_parse_is_its_own_500_and_no_model_sees_it(server: TritonServer, name: str) -> None:
    def seen() -> int:
        _, content = send(server.http_url, "/v2/models/reviews/stats", b"", "GET")
        stats = content["model_stats"][0]["inference_stats"]
        return int(stats["success"]["count"]) + int(stats["fail"]["count"])

    body, headers = BY_THE_FRONT[name]
    before = seen()
    status, content = send(server.http_url, INFER, body, **headers)
    assert (status == 500 and FRONT.search(content["error"])) or status == 501, (status, content)
    assert seen() == before
    healthy(server)


def test_compressed_requests_are_read_and_a_broken_one_is_refused(server: TritonServer) -> None:
    status, content = send(server.http_url, INFER, gzip.compress(as_json("good")), Content_Encoding="gzip")
    assert status == 200, content
    check_answer(content, 1)
    for encoding in ("gzip", "deflate"):
        status, content = send(server.http_url, INFER, as_json("good"), Content_Encoding=encoding)
        assert status == 400, content
        assert "empty" in content["error"]
    healthy(server)


def test_connections_that_are_cut_or_no_http_cost_nothing(server: TritonServer) -> None:
    host, _, port = server.http_url.rpartition(":")
    whole = as_json("good")
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(whole)}\r\n\r\n".encode()
    for data in (
        b"",
        b"\x00" * 1000,
        b"\x16\x03\x01" * 50,
        head,
        head + whole[:20],
        head + whole,
        b"GET " + b"a" * 100_000,
    ):
        for _ in range(5):
            with socket.create_connection((host, int(port)), timeout=10) as client:
                client.sendall(data)
    for headers in ({"Content-Length": "x"}, {"X-Long": "b" * 70_000}):
        assert send(server.http_url, INFER, whole, **headers)[0] in (0, 400, 413, 431)
    healthy(server)


def test_grpc_refuses_with_the_cause_too(server: TritonServer) -> None:
    wrong: list[tuple[str, Any, str, str]] = [
        ("reviews", np.array([[b""]], dtype=np.object_), "BYTES", "empty"),
        ("reviews", np.array([[b"\xff"]], dtype=np.object_), "BYTES", "not valid UTF-8"),
        ("reviews", np.array([[b"x" * 1_000_000]], dtype=np.object_), "BYTES", "1000000 characters"),
        ("reviews", np.array([[1]], dtype=np.int32), "INT32", "INT32"),
        ("reviews", np.array([[b"a", b"b"]], dtype=np.object_), "BYTES", "unexpected shape"),
        ("reviews", np.array([[b"a"]] * (LIMIT + 1), dtype=np.object_), "BYTES", f"<= {LIMIT}"),
        ("nobody", np.array([[b"a"]], dtype=np.object_), "BYTES", "nobody"),
    ]
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        for model, array, datatype, words in wrong:
            given = tritonclient.grpc.InferInput("text", list(array.shape), datatype)
            given.set_data_from_numpy(array)
            with pytest.raises(InferenceServerException, match=words) as caught:
                client.infer(model, [given], client_timeout=30)
            assert caught.value.status() in ("StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND")
    healthy(server)


def fuzz(random_: random.Random) -> tuple[str, str, bytes, dict[str, str]]:
    """Method, path, body and headers of a request that may be anything."""
    text = "".join(random_.choice([*WORDS, " ", "\x00", "é", "商", "\U0001f600"]) for _ in range(random_.randrange(30)))
    junk: Any = random_.choice([None, -1, 2**63, 1.5, "x", [], {}, [[]], [None], True, "", [-1, 1], [1, 1, 1], [3, 1]])
    method, path, headers = "POST", INFER, {}
    kind = random_.randrange(9)
    if kind == 0:  # a valid request with bytes changed, left out or added
        raw = bytearray(as_json(text))
        for _ in range(random_.randint(1, 8)):
            at = random_.randrange(len(raw))
            raw[at : at + random_.randrange(3)] = random_.randbytes(random_.randrange(3))
        body = bytes(raw)
    elif kind == 1:
        body = as_json(text)[: random_.randrange(120)]
    elif kind == 2:  # the right keys with wrong things behind them
        body = as_json(text, **{random_.choice(["name", "datatype", "shape", "data", "parameters"]): junk})
    elif kind == 3:
        raw_text = random_.randbytes(random_.randrange(40))
        body, length = as_binary(elements(raw_text), random_.choice([None, 0, 1, 7, 10**6, -1, "x"]))
        headers = {HEADER_LENGTH: str(random_.choice([length, length + 1, length - 1, 0, 10**9, -1]))}
    elif kind == 4:  # bytes of any kind
        body = random_.randbytes(random_.randrange(2000))
    elif kind == 5:
        body = as_json(text)
        for _ in range(random_.randint(1, 4)):
            name = random_.choice(["Content-Encoding", "Accept-Encoding", "Content-Type", HEADER_LENGTH, "X-Any"])
            headers[name] = random_.choice(
                ["gzip", "deflate", "identity", "br", "", "7", "-7", "9" * 40, "é", "a,b;q=2"]
            )
    elif kind == 6:
        method = random_.choice(["POST", "GET", "PUT", "DELETE", "HEAD"])
        ends = ["infer", "versions/1/infer", "versions/2/infer", "versions/99999999999999999999/infer", "config", "x"]
        path = (
            f"/v2/models/{random_.choice(['reviews', 'reviews_tokens', 'nobody', '%00', '..'])}/{random_.choice(ends)}"
        )
        body = as_json(text) if method in ("POST", "PUT") else b""
    elif kind == 7:
        path = TOKENS
        shape, mask = ([random_.randint(0, 9), random_.randint(0, 40)] for _ in range(2))
        body = ids(random_.choice(["INT64", "INT32", "BYTES"]), shape, random_.choice([0, 1, 99, -1, "1"]), mask)
    else:  # and some that are fine, or too long
        body = as_json(*[text * random_.choice([1, 1, 1, 3000])] * random_.randint(1, LIMIT + 2))
    return method, path, body, {name: value.encode().decode("latin-1") for name, value in headers.items()}


def memory(server: TritonServer) -> float:
    """Megabytes of the server and its model processes, without files that are mapped, with the memory they share."""
    process = psutil.Process(server.pid)
    family = [process, *process.children(recursive=True)]
    own = sum(mapping.anonymous for one in family for mapping in one.memory_maps())
    shared = sum(path.stat().st_blocks * 512 for path in Path("/dev/shm").glob(f"{server._id}*"))
    return (own + shared) / 2**20


def test_a_thousand_requests_of_any_kind_leave_the_server_as_it_was(server: TritonServer) -> None:
    def large_ones() -> None:
        """Thread pools and buffers come with the first of them, and stay."""
        for _ in range(10):
            assert send(server.http_url, INFER, as_json(*["good " * 4000] * LIMIT))[0] == 200
            assert send(server.http_url, TOKENS, ids(shape=[LIMIT, 40]))[0] == 200
        healthy(server)

    large_ones()
    before = memory(server)
    random_ = random.Random(20261125)
    statuses: collections.Counter[int] = collections.Counter()
    for _ in range(1000):
        method, path, body, headers = fuzz(random_)
        status, content = send(server.http_url, path, body, method, **headers)
        statuses[status] += 1
        where = (status, content, method, path, body[:300], headers)
        if status == 200:
            assert content is None or "outputs" in content or "name" in content, where
        elif status == 500:
            assert FRONT.search(content["error"]), where
        else:
            assert 400 <= status < 500 or status == 501, where
    assert statuses[200] > 100, statuses
    assert sum(count for status, count in statuses.items() if 400 <= status < 500) > 200, statuses
    large_ones()
    after = memory(server)
    assert after < 1.1 * before, f"{before:.0f} MB before, {after:.0f} MB after"
