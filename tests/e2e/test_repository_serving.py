"""A repository that lwc wrote, served: labels and scores equal offline, and every bad request is told so, alone."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import tritonclient.grpc
import tritonclient.http
from onnx import helper
from tiny_models import tiny
from tokenizers import Tokenizer
from tritonclient.utils import InferenceServerException

from lwc.export.onnx import export_onnx
from lwc.export.session import cpu_session, run
from lwc.models.load import load_classifier, load_tokenizer, save_checkpoint
from lwc.models.tokenizer import train_wordpiece
from lwc.recipe import Package
from lwc.serving.triton.repository import ModelFiles, build_repository
from lwc.serving.triton.server import TritonServer
from lwc.tasks.text_endpoint import TextEndpoint

pytestmark = pytest.mark.serving

MAX_LENGTH = 32
LIMIT = 8
PACKAGE = Package(max_batch_size=LIMIT, queue_delay_microseconds=20000, instances=1, intra_op_threads=1)
# Neither in the alphabet's order nor in that of the usual negative, positive.
NAMES = ["wünderbar ☺", "awful, really"]
TEXTS = [
    "good",
    "bad, broke after one day",
    "it works well and it is good value for the money, I would buy it again and again and tell my friends so",
    "Ünïcode 商品 ☺ is good",
    "broke",
    "I would not buy it again: bad value, bad product, and it never worked at all, not even for one day",
    "longer than the model reads, " * 20,
    "ok\x00 then\nand more\ttabs",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = train_wordpiece(TEXTS * 5, 200, MAX_LENGTH)
    model = tiny(
        "bert", blocks=2, seed=3, vocab_size=len(tokenizer), pad_token_id=0, num_labels=2,
        id2label=dict(enumerate(NAMES)), label2id={name: i for i, name in enumerate(NAMES)},
    )  # fmt: skip
    with torch.no_grad():  # centred, so that the texts get both labels
        logits = model(**tokenizer(TEXTS, truncation=True, padding=True, return_tensors="pt")).logits
        model.classifier.bias -= logits.mean(dim=0)
    save_checkpoint(model, tokenizer, folder)
    export_onnx(model, tokenizer, folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def offline(checkpoint: Path) -> dict[str, tuple[str, np.ndarray]]:
    """Label and scores of each text from the ONNX file directly, one text at a time and unpadded."""
    tokenizer, session = load_tokenizer(checkpoint), cpu_session(checkpoint / "model.onnx", 1)
    answers = {}
    for text in TEXTS:
        encoded = tokenizer([text], truncation=True, max_length=MAX_LENGTH, return_tensors="np")
        logits = run(session, {name: value.astype(np.int64) for name, value in encoded.items()})[0]
        scores = np.exp(logits) / np.exp(logits).sum()
        answers[text] = (NAMES[int(scores.argmax())], scores)
    assert {label for label, _ in answers.values()} == set(NAMES), "one label for all texts proves nothing"
    return answers


def nan_for(path: Path, out: Path, token: int) -> None:
    """The same graph, with logits that are not numbers for texts that hold this token."""
    graph = onnx.load(str(path))
    for node in graph.graph.node:
        for position, name in enumerate(node.output):
            if name == "logits":
                node.output[position] = "clean"
    numbers, whole = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    graph.graph.initializer.extend(
        [
            helper.make_tensor("nan", numbers, [], [float("nan")]),
            helper.make_tensor("half", numbers, [], [0.5]),
            helper.make_tensor("token", whole, [], [token]),
            helper.make_tensor("axis", whole, [1], [1]),
        ]
    )
    graph.graph.node.extend(
        [
            helper.make_node("Equal", ["input_ids", "token"], ["hits"]),
            helper.make_node("Cast", ["hits"], ["hit_numbers"], to=numbers),
            helper.make_node("ReduceMax", ["hit_numbers", "axis"], ["hit"]),
            helper.make_node("Greater", ["hit", "half"], ["bad"]),
            helper.make_node("Where", ["bad", "nan", "clean"], ["logits"]),
        ]
    )
    onnx.save(graph, out)


@pytest.fixture(scope="module")
def server(
    load: Callable[[Path], TritonServer], checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> TritonServer:
    folder = tmp_path_factory.mktemp("repository")
    build_repository(TextEndpoint(), ModelFiles(checkpoint / "model.onnx", checkpoint), folder, PACKAGE, "reviews")
    token = Tokenizer.from_file(str(checkpoint / "tokenizer.json")).token_to_id("broke")
    nan_for(checkpoint / "model.onnx", checkpoint / "nan.onnx", token)
    build_repository(TextEndpoint(), ModelFiles(checkpoint / "nan.onnx", checkpoint), folder, PACKAGE, "nan")
    swapped = tmp_path_factory.mktemp("swapped")
    model, tokenizer = load_classifier(checkpoint, label_names=NAMES[::-1]), load_tokenizer(checkpoint)
    save_checkpoint(model, tokenizer, swapped)
    export_onnx(model, tokenizer, swapped / "model.onnx")
    build_repository(TextEndpoint(), ModelFiles(swapped / "model.onnx", swapped), folder, PACKAGE, "swapped")
    typed = tmp_path_factory.mktemp("typed")
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    model = load_classifier(checkpoint)
    save_checkpoint(model, tokenizer, typed)
    export_onnx(model, tokenizer, typed / "model.onnx")
    described = build_repository(TextEndpoint(), ModelFiles(typed / "model.onnx", typed), folder, PACKAGE, "typed")
    assert described["token_inputs"] == "input_ids,attention_mask,token_type_ids"
    cached = Package(max_batch_size=LIMIT, intra_op_threads=1, response_cache=True)
    build_repository(TextEndpoint(), ModelFiles(checkpoint / "model.onnx", checkpoint), folder, cached, "cached")
    return load(folder)


Answer = list[tuple[str, np.ndarray]]


def ask(
    server: TritonServer, protocol: str, texts: list[Any], model: str = "reviews", shape: list[int] | None = None
) -> Answer:
    """Label and scores of each text, in one request."""
    library: Any = {"http": tritonclient.http, "grpc": tritonclient.grpc}[protocol]
    raw = [text if isinstance(text, bytes) else text.encode() for text in texts]
    given = library.InferInput("text", shape or [len(raw), 1], "BYTES")
    given.set_data_from_numpy(np.array(raw, dtype=np.object_).reshape(shape or (len(raw), 1)))
    with library.InferenceServerClient(server.http_url if protocol == "http" else server.grpc_url) as client:
        result = client.infer(model, [given])
    labels, scores = result.as_numpy("label"), result.as_numpy("scores")
    assert labels.shape == (len(raw), 1)
    assert scores.shape == (len(raw), len(NAMES))
    assert scores.dtype == np.float32
    return [(label.decode(), row) for label, row in zip(labels[:, 0], scores, strict=True)]


def post(server: TritonServer, model: str, body: dict[str, Any] | bytes) -> tuple[int, dict[str, Any]]:
    """Status and JSON of a plain HTTP request, which is what a client without Triton's library sends."""
    connection = http.client.HTTPConnection(server.http_url, timeout=30)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", f"/v2/models/{model}/infer", data, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = json.loads(answer.read(), parse_constant=pytest.fail)  # NaN is no JSON
    connection.close()
    return answer.status, content


