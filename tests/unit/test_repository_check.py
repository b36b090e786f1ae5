"""The look over a repository before a server starts on it: faults people met, each named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from fronts import text_front
from onnx import TensorProto, helper

from lwc.core.errors import ModelError
from lwc.export.onnx_io import OnnxInfo, TensorInfo, read_io
from lwc.recipe import Package
from lwc.serving.checks.run import check_repository
from lwc.serving.triton.config import as_text, front_model, graph_model, parse


def write_graph(
    path: Path, batch: int | str = "batch", names: tuple[str, ...] = ("input_ids", "attention_mask")
) -> None:
    nodes = [helper.make_node("Sum", [f"{name}_f" for name in names], ["sum"])]
    nodes += [helper.make_node("Cast", [name], [f"{name}_f"], to=TensorProto.FLOAT) for name in names]
    nodes = [*nodes[1:], nodes[0], helper.make_node("ReduceMean", ["sum"], ["mean"], axes=[1])]
    nodes.append(helper.make_node("Concat", ["mean", "mean"], ["logits"], axis=1))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.INT64, [batch, "length"]) for name in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 2])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    for name in ("m", "m_tokens"):
        (folder / name / "1").mkdir(parents=True)
    package = Package(max_batch_size=128, instances=1, intra_op_threads=1)
    write_graph(folder / "m_tokens" / "1" / "model.onnx")
    info = read_io(folder / "m_tokens" / "1" / "model.onnx")
    assert info == OnnxInfo(
        tuple(TensorInfo(n, TensorProto.INT64, (-1, -1)) for n in ("input_ids", "attention_mask")),
        (TensorInfo("logits", TensorProto.FLOAT, (-1, 2)),),
    )
    (folder / "m_tokens" / "config.pbtxt").write_text(as_text(graph_model("m_tokens", info, package, [])))
    (folder / "m_tokens" / "labels.txt").write_text("bad\ngood\n")
    text = front_model("m", text_front(2, {"token_model": "m_tokens"}), package)
    (folder / "m" / "config.pbtxt").write_text(as_text(text))
    (folder / "m" / "1" / "model.py").write_text(
        "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
    )
    return folder


def test_a_sound_repository_has_nothing_to_tell(repository: Path) -> None:
    assert check_repository(repository) == []


def test_stray_folders_of_a_model_are_told(repository: Path) -> None:
    for stray in ("m/.ipynb_checkpoints", "m_tokens/tmp", "m_tokens/1/.ipynb_checkpoints", "m/0"):
        (repository / stray).mkdir()
    notes = check_repository(repository)
    for stray in ("m/.ipynb_checkpoints/", "m_tokens/tmp/", "m_tokens/1/.ipynb_checkpoints/", "m/0/"):
        assert sum(stray in note for note in notes) == 1
    assert len(notes) == 4


def graph(repository: Path) -> Path:
    return repository / "m_tokens" / "1" / "model.onnx"


def config(repository: Path, old: str, new: str, model: str = "m_tokens") -> None:
    path = repository / model / "config.pbtxt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def repeated_batch(repository: Path) -> None:
    path = repository / "m_tokens" / "config.pbtxt"
    parsed = parse(path.read_text())
    parsed.output[0].dims.insert(0, -1)
    path.write_text(as_text(parsed))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "fixed batch": (
        lambda r: write_graph(graph(r), batch=16), r"model\.onnx: input input_ids: .*batch at 16, .*is 128",
    ),
    "one input more in the graph": (
        lambda r: write_graph(graph(r), names=("input_ids", "attention_mask", "token_type_ids")),
        r"inputs are .*'token_type_ids'.*, in config\.pbtxt \['attention_mask', 'input_ids'\]",
    ),
    "one input more in the config": (
        lambda r: write_graph(graph(r), names=("input_ids",)), r"inputs are \['input_ids'\], in config\.pbtxt \['att",
    ),
    "another type": (
        lambda r: config(r, "TYPE_INT64", "TYPE_INT32"), "input input_ids: TYPE_INT64 in the file, TYPE_INT32 in",
    ),
    "batch repeated in dims": (repeated_batch, r"output logits: dims \[-1, 2\] in config.pbtxt repeat the batch"),
    "another class count": (lambda r: config(r, "dims: 2", "dims: 3"), r"dims \[2\] in the file .*\[3\]"),
    "Git LFS": (
        lambda r: graph(r).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 130\n"),
        "Git LFS pointer",
    ),
    "no graph": (lambda r: graph(r).unlink(), r"m_tokens/1/model\.onnx: no such file"),
    "a typo": (
        lambda r: config(r, "max_batch_size", "max_batchsize"),
        r"m_tokens/config\.pbtxt:\d+: .*max_batchsize.* \(did you mean max_batch_size\?\)",
    ),
    "another name": (lambda r: config(r, '"m_tokens"', '"n"'), "its name is 'n', the folder's is 'm_tokens'"),
    "no token model": (lambda r: (r / "m_tokens").rename(r.parent / "away"), "calls 'm_tokens', which is not"),
    "no version": (lambda r: (r / "m" / "1").rename(r / "m" / "one"), "m/: no version folder"),
    "a folder beside the models": (lambda r: (r / ".ipynb_checkpoints").mkdir(), r"\.ipynb_checkpoints/: no config"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_fault_is_named(repository: Path, name: str) -> None:
    damage, message = FAULTS[name]
    damage(repository)
    with pytest.raises(ModelError, match=message):
        check_repository(repository)


def test_all_faults_are_told_at_once(repository: Path) -> None:
    graph(repository).unlink()
    (repository / "stray").mkdir()
    with pytest.raises(ModelError) as caught:
        check_repository(repository)
    assert "no such file" in caught.value.message
    assert "stray/: no config.pbtxt" in caught.value.message
