"""The Python client against a repository that lwc wrote, and what it says where no server or model is."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from asking import infer_text
from tiny_models import tiny

from lwc.export.onnx import export_onnx
from lwc.export.session import cpu_session, run
from lwc.models.load import save_checkpoint
from lwc.models.tokenizer import train_wordpiece
from lwc.recipe import Package
from lwc.serving.checks.run import check_repository
from lwc.serving.triton.client import Refused
from lwc.serving.triton.repository import ModelFiles, build_repository
from lwc.serving.triton.server import TritonServer
from lwc.tasks.text_endpoint import TextEndpoint

pytestmark = pytest.mark.serving

TEXTS = ["a good thing that works", "bad", "broken after one day and never replaced"]
NAMES = ["great", "other", "odd ünï"]
Loader = Callable[[Path], TritonServer]


@pytest.fixture(scope="module")
def served(load: Loader, tmp_path_factory: pytest.TempPathFactory) -> tuple[TritonServer, Path, Any]:
    checkpoint, repository = tmp_path_factory.mktemp("checkpoint"), tmp_path_factory.mktemp("repository")
    tokenizer = train_wordpiece(TEXTS * 4, 60, 32)
    model = tiny("modernbert", blocks=2, pad_token_id=0, id2label=dict(enumerate(NAMES)))
    save_checkpoint(model, tokenizer, checkpoint)
    export_onnx(model, tokenizer, checkpoint / "model.onnx")
    package = Package(max_batch_size=8, intra_op_threads=1)
    build_repository(TextEndpoint(), ModelFiles(checkpoint / "model.onnx", checkpoint), repository, package, "reviews")
    # As editors and notebooks leave them.
    (repository / "reviews" / ".ipynb_checkpoints").mkdir()
    (repository / "reviews_tokens" / "1" / "tmp").mkdir()
    return load(repository), checkpoint, tokenizer


def test_stray_folders_are_told_and_the_server_ignores_them(served: tuple[TritonServer, Path, Any]) -> None:
    notes = check_repository(served[0].repository)
    assert len(notes) == 2
    assert "reviews/.ipynb_checkpoints/" in notes[0]
    assert "reviews_tokens/1/tmp/" in notes[1]
    assert served[0].running


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_answers_equal_onnxruntime(served: tuple[TritonServer, Path, Any], protocol: Literal["http", "grpc"]) -> None:
    server, checkpoint, tokenizer = served
    url = server.http_url if protocol == "http" else server.grpc_url
    session = cpu_session(checkpoint / "model.onnx", 1)
    answers = infer_text(url, protocol, "reviews", TEXTS)
    assert len(answers) == len(TEXTS)
    for text, (label, scores) in zip(TEXTS, answers, strict=True):
        logits = run(session, {k: v.astype(np.int64) for k, v in tokenizer([text], return_tensors="np").items()})[0]
        assert label == NAMES[int(logits.argmax())]
        np.testing.assert_allclose(scores, np.exp(logits) / np.exp(logits).sum(), atol=1e-5)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_hundred_kilobytes_are_cut_not_refused(
    served: tuple[TritonServer, Path, Any], protocol: Literal["http", "grpc"]
) -> None:
    url = served[0].http_url if protocol == "http" else served[0].grpc_url
    ((label, scores),) = infer_text(url, protocol, "reviews", ["good thing " * 9000])
    assert label in NAMES
    assert scores.sum() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_refusals_keep_the_servers_words(
    served: tuple[TritonServer, Path, Any], protocol: Literal["http", "grpc"]
) -> None:
    url = served[0].http_url if protocol == "http" else served[0].grpc_url
    with pytest.raises(Refused, match="text 1: empty"):
        infer_text(url, protocol, "reviews", ["good", " "])
    with pytest.raises(Refused, match="nobody"):
        infer_text(url, protocol, "nobody", TEXTS)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_nothing_there_is_told(protocol: Literal["http", "grpc"]) -> None:
    with pytest.raises(Refused) as caught:
        infer_text("127.0.0.1:9", protocol, "reviews", TEXTS)
    assert caught.value.broken


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_that_ends_before_it_answers_is_told(protocol: Literal["http", "grpc"]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=lambda: listening.accept()[0].close(), daemon=True).start()
        url = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(Refused) as caught:
            infer_text(url, protocol, "reviews", TEXTS, seconds=10.0)
        assert caught.value.broken
