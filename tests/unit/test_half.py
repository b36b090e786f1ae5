"""Fp16 graphs: the numbers that do not fit stay in fp32, proven on planted models with true fp16 arithmetic."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel
from test_quantize import MODELS, Case, exported, inputs, trained_like

from lwc.core.arrays import Array
from lwc.core.errors import ModelError
from lwc.export.half import FP16_MAX, before_weights, convert, largest_values, to_fp16
from lwc.export.onnx_io import read_io
from lwc.export.quantize import difference
from lwc.export.session import cpu_session, run

TOLERANCE = 0.05
FFN = "/model/bert/encoder/layer.{}/intermediate/"


def fp16_arithmetic(path: Path, batch: dict[str, Array]) -> Array:
    """Logits by numpy: every fp16 number is rounded and overflows, which ONNX Runtime's CPU may hide."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(ReferenceEvaluator(str(path)).run(None, batch)[0])


def written(model: Any, path: Path) -> Path:
    onnx.save(model, str(path))
    return path


def types(path: Path) -> dict[str, int]:
    """Element type of each weight matrix."""
    return {value.name: value.data_type for value in onnx.load(str(path)).graph.initializer if len(value.dims) == 2}


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return exported(trained_like(request.param), tmp_path_factory.mktemp(request.param) / "model.onnx")


def test_answers_hold_the_file_halves_and_shapes_stay_free(case: Case, tmp_path: Path) -> None:
    target = tmp_path / "half.onnx"
    result = to_fp16(case.path, target, case.batches, case.reference, TOLERANCE)
    assert 0 < result["mean_abs_diff"] < result["max_abs_diff"] <= TOLERANCE
    assert result["agreement"] == 1.0
    assert result["rows"] == len(case.reference)
    assert result["bytes"] == target.stat().st_size < 0.65 * case.path.stat().st_size
    assert set(types(target).values()) == {TensorProto.FLOAT16}
    assert read_io(target) == read_io(case.path)
    onnx.checker.check_model(str(target), full_check=True)
    session, plain = cpu_session(target, 1), cpu_session(case.path, 1)
    for batch in (1, 2, 7):
        for length in (2, 17):
            given = inputs(batch, length, seed=batch)
            np.testing.assert_allclose(run(session, given), run(plain, given), atol=TOLERANCE)


