"""Int8 graphs: labels hold, sizes shrink, shapes stay free, and what spoils the answers goes back to fp32."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny_models import VOCAB, tiny

from lwc.core.arrays import Array
from lwc.core.errors import ModelError
from lwc.export.onnx import export_onnx
from lwc.export.onnx_io import depends_on_batch, read_io
from lwc.export.quantize import difference, operator_groups, quantize, quantized_operators
from lwc.export.session import cpu_session, run
from lwc.models.tokenizer import train_wordpiece
from lwc.recipe import Int8

MODELS = ("bert", "distilbert", "modernbert")
MODES: tuple[Literal["dynamic", "static"], ...] = ("dynamic", "static")
TEXTS = ["a good product, it works", "bad", "broke after one day and was never replaced"] * 3
LENGTH = 20
ROWS = 128


@dataclass(frozen=True)
class Case:
    """An exported model, padded batches for it and its own fp32 logits of their rows."""

    path: Path
    batches: list[dict[str, Array]]
    reference: Array


def trained_like(model_type: str) -> Any:
    """Wide enough for its weights to be most of the file; biases and norms are not the 0 and 1 of a fresh model."""
    wide = {"dim": 64, "hidden_dim": 256} if model_type == "distilbert" else {"hidden_size": 64}
    wide |= {} if model_type == "distilbert" else {"intermediate_size": 256}
    model = tiny(model_type, blocks=2, **wide)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            else:
                parameter.mul_(0.5)
    return model


def inputs(batch: int, length: int, seed: int = 0) -> dict[str, Array]:
    """Random ids, padded on the right; token types for the graphs that take them."""
    random = np.random.default_rng(seed)
    ids = random.integers(4, VOCAB, (batch, length))
    mask = (np.arange(length) < random.integers(2, length + 1, (batch, 1))).astype(np.int64)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def exported(model: Any, path: Path, clear: bool = True) -> Case:
    """Half of many rows: those with the clearest answers, as a trained model has, or the least clear."""
    tokenizer = train_wordpiece(TEXTS, 60, 32)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    export_onnx(model, tokenizer, path)
    many = inputs(2 * ROWS, LENGTH)
    logits = run(cpu_session(path, 1), many)
    top = np.sort(logits, axis=1)
    order = np.argsort(top[:, -1] - top[:, -2])
    rows = np.sort(order[ROWS:] if clear else order[:ROWS])
    batches = [{name: value[part] for name, value in many.items()} for part in np.split(rows, 8)]
    return Case(path, batches, logits[rows])


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return exported(trained_like(request.param), tmp_path_factory.mktemp(request.param) / "model.onnx")


@pytest.fixture(scope="module")
def int8(case: Case) -> dict[str, tuple[Path, dict[str, Any]]]:
    """File and result of each mode."""
    made = {}
    for mode in MODES:
        target = case.path.with_name(f"{mode}.onnx")
        settings = Int8(mode=mode, min_agreement=0.98)
        made[mode] = target, quantize(case.path, target, settings, case.batches, case.reference)
    return made


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return exported(trained_like("bert"), tmp_path_factory.mktemp("bert") / "model.onnx")


@pytest.mark.parametrize("mode", MODES)
def test_labels_hold_the_file_shrinks_and_shapes_stay_free(
    case: Case, int8: dict[str, tuple[Path, dict[str, Any]]], mode: str
) -> None:
    target, result = int8[mode]
    assert len(np.unique(case.reference.argmax(axis=1))) > 1, "one answer to everything proves nothing"
    assert result["mode"] == mode
    assert result["fallback"] == []
    assert result["rows"] == ROWS
    assert result["bytes"] == target.stat().st_size < 0.5 * case.path.stat().st_size
    assert result["quantized"] == sum(map(len, operator_groups(case.path).values())) > 10

    session, plain = cpu_session(target, 1), cpu_session(case.path, 1)
    answers = np.concatenate([run(session, batch) for batch in case.batches])
    gap = np.abs(answers - case.reference)
    assert result["agreement"] == np.mean(answers.argmax(axis=1) == case.reference.argmax(axis=1)) >= 0.98
    assert result["max_abs_diff"] == pytest.approx(gap.max(), rel=1e-4)
    assert result["mean_abs_diff"] == pytest.approx(gap.mean(), rel=1e-4)
    assert 0 < gap.mean() < 0.2 * case.reference.std()

    assert read_io(target) == read_io(case.path)
    for batch in (1, 2, 7):
        for length in (2, 17):
            given = inputs(batch, length, seed=batch)
            assert np.abs(run(session, given) - run(plain, given)).mean() < 0.2 * case.reference.std()


@pytest.mark.parametrize("mode", MODES)
def test_only_products_with_weights_and_tables_are_int8(
    case: Case, int8: dict[str, tuple[Path, dict[str, Any]]], mode: str
) -> None:
    target, _ = int8[mode]
    before, after = (Counter(n.op_type for n in onnx.load(str(path)).graph.node) for path in (case.path, target))
    for kind in ("Softmax", "LayerNormalization", "Where", "Erf", "Tanh"):
        assert before[kind] == after[kind]
    # Weights of seven bits: no two products overflow the 16 bits that processors without VNNI add them in.
    graph = onnx.load(str(target)).graph
    whole = [numpy_helper.to_array(value) for value in graph.initializer if _is_weight(value)]
    largest = [int(np.abs(value.astype(int)).max()) for value in whole if value.ndim == 2]
    assert len(largest) >= 9
    assert all(32 < value <= 64 for value in largest)


def _is_weight(value: Any) -> bool:
    return value.data_type == TensorProto.INT8 and "embeddings" not in value.name


@pytest.mark.parametrize("mode", MODES)
def test_onnxruntime_keeps_layer_norm_as_it_is(
    int8: dict[str, tuple[Path, dict[str, Any]]], mode: str, tmp_path: Path
) -> None:
    target, _ = int8[mode]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # it warns that such a file fits this processor only
    onnxruntime.InferenceSession(str(target), options, providers=["CPUExecutionProvider"])
    before, after = (
        Counter(n.op_type for n in onnx.load(str(p)).graph.node) for p in (target, tmp_path / "optimized.onnx")
    )
    assert after["MatMulIntegerToFloat"] + after["DynamicQuantizeMatMul"] > 0, "it did not optimise anything"
    assert after["SkipLayerNormalization"] == 0
    assert after["LayerNormalization"] == before["LayerNormalization"] > 0


def alone_and_together(session: Any) -> float:
    """max |Δ logit| of one text beside different texts, at one padded length."""
    text = {name: value[:1] for name, value in inputs(1, 17).items()}
    alone = run(session, text)
    worst = 0.0
    for seed in range(1, 6):
        mates = inputs(6, 17, seed)
        together = run(session, {name: np.concatenate([text[name], mates[name]]) for name in text})
        worst = max(worst, float(np.abs(together[:1] - alone).max()))
    return worst


def test_only_dynamic_answers_depend_on_who_shares_the_batch(int8: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    found = {mode: alone_and_together(cpu_session(target, 1)) for mode, (target, _) in int8.items()}
    assert found["static"] <= 1e-6
    assert found["dynamic"] > 1e-3
    assert {mode: result["depends_on_batch"] for mode, (_, result) in int8.items()} == {
        "static": False,
        "dynamic": True,
    }


def test_what_depends_on_the_batch_is_read_from_the_graph(case: Case, tmp_path: Path) -> None:
    assert not depends_on_batch(case.path)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "scale", "zero")]
    measuring = helper.make_node("DynamicQuantizeLinear", ["x"], [one.name for one in outputs])
    # In a branch of an If, too.
    branch = helper.make_graph([measuring], "branch", [], outputs)
    chosen = helper.make_node("If", ["x"], ["a", "b", "c"], then_branch=branch, else_branch=branch)
    for number, node in enumerate((measuring, chosen)):
        path = tmp_path / f"{number}.onnx"
        onnx.save(helper.make_model(helper.make_graph([node], "graph", [value], [])), str(path))
        assert depends_on_batch(path)


def spoiled(block: int) -> Any:
    """One column of a Linear is enormous and the next Linear takes no notice of it: fp32 answers do not change, but
    one scale for all activations leaves nothing of the others."""
    model = trained_like("bert")
    layer = model.bert.encoder.layer[block]
    with torch.no_grad():
        layer.intermediate.dense.weight[3] *= 1e6
        layer.output.dense.weight[:, 3] = 0.0
    return model


@pytest.mark.parametrize(("block", "mode"), [(0, "dynamic"), (1, "static")])
def test_an_operator_that_spoils_the_answers_goes_back_to_fp32(
    block: int, mode: Literal["dynamic", "static"], tmp_path: Path
) -> None:
    planted = exported(spoiled(block), tmp_path / "model.onnx")
    total = sum(map(len, operator_groups(planted.path).values()))
    target = tmp_path / "int8.onnx"
    result = quantize(planted.path, target, Int8(mode=mode, min_agreement=0.97), planted.batches, planted.reference)
    # The product that reads the enormous column, and nothing else of its block.
    assert result["fallback"] == [f"bert.encoder.layer.{block}.output.dense"]
    assert result["agreement"] == difference(target, planted.batches, planted.reference).agreement >= 0.97
    assert result["quantized"] == quantized_operators(target) == total - 1


def test_ever_more_operators_go_back_while_the_agreement_does_not_hold(tmp_path: Path) -> None:
    near_ties = exported(trained_like("bert"), tmp_path / "model.onnx", clear=False)
    total = sum(map(len, operator_groups(near_ties.path).values()))
    loose, strict = (
        quantize(
            near_ties.path, tmp_path / "int8.onnx", Int8(min_agreement=least), near_ties.batches, near_ties.reference
        )
        for least in (0.5, 1.0)
    )
    assert loose["fallback"] == []
    assert loose["agreement"] < 1.0 == strict["agreement"]
    assert 1 < len(strict["fallback"]) == len(set(strict["fallback"])) <= total
    assert strict["quantized"] == total - len(strict["fallback"])


def test_an_agreement_out_of_reach_is_an_error_and_leaves_no_file(bert: Case, tmp_path: Path) -> None:
    others = np.roll(bert.reference, 1, axis=1)
    with pytest.raises(ModelError, match=r"even in fp32 .* 0\.0% of 128 .* needs 98\.5%") as caught:
        quantize(bert.path, tmp_path / "int8.onnx", Int8(), bert.batches, others)
    assert "this model's own" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_answers_that_are_not_finite_never_hold(bert: Case, tmp_path: Path) -> None:
    graph = onnx.load(str(bert.path))
    for node in graph.graph.node:
        node.output[:] = ["clean" if name == "logits" else name for name in node.output]
    graph.graph.initializer.append(helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]))
    graph.graph.node.append(helper.make_node("Div", ["clean", "zero"], ["logits"], name="Div"))
    onnx.save(graph, tmp_path / "broken.onnx")
    found = difference(tmp_path / "broken.onnx", bert.batches, bert.reference)
    assert (found.agreement, found.max_abs) == (0.0, float("inf"))
    with pytest.raises(ModelError, match="even in fp32"):
        quantize(tmp_path / "broken.onnx", tmp_path / "int8.onnx", Int8(), bert.batches, bert.reference)


def test_groups_are_blocks_and_modules_by_their_hugging_face_names(case: Case) -> None:
    groups = operator_groups(case.path)
    blocks = [name for name in groups if name[-1].isdigit()]
    assert [name.rpartition(".")[2] for name in blocks] == ["0", "1"]
    assert len({len(groups[name]) for name in blocks}) == 1
    assert "classifier" in groups
    assert any(name.endswith(("word_embeddings", "tok_embeddings")) for name in groups)


def test_a_graph_without_weights_and_rows_that_do_not_match(bert: Case, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["input_ids"], ["logits"], to=TensorProto.FLOAT, name="Cast")],
        "empty",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length"])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "empty.onnx")
    with pytest.raises(ModelError, match="no operator with constant weights"):
        quantize(tmp_path / "empty.onnx", tmp_path / "int8.onnx", Int8(), bert.batches, bert.reference)
    with pytest.raises(ValueError, match="112 calibration rows for 128"):
        quantize(bert.path, tmp_path / "int8.onnx", Int8(), bert.batches[1:], bert.reference)
