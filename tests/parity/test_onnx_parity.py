"""Every family to ONNX: equal answers for any batch, length and padding; broken graphs are caught."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from grid import families, kept
from onnx import helper
from tiny_models import tiny
from transformers import AutoModelForCausalLM

from lwc.core.errors import ModelError
from lwc.export import latency
from lwc.export.latency import compare_latency, compare_runtimes, in_pytorch
from lwc.export.onnx import export_graph, export_onnx
from lwc.export.onnx_io import OnnxInfo, read_io
from lwc.export.parity import check_parity
from lwc.export.session import cpu_session, run, run_all
from lwc.models.families import FAMILIES
from lwc.models.tokenizer import train_wordpiece
from lwc.recipe import Shape
from lwc.tasks.text import text_graph

MAX_LENGTH = 32
TOLERANCE = 1e-4
TEXTS = ["a good product, it works", "bad", "broke after one day and was never replaced", "works well: good value"] * 3
NO_TYPES = {"distilbert", "modernbert", "mpnet"}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_wordpiece(TEXTS, 60, MAX_LENGTH)


@pytest.fixture(scope="module")
def with_types() -> Any:
    """A tokenizer that also hands out token types, as BERT's does."""
    made = train_wordpiece(TEXTS, 60, MAX_LENGTH)
    made.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return made


Exported = tuple[Any, Path, OnnxInfo]


