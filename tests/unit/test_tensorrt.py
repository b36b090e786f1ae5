"""TensorRT plans: profiles, precision and refusals on the real library, which builds without a GPU; stamps anywhere."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from test_quantize import MODELS, Case, exported, inputs, trained_like

from lwc.core.errors import MissingDependency, ModelError
from lwc.export.engine import Classifier, Engine, compare_answers, fitting, open_classifier
from lwc.export.half import to_fp16
from lwc.export.quantize import quantize
from lwc.export.session import cpu_session, run
from lwc.export.stamp import STAMP, Gpu, make_stamp, misfits, read_stamp, read_trtexec_log, this_gpu
from lwc.export.tensorrt import build_plan, load_library, shapes_of
from lwc.recipe import Int8, Profile, Shape, TensorRT, gap
from lwc.serving.checks.run import Machine, this_machine

rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed (lwc[tensorrt-rtx])"
)
L4 = Gpu("NVIDIA L4", "8.9", "550.54.15")


def profile(low: tuple[int, int], best: tuple[int, int], high: tuple[int, int]) -> Profile:
    return Profile(**{
        key: Shape(batch=batch, length=length)
        for key, (batch, length) in (("min", low), ("opt", best), ("max", high))
    })  # fmt: skip


WHOLE = profile((1, 1), (4, 16), (8, 32))
SHORT, LONG = profile((1, 1), (8, 8), (8, 16)), profile((1, 17), (2, 32), (8, 32))


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return exported(trained_like(request.param), tmp_path_factory.mktemp(request.param) / "model.onnx")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return exported(trained_like("bert"), tmp_path_factory.mktemp("bert") / "model.onnx")


# --- profiles ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((2, 1), (1, 8), (8, 16)), "batch: not min 2 ≤ opt 1 ≤ max 8"),
        (((1, 1), (1, 32), (8, 16)), "length: not min 1 ≤ opt 32 ≤ max 16"),
    ],
)
def test_a_profile_out_of_order_is_refused(shapes: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        profile(*shapes)


def test_a_hole_between_profiles_is_refused_and_so_is_no_single_text() -> None:
    assert TensorRT(profiles=(SHORT, LONG)).profiles == (SHORT, LONG)
    with pytest.raises(ValidationError, match="no profile takes batch 1 × length 17"):
        TensorRT(profiles=(SHORT, profile((1, 18), (2, 32), (8, 32))))
    with pytest.raises(ValidationError, match="no profile takes batch 3 × length 17"):
        TensorRT(profiles=(SHORT, profile((1, 17), (2, 32), (2, 32))))
    with pytest.raises(ValidationError, match="no profile takes a batch below 2"):
        TensorRT(profiles=(profile((2, 1), (2, 8), (4, 16)),))


sizes = st.integers(1, 7)


@given(st.lists(st.tuples(st.tuples(sizes, sizes), st.tuples(sizes, sizes)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=200)
def test_a_gap_is_found_where_looking_at_every_shape_finds_one(corners: list[Any]) -> None:
    boxes = []
    for one, other in corners:
        low, high = (tuple(f(pair) for pair in zip(one, other, strict=True)) for f in (min, max))
        boxes.append(profile(low, low, high))
    batches = range(min(b.min.batch for b in boxes), max(b.max.batch for b in boxes) + 1)
    lengths = range(min(b.min.length for b in boxes), max(b.max.length for b in boxes) + 1)
    holes = {(b, n) for b in batches for n in lengths if not any(box.takes(b, n) for box in boxes)}
    found = gap(boxes)
    assert found in holes if holes else found is None


def test_the_nearest_profile_that_takes_a_batch_is_used() -> None:
    profiles = [shapes_of(one, ["input_ids"]) for one in (SHORT, LONG, WHOLE)]

    def chosen(batch: int, length: int) -> int:
        return fitting(profiles, {"input_ids": np.zeros((batch, length), dtype=np.int64)})

    assert [chosen(8, 8), chosen(1, 32), chosen(4, 16)] == [0, 1, 2]
    with pytest.raises(ValueError, match="no profile takes"):
        chosen(9, 8)


# --- the real library, without a GPU ----------------------------------------------------------


@rtx
def test_every_model_is_built_in_both_precisions_with_its_profiles(case: Case, tmp_path: Path) -> None:
    trt = load_library("tensorrt-rtx")
    whole = build_plan(case.path, (SHORT, LONG), trt)
    names = [value.name for value in onnx.load(str(case.path)).graph.input]
    assert whole.profiles == [shapes_of(one, names) for one in (SHORT, LONG)]
    assert whole.profiles[1]["attention_mask"] == {"min": [1, 17], "opt": [2, 32], "max": [8, 32]}
    assert whole.layers["FLOAT"] > 100
    assert "HALF" not in whole.layers

    half = tmp_path / "half.onnx"
    to_fp16(case.path, half, case.batches, case.reference, 0.1)
    built = build_plan(half, (SHORT, LONG), trt)
    # Casts and what is kept in fp32 on purpose are the rest.
    assert built.layers["HALF"] > 3 * built.layers["FLOAT"] > 0
    assert len(built.content) < len(whole.content)
    assert built.content[:4] == whole.content[:4]


@rtx
def test_an_fp16_graph_with_operators_kept_in_fp32_has_its_casts(tmp_path: Path) -> None:
    """TensorRT adds no fp16 number to an fp32 one: what the overflow guard leaves in fp32 needs casts around it."""
    model = trained_like("bert")
    layer = model.bert.encoder.layer[1]
    with torch.no_grad():
        layer.intermediate.dense.weight[:4] *= 1e6
        layer.output.dense.weight[:, :4] *= 1e-6
    planted = exported(model, tmp_path / "model.onnx")
    result = to_fp16(planted.path, tmp_path / "half.onnx", planted.batches, planted.reference, 0.1)
    assert "/model/bert/encoder/layer.1/intermediate/dense/MatMul" in result["kept_fp32"]
    layers = build_plan(tmp_path / "half.onnx", (WHOLE,), load_library("tensorrt-rtx")).layers
    assert layers["HALF"] > layers["FLOAT"] > len(result["kept_fp32"])


@rtx
def test_two_profiles_make_a_larger_plan_than_one(bert: Case) -> None:
    """They are in the plan, not only in what we say of it."""
    trt = load_library("tensorrt-rtx")
    one, two = (build_plan(bert.path, profiles, trt).content for profiles in ((SHORT,), (SHORT, LONG)))
    assert len(two) > len(one)


@rtx
def test_what_the_library_refuses_is_told_with_its_words(bert: Case, tmp_path: Path) -> None:
    trt = load_library("tensorrt-rtx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"broken\.onnx: tensorrt_rtx does not parse it"):
        build_plan(tmp_path / "broken.onnx", (WHOLE,), trt)
    quantize(bert.path, tmp_path / "int8.onnx", Int8(min_agreement=0.9), bert.batches, bert.reference)
    with pytest.raises(ModelError, match=r"int8\.onnx") as caught:
        build_plan(tmp_path / "int8.onnx", (WHOLE,), trt)
    assert "int8" in caught.value.hint
    with pytest.raises(ValueError, match="needs a profile"):
        build_plan(bert.path, (), trt)


@rtx
def test_a_plan_here_is_not_run_and_the_onnx_model_answers_by_name(bert: Case, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is here: the plan runs")
    plan = tmp_path / "model.plan"
    built = build_plan(bert.path, (WHOLE,), load_library("tensorrt-rtx"))
    plan.write_bytes(built.content)
    stamp = make_stamp(plan, bert.path, "tensorrt-rtx", "1.7.1", None, "fp32", built.profiles)
    (tmp_path / STAMP).write_text(json.dumps(stamp))
    assert read_stamp(plan)["gpu"] == "any"
    with pytest.raises(MissingDependency, match="needs a GPU"):
        Engine(plan)
    told: list[str] = []
    classifier = open_classifier(plan, bert.path, told.append)
    assert classifier.runtime == "onnxruntime"
    assert str(bert.path) in told[0]
    assert "needs a GPU" in told[0]
    given = inputs(3, 9)
    np.testing.assert_array_equal(classifier.answer(given), run(cpu_session(bert.path, 1), given))


@rtx
def test_the_interface_that_the_engine_calls_exists() -> None:
    """Nothing here runs an engine without a GPU; a renamed method would be found only there."""
    trt = load_library("tensorrt-rtx")
    wanted = {
        trt.Runtime: ["deserialize_cuda_engine"],
        trt.ICudaEngine: [
            "create_execution_context", "get_tensor_dtype", "get_tensor_mode", "get_tensor_name", "num_io_tensors",
            "num_optimization_profiles",
        ],
        trt.IExecutionContext: [
            "execute_async_v3", "get_tensor_shape", "set_input_shape", "set_optimization_profile_async",
            "set_tensor_address",
        ],
        trt.TensorIOMode: ["INPUT", "OUTPUT"],
        trt.DataType: ["FLOAT", "HALF"],
    }  # fmt: skip
    assert not [(owner, name) for owner, names in wanted.items() for name in names if not hasattr(owner, name)]


def test_a_library_that_is_not_there_is_told_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingDependency) as caught:
        load_library("tensorrt-rtx")
    assert "lwc[tensorrt-rtx]" in caught.value.hint
    assert caught.value.exit_code == 4


# --- stamps -----------------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A plan that is no plan, with a stamp of an L4."""
    path, source = tmp_path / "model.plan", tmp_path / "model.fp16.onnx"
    path.write_bytes(b"plan")
    source.write_bytes(b"graph")
    stamp = make_stamp(path, source, "tensorrt", "10.9.0", L4, "fp16", [shapes_of(WHOLE, ["input_ids"])])
    (tmp_path / STAMP).write_text(json.dumps(stamp))
    return path