def text_body(texts: list[str], shape: list[int] | None = None, **changes: Any) -> dict[str, Any]:
    entry = {"name": "text", "datatype": "BYTES", "shape": shape or [len(texts), 1], "data": texts, **changes}
    return {"inputs": [entry]}


def same(answers: Answer, texts: list[str], offline: dict[str, tuple[str, np.ndarray]]) -> None:
    for text, (label, scores) in zip(texts, answers, strict=True):
        assert label == offline[text][0]
        np.testing.assert_allclose(scores, offline[text][1], atol=1e-5)
        assert scores.sum() == pytest.approx(1.0, abs=1e-6)


def test_the_texts_reach_the_cut_and_differ_in_length(checkpoint: Path) -> None:
    lengths = [len(ids) for ids in load_tokenizer(checkpoint)(TEXTS)["input_ids"]]
    assert max(lengths) > MAX_LENGTH
    assert len(set(lengths)) >= 5


def healthy(server: TritonServer, offline: dict[str, tuple[str, np.ndarray]]) -> None:
    assert server.running
    for protocol in ("http", "grpc"):
        same(ask(server, protocol, TEXTS[:1]), TEXTS[:1], offline)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_texts_of_unequal_length_in_one_request_equal_offline(
    server: TritonServer, offline: dict[str, tuple[str, np.ndarray]], protocol: str
) -> None:
    same(ask(server, protocol, TEXTS), TEXTS, offline)
    same(ask(server, protocol, TEXTS[::-1]), TEXTS[::-1], offline)