@pytest.fixture(scope="module", params=families(sorted(FAMILIES)))
def exported(request: pytest.FixtureRequest, with_types: Any, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    # Two blocks reach every kind of block in the table; dropout is large, so that one left alive would show.
    rates = {"dropout": 0.5} if request.param == "distilbert" else {"hidden_dropout_prob": 0.5}
    model = tiny(request.param, blocks=2, **rates)
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    model.train()  # the exporter must see to evaluation mode itself
    info = export_onnx(model, with_types, path)
    return model.eval(), path, info


def test_parity_holds_over_batches_lengths_and_paddings(exported: Exported, with_types: Any) -> None:
    model, path, _ = exported
    result = check_parity(text_graph(model, with_types, TEXTS, MAX_LENGTH), path, TOLERANCE)
    assert result["passed"], result
    assert result["max_abs_diff"] <= TOLERANCE
    assert {(case["batch"], case["length"], case["padding"]) for case in result["cases"]} == {
        *((1, length, "right") for length in (2, 17, MAX_LENGTH)),
        *((b, t, p) for b in (3, 8) for t in (2, 17, MAX_LENGTH) for p in ("right", "left", "holes")),
    }
    spread = np.ptp(run(cpu_session(path, 1), ids(8, 17)), axis=0).max()
    assert spread > 100 * TOLERANCE, "the model says the same to everything, so that parity proves nothing"


ODD = 61  # no other tensor of a tiny model is that wide
DECODERS = sorted(name for name, row in FAMILIES.items() if row.decoder)


@pytest.mark.parametrize("model_type", kept(DECODERS, ["gemma2", "gpt2", "llama"]))
def test_a_language_model_computes_the_logits_of_one_position(model_type: str, tokenizer: Any, tmp_path: Path) -> None:
    """Before soft caps and scales of logits, too; and parity holds."""
    caps = {"final_logit_softcapping": 0.5} if model_type.startswith("gemma") else {}
    model = tiny(model_type, blocks=2, task=AutoModelForCausalLM, vocab_size=ODD, **caps)
    graph = text_graph(model, tokenizer, TEXTS, 17)
    path = tmp_path / "model.onnx"
    export_graph(graph, path)
    result = check_parity(graph, path, TOLERANCE)
    assert result["passed"], result
    for described, inputs in graph.cases:
        with torch.inference_mode():
            every = model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits.numpy()
        mask = inputs["attention_mask"]
        last = (mask * np.arange(mask.shape[1])).argmax(axis=1)
        want = every[np.arange(len(mask)), last]
        np.testing.assert_allclose(run(cpu_session(path, 1), inputs), want, atol=TOLERANCE, err_msg=str(described))
    assert ODD in [shape[-1] for shape in shapes_inside(path, tmp_path, inputs)]
    assert [shape for shape in shapes_inside(path, tmp_path, inputs) if len(shape) > 2 and shape[-1] == ODD] == []


def shapes_inside(path: Path, folder: Path, inputs: dict[str, Any]) -> list[tuple[int, ...]]:
    """Shapes of all tensors that a graph computes from these inputs."""
    proto = onnx.load(str(path))
    del proto.graph.output[:]
    proto.graph.output.extend(
        onnx.ValueInfoProto(name=name) for node in proto.graph.node for name in node.output if name
    )
    onnx.save(proto, str(folder / "all.onnx"))
    return [one.shape for one in run_all(cpu_session(folder / "all.onnx", 1), inputs) if one.ndim]


def ids(batch: int, length: int) -> dict[str, Any]:
    given = np.random.default_rng(batch).integers(4, 60, (batch, length))
    return {
        "input_ids": given,
        "attention_mask": np.ones_like(given),
        "token_type_ids": np.zeros_like(given),
    }


def test_any_batch_runs_and_a_row_does_not_depend_on_its_batch(exported: Exported) -> None:
    _, path, _ = exported
    session = cpu_session(path, 1)
    whole = ids(7, 11)
    answers = run(session, whole)
    assert answers.shape == (7, 3)
    for rows in (1, 2):
        part = run(session, {name: value[:rows] for name, value in whole.items()})
        np.testing.assert_allclose(part, answers[:rows], atol=1e-5)


def test_dropout_is_dead(exported: Exported) -> None:
    _, path, _ = exported
    session = cpu_session(path, 1)
    np.testing.assert_array_equal(run(session, ids(3, 9)), run(session, ids(3, 9)))
    assert not [node for node in onnx.load(str(path)).graph.node if node.op_type == "Dropout"]


def test_inputs_are_read_from_the_graph(exported: Exported) -> None:
    model, path, info = exported
    names = [value.name for value in info.inputs]
    # GPT-2 looks types up in its word table, and has no size of their own.
    typed = getattr(model.config, "type_vocab_size", 0) > 0 or model.config.model_type == "gpt2"
    takes_types = model.config.model_type not in NO_TYPES and typed
    assert names == ["input_ids", "attention_mask", *(["token_type_ids"] if takes_types else [])]
    assert names == [value.name for value in cpu_session(path, 1).get_inputs()]
    assert all(value.dims == (-1, -1) and value.dtype == onnx.TensorProto.INT64 for value in info.inputs)
    assert [(value.name, value.dims) for value in info.outputs] == [("logits", (-1, 3))]


def test_no_types_where_the_tokenizer_or_the_config_has_none(tokenizer: Any, with_types: Any, tmp_path: Path) -> None:
    info = export_onnx(tiny("bert", blocks=1), tokenizer, tmp_path / "a.onnx")
    assert [value.name for value in info.inputs] == ["input_ids", "attention_mask"]
    model = tiny("deberta-v2", blocks=1, type_vocab_size=0)
    info = export_onnx(model, with_types, tmp_path / "b.onnx")
    assert [value.name for value in info.inputs] == ["input_ids", "attention_mask"]
    assert check_parity(text_graph(model, with_types, TEXTS, MAX_LENGTH), tmp_path / "b.onnx", TOLERANCE)["passed"]


@pytest.fixture(scope="module")
def bert(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    model = tiny("bert", blocks=2)
    path = tmp_path_factory.mktemp("bert") / "model.onnx"
    export_onnx(model, tokenizer, path)
    return model, path


def test_an_ignored_mask_fails_parity(bert: tuple[Any, Path], tokenizer: Any, tmp_path: Path) -> None:
    model, path = bert
    graph = onnx.load(str(path))
    # Every reader of the mask reads ones instead: |ids| clipped from below and above at 1.
    for node in graph.graph.node:
        for position, name in enumerate(node.input):
            if name == "attention_mask":
                node.input[position] = "ones"
    one = helper.make_tensor("one", onnx.TensorProto.INT64, [], [1])
    graph.graph.initializer.append(one)
    graph.graph.node.insert(0, helper.make_node("Clip", ["attention_mask", "one", "one"], ["ones"]))
    onnx.save(graph, tmp_path / "broken.onnx")
    result = check_parity(text_graph(model, tokenizer, TEXTS, MAX_LENGTH), tmp_path / "broken.onnx", TOLERANCE)
    assert not result["passed"]
    bad = {case["padding"] for case in result["cases"] if case["max_abs_diff"] > TOLERANCE}
    assert bad == {"right", "left", "holes"}
    assert all(case["max_abs_diff"] <= TOLERANCE for case in result["cases"] if case["batch"] == 1)


def changed(path: Path, out: Path, node: Any) -> Path:
    """The graph with one more node between its logits ("clean") and its output."""
    graph = onnx.load(str(path))
    for each in graph.graph.node:
        for position, name in enumerate(each.output):
            if name == "logits":
                each.output[position] = "clean"
    graph.graph.node.append(node)
    onnx.save(graph, out)
    return out


def test_answers_that_are_not_finite_fail_and_can_be_written(
    bert: tuple[Any, Path], tokenizer: Any, tmp_path: Path
) -> None:
    model, path = bert
    broken = changed(path, tmp_path / "nan.onnx", helper.make_node("Log", ["neg"], ["logits"]))
    graph = onnx.load(str(broken))
    graph.graph.node.insert(len(graph.graph.node) - 1, helper.make_node("Abs", ["clean"], ["positive"]))
    graph.graph.node.insert(len(graph.graph.node) - 1, helper.make_node("Neg", ["positive"], ["neg"]))
    onnx.save(graph, broken)
    assert np.isnan(run(cpu_session(broken, 1), ids(2, 4))).any()
    result = check_parity(text_graph(model, tokenizer, TEXTS, MAX_LENGTH), broken, TOLERANCE)
    assert not result["passed"]
    assert np.isfinite(result["max_abs_diff"])


def test_living_dropout_fails(bert: tuple[Any, Path], tokenizer: Any, tmp_path: Path) -> None:
    """The difference alone would let this pass: it is far below the tolerance."""
    model, path = bert
    noise = helper.make_node("RandomNormalLike", ["clean"], ["noise"], scale=1e-5)
    broken = changed(path, tmp_path / "noisy.onnx", noise)
    graph = onnx.load(str(broken))
    graph.graph.node.append(helper.make_node("Add", ["clean", "noise"], ["logits"]))
    onnx.save(graph, broken)
    result = check_parity(text_graph(model, tokenizer, TEXTS, MAX_LENGTH), broken, TOLERANCE)
    assert result["max_abs_diff"] <= TOLERANCE
    assert not result["repeatable"]
    assert not result["passed"]


def test_another_models_file_fails(bert: tuple[Any, Path], tokenizer: Any) -> None:
    other = tiny("bert", blocks=2, seed=5)
    result = check_parity(text_graph(other, tokenizer, TEXTS, MAX_LENGTH), bert[1], TOLERANCE)
    assert not result["passed"]
    assert result["max_abs_diff"] > 0.01


def test_files_that_are_no_model_are_named_as_what_they_are(tmp_path: Path) -> None:
    pointer = tmp_path / "model.onnx"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 438000000\n")
    with pytest.raises(ModelError, match="Git LFS pointer") as caught:
        read_io(pointer)
    assert "git lfs pull" in caught.value.hint
    with pytest.raises(ModelError, match="no such ONNX file"):
        read_io(tmp_path / "absent.onnx")
    for content in (b"not an onnx file", b""):
        pointer.write_bytes(content)
        with pytest.raises(ModelError, match="not an ONNX model"):
            read_io(pointer)


def test_a_model_the_exporter_cannot_do_is_an_error_with_its_type(tokenizer: Any, tmp_path: Path) -> None:
    class Strange(torch.nn.Module):
        config = tiny("bert", blocks=1).config

        def get_input_embeddings(self) -> Any:
            return tiny("bert", blocks=1).get_input_embeddings()

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            raise RuntimeError("an operator nobody has")

    with pytest.raises(ModelError, match=r"bert: ONNX export failed.*nobody has"):
        export_onnx(Strange(), tokenizer, tmp_path / "model.onnx")


def test_latency_is_the_median_of_turns_and_the_ratio_a_geometric_mean(
    bert: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that moves when a model is called: the deeper one takes 40 ms a row, the other 10."""
    now, calls = [0.0], itertools.count()

    def takes(seconds: float) -> latency.Call:
        def call(inputs: dict[str, Any]) -> np.ndarray:
            # Now and then, something else has the machine.
            now[0] += seconds * len(inputs["input_ids"]) * (10.0 if next(calls) % 9 == 0 else 1.0)
            return np.zeros((1, 3))

        return call

    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: now[0], sleep=lambda _: None))
    monkeypatch.setattr(latency, "in_onnxruntime", lambda path, _: takes(0.04 if path == Path("deep") else 0.01))
    monkeypatch.setattr(latency, "read_io", lambda _: read_io(bert[1]))
    shapes = [Shape(batch=1, length=8), Shape(batch=2, length=16)]
    result = compare_latency(Path("deep"), bert[1], shapes, 15, 1)
    assert [(row["batch"], row["length"]) for row in result["shapes"]] == [(1, 8), (2, 16)]
    times = [(row["base_ms"], row["compressed_ms"]) for row in result["shapes"]]
    assert times == [pytest.approx((40.0, 10.0)), pytest.approx((80.0, 20.0))]
    assert result["ratio"] == pytest.approx(4.0)


def test_a_call_is_timed_after_the_threads_of_the_others_have_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """They spin for 50 ms after a call and slow down whoever comes next; the first calls of a turn start slowly too."""
    now, last, ended, turn = [0.0], [""], [0.0], [0]

    def named(name: str, seconds: float) -> latency.Call:
        def call(inputs: dict[str, Any]) -> np.ndarray:
            turn[0] = turn[0] + 1 if last[0] == name else 0
            spinning = last[0] != name and now[0] < ended[0] + 0.05
            now[0] += 10 * seconds if spinning else 2 * seconds if turn[0] < 2 else seconds
            last[0], ended[0] = name, now[0]
            return np.zeros((1, 3))

        return call

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: now[0], sleep=sleep))
    calls = {"slow": named("slow", 0.04), "fast": named("fast", 0.01)}
    times = latency.in_turns(calls, ["input_ids"], [Shape(batch=1, length=8)], 5)
    assert times.ms[0] == {"slow": pytest.approx([40.0] * 5), "fast": pytest.approx([10.0] * 5)}
    assert times.pair("slow", "fast")["ratio"] == pytest.approx(4.0)


def test_the_time_without_a_core_is_told_where_the_system_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([(1.0, 0.5), (4.0, 1.5)])
    monkeypatch.setattr(latency, "ran_and_waited", lambda: next(counts))
    call: latency.Call = lambda inputs: np.zeros((1, 3))  # noqa: E731
    assert latency.in_turns({"one": call}, ["input_ids"], [Shape(batch=1, length=8)], 3).waited == 0.25
    monkeypatch.setattr(latency, "ran_and_waited", lambda: None)
    assert latency.in_turns({"one": call}, ["input_ids"], [Shape(batch=1, length=8)], 3).waited is None


def test_pytorch_gives_the_same_answers_with_its_own_attention_and_leaves_all_as_it_was(
    bert: tuple[Any, Path], with_types: Any
) -> None:
    model, threads = bert[0], torch.get_num_threads()
    before = model.config._attn_implementation
    given = ids(3, 9)
    with in_pytorch(text_graph(model, with_types), model, 1) as call:
        assert (torch.get_num_threads(), model.config._attn_implementation) == (1, "sdpa")
        found = call(given)
    assert (torch.get_num_threads(), model.config._attn_implementation) == (threads, before)
    np.testing.assert_allclose(found, run(cpu_session(bert[1], 1), given), atol=TOLERANCE)


def test_latency_of_real_files_has_a_row_for_each_shape(bert: tuple[Any, Path]) -> None:
    shapes = [Shape(batch=1, length=8), Shape(batch=2, length=16)]
    result = compare_latency(bert[1], bert[1], shapes, 3, 1)
    assert [(row["batch"], row["length"]) for row in result["shapes"]] == [(1, 8), (2, 16)]
    assert result["ratio"] == pytest.approx(np.sqrt(np.prod([row["ratio"] for row in result["shapes"]])))


def test_openvino_answers_the_same_and_is_timed_beside_onnxruntime(bert: tuple[Any, Path]) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    shapes = [Shape(batch=1, length=8), Shape(batch=2, length=16)]
    mask = np.array([[1] * 16, [1] * 9 + [0] * 7])
    rows = {"input_ids": np.arange(32).reshape(2, 16), "attention_mask": mask, "token_type_ids": mask * 0, "more": mask}
    result = compare_runtimes(bert[1], [rows], shapes, 3, 1)
    assert 0 < result["max_abs_diff"] < 1e-4, "the same answers, by another program"
    for row in result["shapes"]:
        assert row["ratio"] == row["onnxruntime_ms"] / row["openvino_ms"] > 0
        assert set(row["spread"]) == {"onnxruntime", "openvino"}
    assert result["ratio"] == pytest.approx(np.sqrt(np.prod([row["ratio"] for row in result["shapes"]])))