def test_a_stamp_says_where_its_plan_runs_and_both_sides_where_it_does_not(plan: Path) -> None:
    stamp = read_stamp(plan)
    assert stamp["onnx"]["file"] == "model.fp16.onnx"
    assert misfits(stamp, "NVIDIA L4", "8.9", "10.9.0") == []
    assert misfits(stamp, None, None, None) == []
    assert misfits(stamp, "NVIDIA L4", "8.9", "10.3.0") == ["the plan was built for TensorRT 10.9.0, here is 10.3.0"]
    wrong = misfits(stamp, "Tesla T4", "7.5", "10.9.0")
    assert [word in line for word, line in zip(("NVIDIA L4", "8.9"), wrong, strict=True)] == [True, True]
    assert [word in line for word, line in zip(("Tesla T4", "7.5"), wrong, strict=True)] == [True, True]


def test_a_plan_without_its_stamp_or_with_anothers_is_refused(plan: Path, tmp_path: Path) -> None:
    plan.write_bytes(b"another")
    with pytest.raises(ModelError, match=r"not the file that plan\.json was written for"):
        read_stamp(plan)
    (tmp_path / STAMP).write_text("{}")
    with pytest.raises(ModelError, match="no text under 'library'"):
        read_stamp(plan)
    (tmp_path / STAMP).unlink()
    with pytest.raises(ModelError, match="missing") as caught:
        read_stamp(plan)
    assert "lwc export" in caught.value.hint


def smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put an ``nvidia-smi`` of ours first on PATH."""
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_the_gpu_is_read_from_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    smi(tmp_path, monkeypatch, "echo 'NVIDIA L4, 8.9, 550.54.15'; echo 'NVIDIA L4, 8.9, 550.54.15'")
    assert this_gpu() == L4
    assert this_machine() == Machine(gpus=2, gpu="NVIDIA L4", compute_capability="8.9", tensorrt=None)
    smi(tmp_path, monkeypatch, "echo 'NVIDIA L4, 8.9, 550.54.15'; echo 'Tesla T4, 7.5, 550.54.15'")
    with pytest.raises(MissingDependency, match=r"several kinds of GPU: NVIDIA L4.*Tesla T4"):
        this_gpu()
    smi(tmp_path, monkeypatch, 'for last; do :; done; test "$last" = --id=1 && echo "Tesla T4, 7.5, 550.54.15"')
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert this_gpu() == Gpu("Tesla T4", "7.5", "550.54.15")
    smi(tmp_path, monkeypatch, "echo 'NVIDIA-SMI has failed'; exit 9")
    with pytest.raises(MissingDependency, match="NVIDIA-SMI has failed"):
        this_gpu()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert this_gpu() is None
    assert this_machine() == Machine(gpus=0)


TRTEXEC = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v100900] [b34] # trtexec --onnx=/out/model.onnx
[04/07/2025-23:59:33] [I] === Device Information ===
[04/07/2025-23:59:33] [I] Available Devices:
[04/07/2025-23:59:33] [I]   Device 0: "NVIDIA GeForce RTX 3070" UUID: GPU-84a8068b
[04/07/2025-23:59:33] [I] Selected Device: NVIDIA GeForce RTX 3070
[04/07/2025-23:59:33] [I] Compute Capability: 8.6
[04/07/2025-23:59:33] [I] TensorRT version: 10.9.0
[04/07/2025-23:59:59] [I] Engine built in 25.1 sec.
&&&& PASSED TensorRT.trtexec [TensorRT v100900] [b34]
Driver: 550.54.15
"""


