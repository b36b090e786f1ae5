"""A recommender's repository on a real Triton: lists equal offline, and every odd history answered or refused alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import readme_commands
import torch
from histories import recipe, write_chain

from lwc.core.http import request
from lwc.export.onnx import export_graph
from lwc.pipeline.run import run
from lwc.recipe import FromConfig, Package
from lwc.serving.checks.run import check_repository
from lwc.serving.triton.client import Connection, Refused
from lwc.serving.triton.repository import ModelFiles, build_repository
from lwc.serving.triton.server import TritonServer
from lwc.tasks.next_item import ranking
from lwc.tasks.next_item.endpoint import ItemEndpoint
from lwc.tasks.next_item.graph import top_items_graph
from lwc.tasks.next_item.histories import Catalogue
from lwc.tasks.next_item.model import NextItemView, build
from lwc.tasks.next_item.rows import answers
from lwc.tasks.next_item.wire import ItemWire

pytestmark = pytest.mark.serving

ITEMS, K, LENGTH, BATCH = 40, 30, 8, 8
NAMES = tuple(f"B0{number:02d}ü商" for number in range(ITEMS))
CATALOGUE = Catalogue(NAMES, tuple(range(2 * ITEMS, ITEMS, -1)))
KNOWN = [[3], [1, 2, 30, 4], list(range(20)), [7, 7, 7], [39, 0], [n % 35 for n in range(90)]]


@pytest.fixture(scope="module")
def view() -> NextItemView:
    shape = FromConfig(kind="config", blocks=2, hidden=16, heads=2, dropout=0.1, max_length=LENGTH)
    made = build(shape, ITEMS, seed=4)
    with torch.no_grad():
        made.get_input_embeddings().weight.mul_(20)
    return made


@pytest.fixture(scope="module")
def repository(view: NextItemView, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    view.save_pretrained(folder / "model", safe_serialization=True)
    CATALOGUE.write(folder / "model" / "catalogue.json")
    export_graph(top_items_graph(view, K, [], LENGTH), folder / "model.onnx")
    package = Package(max_batch_size=BATCH, queue_delay_microseconds=20000, instances=1, intra_op_threads=1)
    build_repository(
        ItemEndpoint(), ModelFiles(folder / "model.onnx", folder / "model"), folder / "repository", package, "shop"
    )
    return folder / "repository"


@pytest.fixture(scope="module")
def server(load: Callable[[Path], TritonServer], repository: Path) -> TritonServer:
    return load(repository)


@dataclass(frozen=True)
class Recommended:
    """What the server said of one history."""

    items: list[str]
    scores: list[float]
    skipped: int


def ask(server: TritonServer, protocol: str, histories: list[list[str]], k: int = 10) -> list[Recommended]:
    """All histories in one request, the shorter ones padded with empty ids."""
    width = max(1, *(len(history) for history in histories))
    ids = [[item.encode() for item in history] + [b""] * (width - len(history)) for history in histories]
    given = {"history": np.array(ids, dtype=np.object_), "k": np.full((len(histories), 1), k, dtype=np.int32)}
    url = server.http_url if protocol == "http" else server.grpc_url
    with Connection(url, "http" if protocol == "http" else "grpc") as connection:
        found = connection.infer("shop", connection.inputs(given), ItemWire().outputs)
    answers = []
    for row, (items, scores, skipped) in enumerate(zip(*(found[name] for name in ItemWire().outputs), strict=True)):
        left = [(item.decode(), float(score)) for item, score in zip(items, scores, strict=True) if item]
        answers.append(Recommended([item for item, _ in left], [score for _, score in left], int(skipped[0])))
        if len(histories) == 1:
            whole = {name: array[row : row + 1] for name, array in found.items()}
            assert ItemWire().decode(whole) == {"items": answers[0].items, "skipped": answers[0].skipped}
    return answers


def offline(view: NextItemView, history: list[int], k: int) -> tuple[list[str], list[float]]:
    scores = ranking.without_seen(answers(view, [history], ITEMS, LENGTH), [history])
    best = [number for number in ranking.top(scores, k)[0] if scores[0, number] > -np.inf]
    return [NAMES[number] for number in best], [float(scores[0, number]) for number in best]


def same(view: NextItemView, history: list[int], answer: Recommended, k: int = 10) -> None:
    items, scores = offline(view, history, k)
    assert list(answer.items) == items
    np.testing.assert_allclose(answer.scores, scores, atol=1e-4)


def named(history: list[int]) -> list[str]:
    return [NAMES[number] for number in history]


def test_the_repository_check_finds_nothing(repository: Path) -> None:
    assert check_repository(repository) == []


def test_the_requests_in_the_readme_work(server: TritonServer, repository: Path, view: NextItemView) -> None:
    generated, inferred = readme_commands.answers(repository, server.http_url)
    items, _ = offline(view, [0, 1], 10)
    assert generated["items"] == inferred["outputs"][0]["data"] == items
    assert generated["skipped"] == 0
    body = {"history": [NAMES[3]], "k": 3}
    answer = request("POST", f"http://{server.http_url}/v2/models/shop/generate", 60, json.dumps(body).encode())
    assert answer.json()["items"] == offline(view, [3], 3)[0]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_histories_of_unequal_length_equal_offline_alone_and_together(
    server: TritonServer, view: NextItemView, protocol: str
) -> None:
    for history, answer in zip(KNOWN, ask(server, protocol, [named(each) for each in KNOWN], K), strict=True):
        same(view, history, answer, K)
        assert not set(answer.items) & set(named(history))
        assert answer.skipped == 0
    for history in KNOWN:
        same(view, history, ask(server, protocol, [named(history)])[0])


def test_concurrent_requests_of_unequal_length_do_not_mix(server: TritonServer, view: NextItemView) -> None:
    given = KNOWN * 8
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda history: ask(server, "http", [named(history)])[0], given))
    for history, answer in zip(given, found, strict=True):
        same(view, history, answer)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_unknown_items_are_skipped_and_counted_and_empty_histories_get_the_popular_ones(
    server: TritonServer, view: NextItemView, protocol: str
) -> None:
    popular = list(NAMES[:10])
    mixed, empty, unknown = ask(server, protocol, [["no", NAMES[1], "such", NAMES[2]], [], ["no", "such", "thing"]])
    same(view, [1, 2], mixed)
    assert mixed.skipped == 2
    assert list(empty.items) == list(unknown.items) == popular
    assert (empty.skipped, unknown.skipped) == (0, 3)
    assert list(empty.scores) == sorted(empty.scores, reverse=True)
    assert list(ask(server, protocol, [[]])[0].items) == popular


def test_a_user_who_has_nearly_everything_gets_what_is_left(server: TritonServer, view: NextItemView) -> None:
    history = list(range(ITEMS - 3))
    answer = ask(server, "http", [named(history)], K)[0]
    assert sorted(answer.items) == sorted(NAMES[-3:])
    same(view, history, answer, K)


@pytest.mark.parametrize("k", [0, K + 1, -1])
def test_a_k_out_of_range_is_an_error_of_its_request_alone(server: TritonServer, view: NextItemView, k: int) -> None:
    with ThreadPoolExecutor(4) as pool:
        good = [pool.submit(ask, server, "http", [named([1, 2])]) for _ in range(3)]
        with pytest.raises(Refused, match=rf"HTTP 400.*from 1 to {K}"):
            ask(server, "http", [named([1])], k)
    for future in good:
        same(view, [1, 2], future.result()[0])


def test_plain_json_without_k_gives_ten(server: TritonServer, view: NextItemView) -> None:
    tensor = {"name": "history", "shape": [1, 2], "datatype": "BYTES", "data": named([1, 2])}
    url, headers = f"http://{server.http_url}/v2/models/shop/infer", {"Content-Type": "application/json"}
    answer = request("POST", url, 60, json.dumps({"inputs": [tensor]}).encode(), headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = {entry["name"]: entry for entry in json.loads(answer.content)["outputs"]}
    assert found["items"]["data"] == offline(view, [1, 2], 10)[0]
    assert found["items"]["shape"] == [1, 10]
    assert found["skipped"]["data"] == [0]


def test_a_catalogue_of_another_model_does_not_load(repository: Path, tmp_path: Path) -> None:
    import shutil

    from lwc.core.errors import ServingError

    shutil.copytree(repository, tmp_path / "repository")
    Catalogue(NAMES[::-1], CATALOGUE.counts).write(tmp_path / "repository" / "shop" / "1" / "catalogue.json")
    with (
        pytest.raises(ServingError, match="not the catalogue that the model was trained with"),
        TritonServer(tmp_path / "repository", startup_seconds=60),
    ):
        pass


def test_the_whole_line_serves_the_offline_ranking_and_finds_its_limit(tmp_path: Path) -> None:
    pytest.importorskip("implicit")
    write_chain(tmp_path / "shop.csv", users=60)
    limit = {"max_p95_ms": 5000, "start": 400, "seconds": 1, "precision": 1.0, "repeats": 1}
    verify = {"users": 2, "connections": 8, "seconds": 2, "warmup_seconds": 0.3, "rate": 40, "find_rate": limit}
    made = recipe(tmp_path / "shop.csv", verify=verify)
    results = run(made, tmp_path / "runs", lambda *_: None)
    serving = json.loads((results["verify"].path / "serving.json").read_text())
    for protocol in ("http", "grpc"):
        served = serving[protocol]["served"]
        assert (serving[protocol]["errors"], serving[protocol]["load"]) == (0, "open_loop")
        assert served["covered_all"]
        assert served["matches_offline"] == 1.0
        assert served["ndcg_at_10"] == served["offline_ndcg_at_10"] > 0.5
        assert set(serving[protocol]["server"]["models"]) == {"shop", "shop_graph"}
    found = serving["http"]["limit"]
    assert found["compressed"]["rate_rps"] > 0
    assert found["base"]["rate_rps"] > 0
    # What the run sent can be sent again, by two senders, to the endpoint as it would be deployed.
    repository, samples = results["package"].path / "repository", results["verify"].path / "samples.parquet"
    with TritonServer(repository, startup_seconds=120) as server:
        command = [sys.executable, "-m", "lwc.cli.main", "loadtest", str(samples), "--model", "shop", "--workers", "2"]
        command += ["--url", server.grpc_url, "--protocol", "grpc", "--seconds", "2", "--min-agreement", "1", "--json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["served"]["ndcg_at_10"] > 0.5
