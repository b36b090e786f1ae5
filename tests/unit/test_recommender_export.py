"""The exported graph: top-k and the seen-filter inside, equal to the offline ranking; and its repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lwc.core.errors import ModelError
from lwc.export.onnx import export_graph
from lwc.export.parity import check_parity
from lwc.export.session import cpu_session
from lwc.models.families import family_of
from lwc.models.surgery import parameter_counts
from lwc.recipe import FromConfig, Package
from lwc.serving.triton.config import parse
from lwc.serving.triton.repository import ModelFiles, build_repository
from lwc.tasks.next_item import ranking
from lwc.tasks.next_item.endpoint import ItemEndpoint
from lwc.tasks.next_item.graph import graph_inputs, top_items_graph
from lwc.tasks.next_item.histories import Catalogue
from lwc.tasks.next_item.model import NextItemView, build
from lwc.tasks.next_item.rows import answers

SHAPE = FromConfig(kind="config", blocks=2, hidden=16, heads=2, dropout=0.3, max_length=8)
ITEMS, K = 15, 12
LOWEST = np.finfo(np.float32).min


@pytest.fixture(scope="module")
def view() -> NextItemView:
    made = build(SHAPE, ITEMS, seed=2)
    with torch.no_grad():
        made.get_input_embeddings().weight.mul_(20)
        made.get_input_embeddings().weight[7] = made.get_input_embeddings().weight[4]  # items 3 and 6 tie
    return made


@pytest.fixture(scope="module")
def graph(view: NextItemView, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    export_graph(top_items_graph(view, K, [], 8), path)
    return path


def test_the_item_vectors_stand_twice_in_the_file_and_are_counted_so(tmp_path: Path) -> None:
    many = build(SHAPE, 20_000, seed=2)
    export_graph(top_items_graph(many, K, [], 8), tmp_path / "model.onnx")
    counts = parameter_counts(many, family_of(many))
    size = (tmp_path / "model.onnx").stat().st_size
    assert size == pytest.approx(4 * (counts.total + counts.tied), rel=0.05)


def test_the_graph_ranks_as_offline_and_never_names_what_was_seen(view: NextItemView, graph: Path) -> None:
    histories = [[0], [1, 2, 3], [14, 13], list(range(10)) * 2, [5] * 9]
    scores = ranking.without_seen(answers(view, histories, ITEMS, 8), histories)
    session = cpu_session(graph, 1)
    for rows in ([0], [1, 2], [0, 1, 2, 3, 4]):  # alone and padded
        inputs = graph_inputs([histories[row] for row in rows], 8)
        best, items = session.run(["scores", "items"], inputs)
        for place, row in enumerate(rows):
            left = ITEMS - len(set(histories[row]))
            expected = ranking.top(scores[row][None], K)[0][:left]
            assert items[place, : len(expected)].tolist() == expected.tolist()
            np.testing.assert_allclose(best[place, : len(expected)], scores[row][expected], atol=1e-5)
            assert (best[place, left:] == LOWEST).all()
            assert not set(items[place, :left].tolist()) & set(histories[row])
    tied = session.run(["items"], graph_inputs([[0]], 8))[0][0].tolist()
    assert tied.index(6) == tied.index(3) + 1, "equal scores stand in the order of the item numbers"


def test_parity_passes_for_this_graph_and_fails_for_another(view: NextItemView, graph: Path) -> None:
    found = check_parity(top_items_graph(view, K, [[1], [2, 3]], 8), graph, 1e-4)
    assert found["passed"]
    assert found["max_abs_diff"] < 1e-4
    other = build(SHAPE, ITEMS, seed=9)
    assert not check_parity(top_items_graph(other, K, [[1], [2, 3]], 8), graph, 1e-4)["passed"]


def catalogue(items: int = ITEMS) -> Catalogue:
    return Catalogue(tuple(f"i{n}" for n in range(items)), tuple(range(items, 0, -1)))


def test_the_repository_ships_the_catalogue_with_the_model(view: NextItemView, graph: Path, tmp_path: Path) -> None:
    view.save_pretrained(tmp_path / "model", safe_serialization=True)
    catalogue().write(tmp_path / "model" / "catalogue.json")
    out = tmp_path / "repository"
    described = build_repository(
        ItemEndpoint(), ModelFiles(graph, tmp_path / "model"), out, Package(max_batch_size=4), "shop"
    )
    assert described["items"] == ITEMS
    assert Catalogue.read(out / "shop" / "1" / "catalogue.json") == catalogue()
    front, ranker = (parse((out / name / "config.pbtxt").read_text()) for name in ("shop", "shop_graph"))
    for config in (front, ranker):
        assert config.parameters["catalogue_sha256"].string_value == catalogue().digest()
        assert config.max_batch_size == 4
    assert front.parameters["top_k"].string_value == str(K)
    assert [(t.name, list(t.dims), t.allow_ragged_batch) for t in front.input] == [
        ("history", [-1], True),
        ("k", [1], False),
    ]
    assert {t.name: list(t.dims) for t in ranker.output} == {"scores": [K], "items": [K]}


def test_a_model_of_another_catalogue_is_refused(view: NextItemView, graph: Path, tmp_path: Path) -> None:
    view.save_pretrained(tmp_path / "model", safe_serialization=True)
    catalogue(14).write(tmp_path / "model" / "catalogue.json")
    with pytest.raises(ModelError, match="16 tokens for 14 items"):
        build_repository(
            ItemEndpoint(), ModelFiles(graph, tmp_path / "model"), tmp_path / "repository", Package(), "shop"
        )
