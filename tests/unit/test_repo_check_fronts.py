"""The models that lwc writes, against the graph they call: each fault planted alone, and the only thing found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_repository import tiny_repository

from lwc.serving.checks.run import inspect_repository
from lwc.tasks.next_item.histories import Catalogue

CATALOGUE = Catalogue(("a", "b", "c"), (3, 2, 1))
FRONT = """\
backend: "python"
max_batch_size: 8
input { name: "history" data_type: TYPE_STRING dims: -1 }
output { name: "items" data_type: TYPE_STRING dims: -1 }
parameters { key: "graph" value { string_value: "shop_graph" } }
parameters { key: "max_length" value { string_value: "8" } }
parameters { key: "top_k" value { string_value: "2" } }
parameters { key: "catalogue_sha256" value { string_value: "%s" } }
""" % CATALOGUE.digest()  # noqa: UP031  (braces)
GRAPH = """\
backend: "onnxruntime"
max_batch_size: 8
input { name: "input_ids" data_type: TYPE_INT64 dims: -1 }
input { name: "attention_mask" data_type: TYPE_INT64 dims: -1 }
input { name: "seen" data_type: TYPE_INT64 dims: -1 }
output { name: "scores" data_type: TYPE_FP32 dims: 2 }
output { name: "items" data_type: TYPE_INT64 dims: 2 }
dynamic_batching { }
instance_group { kind: KIND_CPU count: 1 }
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
parameters { key: "catalogue_sha256" value { string_value: "%s" } }
""" % CATALOGUE.digest()  # noqa: UP031
MODEL_PY = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"


def write_recommender(path: Path, rows: int = 4, top: int = 2) -> None:
    """A graph that looks its ids up in a table, with the inputs and outputs of a recommender."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["looked"]),
        helper.make_node("Slice", ["looked", "zero", "top", "one"], ["scores"]),
        helper.make_node("Slice", ["seen", "zero", "top", "one"], ["items"]),
    ]
    values = {"table": np.zeros(rows, np.float32)}
    values |= {name: np.array([value], np.int64) for name, value in (("zero", 0), ("one", 1), ("top", top))}
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", f"{name}_length"])
            for name in ("input_ids", "attention_mask", "seen")
        ],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", top]),
            helper.make_tensor_value_info("items", TensorProto.INT64, ["batch", top]),
        ],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A text model and a recommender, each with its graph."""
    folder = tiny_repository(tmp_path / "models")
    for name, config in (("shop", FRONT), ("shop_graph", GRAPH)):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(config)
    (folder / "shop" / "1" / "model.py").write_text(MODEL_PY)
    CATALOGUE.write(folder / "shop" / "1" / "catalogue.json")
    write_recommender(folder / "shop_graph" / "1" / "model.onnx")
    return folder


def edit(model: str, old: str, new: str) -> Callable[[Path], object]:
    def change(repository: Path) -> None:
        path = repository / model / "config.pbtxt"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return change


def parameter(model: str, key: str, old: str, new: str) -> Callable[[Path], object]:
    def change(repository: Path) -> None:
        path = repository / model / "config.pbtxt"
        before, found, after = path.read_text().partition(f'key: "{key}"')
        assert found
        assert old in after
        path.write_text(before + found + after.replace(old, new, 1))

    return change


def vocabulary(repository: Path, ids: dict[str, int], added: int | None = None) -> None:
    path = repository / "reviews" / "1" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] |= ids
    content["added_tokens"] += [] if added is None else [{"id": added, "content": "[NEW]"}]
    path.write_text(json.dumps(content))


def write(name: str, content: str) -> Callable[[Path], object]:
    return lambda repository: (repository / name).write_text(content)


def catalogue(*items: str) -> Callable[[Path], object]:
    """Another catalogue, which both models were given the digest of."""

    def change(repository: Path) -> None:
        other = Catalogue(items, tuple(range(len(items), 0, -1)))
        other.write(repository / "shop" / "1" / "catalogue.json")
        for model in ("shop", "shop_graph"):
            edit(model, CATALOGUE.digest(), other.digest())(repository)

    return change


CASES: dict[str, tuple[Callable[[Path], object], str, list[str]]] = {
    # The text model: its graph has a table of 7 rows.
    "token inputs": (parameter("reviews", "token_inputs", "attention_mask", "mask"),
        "reviews/config.pbtxt", ["'mask'", "'attention_mask'"]),
    "padding past the vocabulary": (parameter("reviews", "pad_id", '"0"', '"7"'),
        "reviews/config.pbtxt", ["pad_id is 7", "7 rows"]),
    "padding in words": (parameter("reviews", "pad_id", '"0"', '"[PAD]"'), "reviews/config.pbtxt", ["'[PAD]'"]),
    "lengths that fall": (parameter("reviews", "length_buckets", '"', '"64,'),
        "reviews/config.pbtxt", ["do not rise"]),
    "a title that goes nowhere": (
        edit("reviews", "output {", 'input { name: "title" data_type: TYPE_STRING dims: 1 optional: true }\noutput {'),
        "reviews/config.pbtxt", ["takes title", "text_fields is ''"]),
    "a token past the table": (lambda r: vocabulary(r, {"new": 7}), "reviews/1/tokenizer.json", ["up to 7", "7 rows"]),
    "an added token past the table": (
        lambda r: vocabulary(r, {}, added=9), "reviews/1/tokenizer.json", ["up to 9", "7 rows"]),
    "half a tokenizer": (write("reviews/1/tokenizer.json", '{"model": {'), "reviews/1/tokenizer.json", ["not JSON"]),
    "an empty tokenizer": (write("reviews/1/tokenizer.json", "[]"), "reviews/1/tokenizer.json", ["no vocabulary"]),
    "no tokenizer": (
        lambda r: (r / "reviews/1/tokenizer.json").unlink(), "reviews/1/tokenizer.json", ["no such file"]),
    "no labels": (lambda r: (r / "reviews/labels.txt").unlink(), "reviews/labels.txt", ["no such file"]),
    "labels in another order": (
        write("reviews/labels.txt", "other\ngreat\n"), "reviews/labels.txt", ["differs from reviews_tokens"]),
    "a label too many": (
        write("reviews/labels.txt", "great\nother\nmore\n"), "reviews/labels.txt", ["3 labels", "has 2"]),
    # The recommender: three items and a table of four rows.
    "no graph": (parameter("shop", "graph", '"shop_graph"', '"shop_grap"'), "shop/config.pbtxt", ["'shop_grap'"]),
    "more rows than items": (
        lambda r: write_recommender(r / "shop_graph/1/model.onnx", rows=6),
        "shop/1/catalogue.json", ["3 items", "shop_graph 5"]),
    "more items than rows": (catalogue("a", "b", "c", "d"), "shop/1/catalogue.json", ["4 items", "shop_graph 3"]),
    "items changed": (
        write("shop/1/catalogue.json", json.dumps({"items": ["a", "b", "x"], "counts": [3, 2, 1],
                                                   "sha256": CATALOGUE.digest()})),
        "shop/1/catalogue.json", ["SHA-256 differs"]),
    "no catalogue": (lambda r: (r / "shop/1/catalogue.json").unlink(), "shop/1/catalogue.json", ["no such file"]),
    "half a catalogue": (write("shop/1/catalogue.json", '{"items": ["a'), "shop/1/catalogue.json", ["not JSON"]),
    "no counts": (write("shop/1/catalogue.json", '{"items": ["a"]}'), "shop/1/catalogue.json", ["no catalogue"]),
    "a longer list than the graph's": (parameter("shop", "top_k", '"2"', '"3"'), "shop/config.pbtxt", ["3", "2 items"]),
    "a length in words": (parameter("shop", "max_length", '"8"', '"long"'), "shop/config.pbtxt", ["'long'"]),
    "a graph of another catalogue": (
        edit("shop_graph", CATALOGUE.digest(), "0" * 64), "shop/config.pbtxt", ["another catalogue"]),
}  # fmt: skip


def test_sound_models_have_no_findings(repository: Path) -> None:
    assert inspect_repository(repository) == []


@pytest.mark.parametrize("name", list(CASES))
def test_what_is_planted_is_all_that_is_found(repository: Path, name: str) -> None:
    damage, path, words = CASES[name]
    damage(repository)
    (finding,) = inspect_repository(repository)
    assert (finding.severity, finding.path) == ("error", path)
    for word in words:
        assert word in finding.what
    assert finding.hint


def test_parameters_of_that_name_in_other_models_mean_nothing(repository: Path) -> None:
    edit("shop", f'parameters {{ key: "catalogue_sha256" value {{ string_value: "{CATALOGUE.digest()}" }} }}', "")(
        repository
    )
    edit("shop", '"shop_graph"', '"any text"')(repository)
    assert inspect_repository(repository) == []