def test_what_trtexec_built_is_known_from_its_log() -> None:
    assert read_trtexec_log(TRTEXEC) == (Gpu("NVIDIA GeForce RTX 3070", "8.6", "550.54.15"), "10.9.0")
    with pytest.raises(ModelError, match="PASSED"):
        read_trtexec_log(TRTEXEC.replace("PASSED", "FAILED"))
    with pytest.raises(ModelError, match="no driver"):
        read_trtexec_log(TRTEXEC.replace("Driver", "driver"))


def test_answers_are_compared_by_the_largest_difference_and_the_labels(bert: Case) -> None:
    session = cpu_session(bert.path, 1)
    shifted = Classifier("engine", lambda given: run(session, given) + np.float32([0.25, 0.0, 0.0]))
    found = compare_answers(shifted, bert.path, bert.batches)
    assert found["max_abs_diff"] == pytest.approx(0.25, abs=1e-5)
    changed = [(run(session, one).argmax(1) == shifted.answer(one).argmax(1)).mean() for one in bert.batches]
    assert found["label_agreement"] == pytest.approx(float(np.mean(changed)))
    assert found["rows"] == len(bert.reference)
    broken = Classifier("engine", lambda given: run(session, given) * np.nan)
    assert compare_answers(broken, bert.path, bert.batches)["max_abs_diff"] == float("inf")


# --- on a GPU ---------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: engines run nowhere else")
@pytest.mark.parametrize("library", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_engine_answers_as_the_onnx_model_does(case: Case, tmp_path: Path, library: Any, precision: str) -> None:
    try:
        trt = load_library(library)
    except MissingDependency as error:
        pytest.skip(error.message)
    graph = case.path
    if precision == "fp16":
        graph = tmp_path / "half.onnx"
        to_fp16(case.path, graph, case.batches, case.reference, 0.1)
    built = build_plan(graph, (profile((1, 1), (8, 8), (16, 16)), profile((1, 17), (16, 20), (16, 32))), trt)
    path = tmp_path / "model.plan"
    path.write_bytes(built.content)
    here = this_gpu() if library == "tensorrt" else None
    version = ".".join(trt.__version__.split(".")[:3])
    stamp = make_stamp(path, graph, library, version, here, precision, built.profiles)
    (tmp_path / STAMP).write_text(json.dumps(stamp))
    classifier = open_classifier(path, case.path, pytest.fail)
    assert classifier.runtime == "engine"
    tolerance = 1e-3 if precision == "fp32" else 0.1
    for batches in (case.batches, [inputs(1, 3), inputs(16, 16), inputs(5, 32)]):
        assert compare_answers(classifier, case.path, batches)["max_abs_diff"] <= tolerance
    with pytest.raises(ValueError, match="no profile takes"):
        classifier.answer(inputs(17, 8))