def test_masks_and_their_softmax_stay_in_fp32(case: Case, tmp_path: Path) -> None:
    """A mask is the smallest fp32 number: minus infinity in fp16, and a row of nothing else is NaN after softmax."""
    result = to_fp16(case.path, tmp_path / "half.onnx", case.batches, case.reference, TOLERANCE)
    softmax = [node.name for node in onnx.load(str(case.path)).graph.node if node.op_type == "Softmax"]
    nodes = onnx.load(str(tmp_path / "half.onnx")).graph.node
    constants = {node.output[0] for node in nodes if node.op_type == "Constant"}
    assert not [node.name for node in nodes if node.op_type == "Cast" and node.input[0] in constants]
    assert set(softmax) <= set(result["kept_fp32"])
    assert not [name for name in result["kept_fp32"] if "intermediate" in name or "mlp" in name or "ffn" in name]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The second block's first four FFN channels, and their weights, are far beyond 65504; the next Linear makes them
    small again."""
    model = trained_like("bert")
    layer = model.bert.encoder.layer[1]
    with torch.no_grad():
        layer.intermediate.dense.weight[:4] *= 1e6
        layer.output.dense.weight[:, :4] *= 1e-6
    return exported(model, tmp_path_factory.mktemp("planted") / "model.onnx")


def test_activations_beyond_fp16_stay_in_fp32_and_would_be_nan_otherwise(planted: Case, tmp_path: Path) -> None:
    target = tmp_path / "half.onnx"
    result = to_fp16(planted.path, target, planted.batches, planted.reference, TOLERANCE)
    kept = result["kept_fp32"]
    assert f"{FFN.format(1)}dense/MatMul" in kept
    assert "/model/bert/encoder/layer.1/output/dense/MatMul" in kept
    assert not [name for name in kept if name.startswith(FFN.format(0))]
    guarded = fp16_arithmetic(target, planted.batches[0])
    np.testing.assert_allclose(guarded, planted.reference[: len(guarded)], atol=TOLERANCE)
    assert max(largest_values(target, planted.batches, TensorProto.FLOAT16).values()) < FP16_MAX
    # Weights beyond 65504 would be clipped to it without a word.
    assert sorted(types(target).values()).count(TensorProto.FLOAT) == 2

    naive = written(convert(onnx.load(str(planted.path)), []), tmp_path / "naive.onnx")
    assert np.isnan(fp16_arithmetic(naive, planted.batches[0])).any()
    assert max(largest_values(naive, planted.batches, TensorProto.FLOAT16).values()) > FP16_MAX


def test_a_large_number_between_two_fp32_nodes_is_not_rounded_on_its_way(planted: Case, tmp_path: Path) -> None:
    """ONNX Runtime's converter alone loses it: it rounds each fp32 node's result to fp16."""
    kept = to_fp16(planted.path, tmp_path / "half.onnx", planted.batches, planted.reference, TOLERANCE)["kept_fp32"]
    kept += before_weights(onnx.load(str(planted.path)))
    rounding = OnnxModel(
        convert_float_to_float16(onnx.load(str(planted.path)), keep_io_types=True, node_block_list=kept)
    )
    rounding.topological_sort()
    lost = difference(written(rounding.model, tmp_path / "lost.onnx"), planted.batches, planted.reference)
    assert lost.max_abs == float("inf")


def test_a_norm_whose_squares_do_not_fit_stays_in_fp32(tmp_path: Path) -> None:
    """The input of a few hundred fits in fp16, its square does not."""
    model = trained_like("bert")
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight *= 2000
    case = exported(model, tmp_path / "model.onnx")
    largest = largest_values(case.path, case.batches)["/model/bert/embeddings/Add_1_output_0"]
    assert np.sqrt(FP16_MAX) < largest < FP16_MAX / 2
    result = to_fp16(case.path, tmp_path / "half.onnx", case.batches, case.reference, TOLERANCE)
    assert [name for name in result["kept_fp32"] if "LayerNorm" in name] == [
        "/model/bert/embeddings/LayerNorm/LayerNormalization"
    ]


def test_positions_beyond_what_fp16_can_count_keep_their_angles(tmp_path: Path) -> None:
    """Fp16 counts 2048, 2050, …: rotary angles made of such positions are wrong."""
    case = exported(trained_like("modernbert"), tmp_path / "model.onnx")
    target = tmp_path / "half.onnx"
    result = to_fp16(case.path, target, case.batches, case.reference, TOLERANCE)
    assert result["positions_fp32"] > 0

    def angles(path: Path) -> Array:
        graph = onnx.load(str(path))
        cosine = next(node for node in graph.graph.node if node.op_type == "Cos")
        graph.graph.node.append(helper.make_node("Cast", [cosine.output[0]], ["angles"], to=TensorProto.FLOAT))
        graph.graph.output.append(helper.make_tensor_value_info("angles", TensorProto.FLOAT, None))
        del graph.graph.output[0]
        shown = cpu_session(written(graph, tmp_path / "angles.onnx"), 1)
        ones = np.ones((1, 3001), dtype=np.int64)
        return np.asarray(shown.run(None, {value.name: ones for value in shown.get_inputs()})[0])

    exact = angles(case.path)
    np.testing.assert_allclose(angles(target), exact, atol=1e-6)
    naive = written(convert(onnx.load(str(case.path)), result["kept_fp32"]), tmp_path / "naive.onnx")
    assert np.abs(angles(naive) - exact).max() > 0.05


def test_what_differs_too_much_or_is_broken_already_is_an_error_and_leaves_no_file(case: Case, tmp_path: Path) -> None:
    target = tmp_path / "half.onnx"
    with pytest.raises(ModelError, match=r"in fp16 logits differ by .* \(allowed 1e-09") as caught:
        to_fp16(case.path, target, case.batches, case.reference, 1e-9)
    assert "fp32 graph" in caught.value.hint
    broken = onnx.load(str(case.path))
    for node in broken.graph.node:
        node.output[:] = ["clean" if name == "logits" else name for name in node.output]
    broken.graph.initializer.append(helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]))
    broken.graph.node.append(helper.make_node("Div", ["clean", "zero"], ["logits"], name="Div"))
    source = written(broken, tmp_path / "broken.onnx")
    with pytest.raises(ModelError, match="not finite in fp32 already"):
        to_fp16(source, target, case.batches, case.reference, TOLERANCE)
    with pytest.raises(ValueError, match="112 calibration rows for 128"):
        to_fp16(case.path, target, case.batches[1:], case.reference, TOLERANCE)
    assert not target.exists()