def ask_at_once(server: TritonServer, protocol: str, texts: list[str]) -> Answer:
    """Each text in a request of its own, all under way together over connections that are already open."""
    library: Any = {"http": tritonclient.http, "grpc": tritonclient.grpc}[protocol]
    requests = []
    for text in texts:
        given = library.InferInput("text", [1, 1], "BYTES")
        given.set_data_from_numpy(np.array([[text.encode()]], dtype=np.object_))
        requests.append([given])
    if protocol == "http":
        with library.InferenceServerClient(server.http_url, concurrency=16) as client:
            waiting = [client.async_infer("reviews", request) for request in requests]
            results = [each.get_result() for each in waiting]
    else:
        with library.InferenceServerClient(server.grpc_url) as client, ThreadPoolExecutor(16) as pool:
            assert client.is_server_live()
            results = list(pool.map(lambda request: client.infer("reviews", request), requests))
    return [(result.as_numpy("label")[0, 0].decode(), result.as_numpy("scores")[0]) for result in results]


def executions(server: TritonServer, model: str) -> tuple[int, int]:
    """(requests answered, executions) of a model."""
    with tritonclient.http.InferenceServerClient(server.http_url) as client:
        stats = client.get_inference_statistics(model)["model_stats"][0]
    return int(stats["inference_count"]), int(stats["execution_count"])


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_concurrent_single_requests_are_batched_and_equal_offline(
    server: TritonServer, offline: dict[str, tuple[str, np.ndarray]], protocol: str
) -> None:
    texts = TEXTS * 6
    # On a busy machine the clients may be too slow to meet in the queue: give them a few rounds to.
    for _ in range(8):
        before = executions(server, "reviews_tokens")
        same(ask_at_once(server, protocol, texts), texts, offline)
        answered, executed = (
            after - start for after, start in zip(executions(server, "reviews_tokens"), before, strict=True)
        )
        assert answered == len(texts)
        # Threads that share one gRPC channel take turns, and may never meet in the queue: only HTTP must batch.
        if executed < answered or protocol == "grpc":
            return
    pytest.fail("no texts were batched together, so the test proves nothing")


def test_plain_json_without_a_triton_client_works(
    server: TritonServer, offline: dict[str, tuple[str, np.ndarray]]
) -> None:
    status, content = post(server, "reviews", text_body(TEXTS))
    assert status == 200
    found = {entry["name"]: entry for entry in content["outputs"]}
    assert found["label"]["data"] == [offline[text][0] for text in TEXTS]
    expected = np.concatenate([offline[text][1] for text in TEXTS])
    np.testing.assert_allclose(found["scores"]["data"], expected, atol=1e-5)


BAD_TEXTS = {
    "empty": (b"", "empty"),
    "whitespace": (" \t\n\u3000".encode(), "empty"),
    "invalid UTF-8": (b"good \xff\xfe", "not valid UTF-8"),
    "cut UTF-8": ("商".encode()[:2], "not valid UTF-8"),
    "lone surrogate": (b"good \xed\xa0\x80", "not valid UTF-8"),
    "a megabyte": (b"good " * 200_000, "1000000 characters, at most 200000"),
}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("name", list(BAD_TEXTS))
def test_a_bad_text_is_an_error_of_its_own_request_alone(
    server: TritonServer, offline: dict[str, tuple[str, np.ndarray]], protocol: str, name: str
) -> None:
    bad, message = BAD_TEXTS[name]

    def one(text: str | bytes) -> Answer | InferenceServerException:
        try:
            return ask(server, protocol, [text] if isinstance(text, str) else ["good", text])
        except InferenceServerException as error:
            return error

    given: list[str | bytes] = [*TEXTS[:3], bad, *TEXTS[3:]]
    with ThreadPoolExecutor(len(given)) as pool:
        answers = list(pool.map(one, given))
    for text, answer in zip(given, answers, strict=True):
        if isinstance(text, str):
            assert not isinstance(answer, InferenceServerException), answer
            same(answer, [text], offline)
        else:
            assert isinstance(answer, InferenceServerException)
            assert f"text 1: {message}" in answer.message()
            assert answer.status() in ("400", "StatusCode.INVALID_ARGUMENT")
    healthy(server, offline)


