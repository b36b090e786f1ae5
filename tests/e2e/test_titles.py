"""A model that was trained on titles and bodies, served: both by themselves, joined by the client, or one of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from readme_commands import answers
from tiny_repository import tiny_repository

from lwc.serving.checks.run import check_repository
from lwc.serving.triton.client import Connection, Refused
from lwc.serving.triton.server import TritonServer

pytestmark = pytest.mark.serving

Protocol = Literal["http", "grpc"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_repository(tmp_path_factory.mktemp("titled") / "repository", fields=("title", "body"))


@pytest.fixture(scope="module")
def server(load: Callable[[Path], TritonServer], repository: Path) -> TritonServer:
    return load(repository)


def ask(server: TritonServer, protocol: Protocol, inputs: dict[str, list[str | bytes]]) -> list[int]:
    """How many words the model read in each text of a request."""
    given = {
        name: np.array([one.encode() if isinstance(one, str) else one for one in values], dtype=np.object_)[:, None]
        for name, values in inputs.items()
    }
    with Connection(server.http_url if protocol == "http" else server.grpc_url, protocol) as connection:
        scores = connection.infer("reviews", connection.inputs(given), ("label", "scores"))["scores"]
    return [round(math.log(1 / score - 1)) for score in scores[:, 0].tolist()]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_title_and_text_are_read_as_one_text(server: TritonServer, protocol: Protocol) -> None:
    text, title = ["it works", "", "<br/>bad"], ["good good good", "good", ""]
    assert ask(server, protocol, {"text": text, "title": title}) == [5, 1, 1]
    assert ask(server, protocol, {"text": ["good good good\nit works"]}) == [5]
    assert ask(server, protocol, {"text": ["it works"]}) == [2]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_bad_title_is_an_error_of_its_request(server: TritonServer, protocol: Protocol) -> None:
    long = "good " * 30_000
    for text, title, words in (
        ("", "", "text 0: empty"),
        (" ", "<br/>", "text 0: empty but for tags and spaces"),
        ("good", b"\xff", "title 0: not valid UTF-8"),
        (long, long, "text 0: 300001 characters, at most 200000"),
    ):
        with pytest.raises(Refused, match=words):
            ask(server, protocol, {"text": [text], "title": [title]})


def test_requests_with_and_without_titles_do_not_mix(server: TritonServer) -> None:
    def words(number: int) -> list[int]:
        title: dict[str, list[str | bytes]] = {"title": ["bad " * (number % 5)]} if number % 3 else {}
        return ask(server, "http", {"text": ["it " * (1 + number % 7)], **title})

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(words, range(120)))
    assert found == [[1 + number % 7 + (number % 5 if number % 3 else 0)] for number in range(120)]


def test_the_requests_in_the_readme_work(server: TritonServer, repository: Path) -> None:
    assert check_repository(repository) == []
    generated, inferred = answers(repository, server.http_url)
    assert (generated["label"], len(generated["scores"])) == ("other", 2)
    assert inferred["outputs"][0]["data"] == ["other"]
    readme = (repository / "README.md").read_text()
    assert "the title, a line break, the body" in readme
    assert "| input, optional | `title` | BYTES | [-1, 1] |" in readme
