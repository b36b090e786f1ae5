"""Models above protobuf's 2 GB, which keep their weights in a data file: shown on a small one with a lower limit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from test_export_stage import ANY, SHAPES, fast, recipe_of, stages  # noqa: F401 fixtures
from test_quantize import Case, exported, inputs, trained_like

from lwc.export import onnx_files
from lwc.export.half import to_fp16
from lwc.export.latency import compare_latency
from lwc.export.onnx_files import copy_graph, parts, save_graph, size_of, typed
from lwc.export.quantize import quantize
from lwc.export.run import FP16, INT8, WHOLE, export_pair
from lwc.export.session import cpu_session, run
from lwc.recipe import Export, Int8, Package, Shape
from lwc.serving.checks.run import Machine, inspect_repository
from lwc.serving.triton.repository import ModelFiles, build_repository
from lwc.tasks.text_endpoint import TextEndpoint


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return exported(trained_like("bert"), tmp_path_factory.mktemp("one") / "model.onnx")


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_files, "LARGEST", 20_000)


@pytest.fixture
def large(one_file: Case, limit: None, tmp_path: Path) -> Case:
    return exported(trained_like("bert"), tmp_path / "large" / "model.onnx")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()


def names(path: Path) -> list[str]:
    return [part.name for part in parts(path)]


def test_the_export_writes_one_data_file_and_counts_it(one_file: Case, large: Case) -> None:
    assert names(large.path) == sorted(p.name for p in large.path.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert names(one_file.path) == ["model.onnx"]
    assert size_of(one_file.path) == one_file.path.stat().st_size
    assert size_of(large.path) == sum(p.stat().st_size for p in large.path.parent.iterdir())
    assert size_of(large.path) / size_of(one_file.path) == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(large.reference, one_file.reference)


def test_files_of_single_weights_are_gathered(one_file: Case, tmp_path: Path) -> None:
    """As torch writes a graph above 2 GB: a file a weight, named after it."""
    scattered = tmp_path / "large" / "model.onnx"
    onnx.save(onnx.load(str(one_file.path)), str(scattered), save_as_external_data=True, all_tensors_to_one_file=False)
    assert len(parts(scattered)) > 10
    whole = size_of(scattered)
    onnx_files.gather(scattered)
    assert sorted(p.name for p in scattered.parent.iterdir()) == names(scattered) == ["model.onnx"]
    assert size_of(scattered) == pytest.approx(whole, rel=0.1)


def test_saving_again_does_not_append(large: Case) -> None:
    before = size_of(large.path)
    save_graph(onnx.load(str(large.path)), large.path)
    assert size_of(large.path) == before


def test_a_copy_stands_alone(large: Case, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    copy_graph(large.path, tmp_path / "other" / "moved.onnx")
    shutil.rmtree(large.path.parent)
    batch = large.batches[0]
    answers = run(cpu_session(tmp_path / "other" / "moved.onnx", 1), batch)
    np.testing.assert_allclose(answers, large.reference[: len(answers)], atol=1e-5)


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_int8(mode: Any, large: Case, one_file: Case, tmp_path: Path) -> None:
    settings = Int8(mode=mode, min_agreement=0.9)
    made = {}
    for name, case in (("one", one_file), ("large", large)):
        target = case.path.with_name("model.int8.onnx")
        made[name] = quantize(case.path, target, settings, case.batches, case.reference)
        assert made[name]["bytes"] == size_of(target)
    assert made["large"]["agreement"] == made["one"]["agreement"]
    assert made["large"]["bytes"] < 0.5 * size_of(large.path)
    assert size_of(large.path) > 100_000, "the source keeps its own data file"
    assert not list(large.path.parent.glob("*inferred*"))


def test_int8_where_everything_goes_back_to_fp32_is_whole(large: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwc.export.quantize._holds", lambda found, settings: found.max_abs < 1e-6)
    target = large.path.with_name("model.int8.onnx")
    result = quantize(large.path, target, Int8(mode="dynamic"), large.batches[:1], large.reference[:16])
    assert result["quantized"] == 0
    assert names(target) == ["model.int8.onnx", "model.int8.onnx.data"]
    assert result["bytes"] == pytest.approx(size_of(large.path), rel=0.05)


def test_half(large: Case, one_file: Case) -> None:
    target = large.path.with_name("model.fp16.onnx")
    result = to_fp16(large.path, target, large.batches, large.reference, 0.05)
    assert names(target) == ["model.fp16.onnx", "model.fp16.onnx.data"]
    assert result["bytes"] == size_of(target) < 0.65 * size_of(large.path)
    assert compare_latency(large.path, target, [Shape(batch=1, length=4)], 1, 1)["ratio"] > 0


def test_types_are_inferred_without_the_weights(one_file: Case) -> None:
    model = onnx.load(str(one_file.path))
    whole, bare = onnx.shape_inference.infer_shapes(model).graph, typed(model)
    assert list(bare.value_info) == list(whole.value_info)
    assert size_of(one_file.path) > 3 * bare.ByteSize()
    assert any(tensor.raw_data for tensor in model.graph.initializer), "the model keeps its weights"


def test_both_give_equal_answers(large: Case, one_file: Case) -> None:
    batch = inputs(3, 9)
    np.testing.assert_array_equal(run(cpu_session(large.path, 1), batch), run(cpu_session(one_file.path, 1), batch))


def test_the_line_from_export_to_repository(
    stages: dict[str, Path],  # noqa: F811
    limit: None,
    fast: None,  # noqa: F811
    tmp_path: Path,
) -> None:
    out = tmp_path / "export"
    out.mkdir()
    settings = Export(int8=ANY, fp16=True, latency_shapes=SHAPES, latency_repeats=3)
    found = export_pair(recipe_of(settings), stages, out, lambda _: None)
    assert found["parity"]["passed"]
    for name in ("base", "compressed"):
        files = [path for path in (out / name).iterdir() if ".int8." not in path.name and ".fp16." not in path.name]
        assert len(files) == 2
        assert found["files"][name]["bytes"] == sum(path.stat().st_size for path in files) > 100_000
    assert found["ratios"]["size"] == found["files"]["base"]["bytes"] / found["files"]["compressed"]["bytes"]
    assert found["int8"]["ratios"]["size"] > 1.2
    for graph in (WHOLE, INT8, FP16):
        repository = tmp_path / Path(graph).stem
        files = ModelFiles(out / graph, stages["recover"] / "model")
        build_repository(TextEndpoint(), files, repository, Package(), "large")
        assert [one for one in inspect_repository(repository, Machine(gpus=0)) if one.severity == "error"] == []
        packaged = repository / "large_tokens" / "1" / "model.onnx"
        np.testing.assert_array_equal(
            run(cpu_session(packaged, 1), inputs(2, 8)), run(cpu_session(out / graph, 1), inputs(2, 8))
        )
        for part in parts(packaged)[1:]:
            part.unlink()
            (missing,) = inspect_repository(repository, Machine(gpus=0))
            assert f"external data file '{part.name}' is missing" in missing.what