ZEROS = [0] * 4


def ids_body(datatype: str = "INT64", shape: list[int] | None = None, names: tuple[str, ...] = ()) -> dict[str, Any]:
    names = names or ("input_ids", "attention_mask")
    return {"inputs": [{"name": n, "datatype": datatype, "shape": shape or [1, 4], "data": ZEROS} for n in names]}


REFUSED: dict[str, tuple[str, dict[str, Any] | bytes, str]] = {
    "wrong dtype": ("reviews", text_body([1], datatype="INT32"), "INT32"),  # type: ignore[list-item]
    "wrong shape": ("reviews", text_body(["a", "b"], [1, 2]), "[1,2]"),
    "no batch dimension": ("reviews", text_body(["a", "b"], [2]), "[2]"),
    "shape that does not fit the data": ("reviews", text_body(["a"], [2, 1]), "text"),
    "batch over the limit": ("reviews", text_body(["a"] * 9), "<= 8"),
    "unknown model": ("nobody", text_body(["a"]), "nobody"),
    "unknown input": ("reviews", text_body(["a"], name="txt"), "txt"),
    "no input": ("reviews", {"inputs": []}, "input"),
    "not JSON": ("reviews", b"{oops", "parse the request JSON"),
    "lone surrogate in JSON": ("reviews", text_body(["\ud800"]), "parse the request JSON"),
    "int32 ids": ("reviews_tokens", ids_body("INT32"), "INT32"),
    "int64 needed": ("reviews_tokens", ids_body("INT32"), "INT64"),
    "ids without a mask": ("reviews_tokens", ids_body(names=("input_ids",)), "attention_mask"),
    "types the model has not": (
        "reviews_tokens", ids_body(names=("input_ids", "attention_mask", "token_type_ids")), "token_type_ids",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_a_request_that_does_not_fit_is_refused_with_the_cause(
    server: TritonServer, offline: dict[str, tuple[str, np.ndarray]], name: str
) -> None:
    model, body, message = REFUSED[name]
    status, content = post(server, model, body)
    # Triton itself answers 500 to what is no JSON; no model sees such a request.
    assert 400 <= status < 500 or (status == 500 and message == "parse the request JSON"), (status, content)
    assert message in content["error"]
    healthy(server, offline)


def grpc_ids(server: TritonServer, dtype: type, datatype: str, value: int = 0) -> np.ndarray:
    inputs = []
    for name in ("input_ids", "attention_mask"):
        entry = tritonclient.grpc.InferInput(name, [1, 4], datatype)
        entry.set_data_from_numpy(np.full((1, 4), value, dtype=dtype))
        inputs.append(entry)
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        return client.infer("reviews_tokens", inputs).as_numpy("logits")


def test_token_ids_over_grpc_are_checked_too(
    server: TritonServer, offline: dict[str, tuple[str, np.ndarray]], checkpoint: Path
) -> None:
    ones = np.ones((1, 4), dtype=np.int64)
    expected = run(cpu_session(checkpoint / "model.onnx", 1), {"input_ids": ones, "attention_mask": ones})
    np.testing.assert_allclose(grpc_ids(server, np.int64, "INT64", 1), expected, atol=1e-5)
    with pytest.raises(InferenceServerException, match=r"INT32.*INT64"):
        grpc_ids(server, np.int32, "INT32")
    with pytest.raises(InferenceServerException, match="indices element out of data bounds"):
        grpc_ids(server, np.int64, "INT64", 10**6)
    healthy(server, offline)


GRPC_REFUSED: dict[str, tuple[Callable[[TritonServer], Any], str]] = {
    "wrong shape": (lambda server: ask(server, "grpc", ["a", "b"], shape=[1, 2]), r"\[1,2\]"),
    "batch over the limit": (lambda server: ask(server, "grpc", ["a"] * 9), "<= 8"),
    "unknown model": (lambda server: ask(server, "grpc", ["a"], model="nobody"), "nobody"),
}


@pytest.mark.parametrize("name", list(GRPC_REFUSED))
def test_grpc_refuses_with_the_cause(
    server: TritonServer, offline: dict[str, tuple[str, np.ndarray]], name: str
) -> None:
    call, message = GRPC_REFUSED[name]
    with pytest.raises(InferenceServerException, match=message):
        call(server)
    healthy(server, offline)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_answers_that_are_not_numbers_are_errors_of_their_request_alone(
    server: TritonServer, offline: dict[str, tuple[str, np.ndarray]], protocol: str
) -> None:
    def one(text: str) -> Answer | InferenceServerException:
        try:
            return ask(server, protocol, [text], model="nan")
        except InferenceServerException as error:
            return error

    with ThreadPoolExecutor(len(TEXTS)) as pool:
        answers = list(pool.map(one, TEXTS))
    for text, answer in zip(TEXTS, answers, strict=True):
        if "broke" in text:
            assert isinstance(answer, InferenceServerException)
            assert "not finite" in answer.message()
        else:
            assert not isinstance(answer, InferenceServerException), answer
            same(answer, [text], offline)
    assert sum("broke" in text for text in TEXTS) == 2


def test_an_answer_that_is_not_a_number_is_an_error_in_plain_json(server: TritonServer) -> None:
    status, content = post(server, "nan", text_body(["broke"]))
    assert status >= 400
    assert "not finite" in content["error"]


def test_labels_keep_their_names_where_the_classes_change_places(
    server: TritonServer, offline: dict[str, tuple[str, np.ndarray]]
) -> None:
    for text, (label, scores) in zip(TEXTS, ask(server, "http", TEXTS, model="swapped"), strict=True):
        assert label == offline[text][0]
        np.testing.assert_allclose(scores[::-1], offline[text][1], atol=1e-5)


def token_inputs(checkpoint: Path) -> dict[str, np.ndarray]:
    """Ids and mask (8, T) of the texts, padded on the right."""
    encoded = load_tokenizer(checkpoint)(
        TEXTS, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="np"
    )
    return {name: encoded[name].astype(np.int64) for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_token_ids_get_the_logits_of_onnx_runtime(server: TritonServer, checkpoint: Path, protocol: str) -> None:
    """The native ONNX repository, as the official image serves it, beside the model that takes text."""
    library: Any = {"http": tritonclient.http, "grpc": tritonclient.grpc}[protocol]
    given = token_inputs(checkpoint)
    asked = []
    for name, value in given.items():
        asked.append(library.InferInput(name, value.shape, "INT64"))
        asked[-1].set_data_from_numpy(value)
    with library.InferenceServerClient(server.http_url if protocol == "http" else server.grpc_url) as client:
        logits = client.infer("reviews_tokens", asked).as_numpy("logits")
    expected = run(cpu_session(checkpoint / "model.onnx", 1), given)
    assert logits.shape == (len(TEXTS), len(NAMES))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert len(set(expected.argmax(axis=1))) == len(NAMES)


def test_the_token_model_names_its_labels_where_a_client_asks_for_classes(
    server: TritonServer, checkpoint: Path, offline: dict[str, tuple[str, np.ndarray]]
) -> None:
    """Triton's own classification: ``score:id:name`` of the best classes, from labels.txt."""
    given = token_inputs(checkpoint)
    asked = []
    for name, value in given.items():
        asked.append(tritonclient.http.InferInput(name, value.shape, "INT64"))
        asked[-1].set_data_from_numpy(value)
    wanted = [tritonclient.http.InferRequestedOutput("logits", class_count=1)]
    with tritonclient.http.InferenceServerClient(server.http_url) as client:
        best = client.infer("reviews_tokens", asked, outputs=wanted).as_numpy("logits")
    assert [entry.decode().split(":", 2)[2] for entry in best[:, 0]] == [offline[text][0] for text in TEXTS]


def test_a_cache_that_the_server_was_not_given_changes_nothing(
    server: TritonServer, offline: dict[str, tuple[str, np.ndarray]]
) -> None:
    before = executions(server, "cached_tokens")  # the warm-up counts
    for _ in range(2):
        same(ask(server, "http", TEXTS, model="cached"), TEXTS, offline)
    assert executions(server, "cached_tokens") == (before[0] + 2 * len(TEXTS), before[1] + 2)


def test_a_model_that_takes_token_types_is_given_them(
    server: TritonServer, offline: dict[str, tuple[str, np.ndarray]]
) -> None:
    same(ask(server, "grpc", TEXTS, model="typed"), TEXTS, offline)
