"""config.pbtxt and the repository: what is written is what the ONNX file and the checkpoint say."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from fronts import text_front
from google.protobuf import text_format
from onnx import TensorProto, helper
from tiny_models import tiny

from lwc.core.errors import ModelError, RecipeError
from lwc.export.onnx import export_onnx
from lwc.export.onnx_io import OnnxInfo, TensorInfo, read_io
from lwc.models.load import load_tokenizer, save_checkpoint
from lwc.models.tokenizer import train_wordpiece
from lwc.recipe import Package
from lwc.serving.triton import config as triton_config
from lwc.serving.triton import foreground
from lwc.serving.triton.config import (
    WarmUp,
    as_text,
    front_model,
    graph_model,
    intra_op_threads,
    parse,
    with_instances,
)
from lwc.serving.triton.readme import curl_commands
from lwc.serving.triton.repository import ModelFiles, build_repository
from lwc.tasks.text_endpoint import TextEndpoint, length_buckets

TEXTS = ["a good thing that works", "a bad broken thing"] * 4
PACKAGE = Package(max_batch_size=16, queue_delay_microseconds=500, instances=2, intra_op_threads=3)
IDS = TensorInfo("input_ids", TensorProto.INT64, (-1, -1))
MASK = TensorInfo("attention_mask", TensorProto.INT64, (-1, -1))
LOGITS = TensorInfo("logits", TensorProto.FLOAT, (-1, 3))
INFO = OnnxInfo((IDS, MASK), (LOGITS,))
SHORT = [WarmUp(1, 8)]


def write_onnx(path: Path, batch: int | str, classes: int = 3) -> Path:
    """A file that declares ids (batch, length) in and logits (batch, classes) out."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["input_ids"], ["numbers"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["numbers"], ["mean"], axes=[1]),
            helper.make_node("Expand", ["mean", "shape"], ["logits"]),
        ],
        "counts",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [batch, "length"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])],
        [helper.make_tensor("shape", TensorProto.INT64, [2], [1, classes])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose id2label is written out of order, with its ONNX file beside it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = train_wordpiece(TEXTS, 60, 32)
    model = tiny("bert", blocks=1, pad_token_id=0)
    save_checkpoint(model, tokenizer, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["id2label"] = {"2": "zeta", "0": "middling", "1": "alpha ünï"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    export_onnx(model, tokenizer, folder / "model.onnx")
    return folder


def edited(checkpoint: Path, folder: Path, file: str, **changes: Any) -> Path:
    """A copy of the checkpoint with other values in one of its JSON files."""
    shutil.copytree(checkpoint, folder)
    content = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps({**content, **changes}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "config",
    [
        graph_model("m_tokens", INFO, PACKAGE, SHORT),
        front_model("m", text_front(3, {"pad_id": "0", "odd": 'quote " and \n line, ünï'}), PACKAGE),
    ],
    ids=["tokens", "text"],
)
def test_a_config_survives_the_round_trip(config: Any) -> None:
    assert parse(as_text(config)) == config


def test_a_typo_or_a_wrong_type_is_refused() -> None:
    for text in ("max_batch: 8", 'max_batch_size: "8"', 'input { name: "x" data_type: TYPE_INT65 }'):
        with pytest.raises(text_format.ParseError):
            parse(text)


def test_the_token_model_says_what_the_graph_says() -> None:
    config = parse(as_text(graph_model("m_tokens", INFO, PACKAGE, SHORT)))
    assert (config.name, config.backend, config.max_batch_size) == ("m_tokens", "onnxruntime", 16)
    types = triton_config.pb.DataType
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [
        ("input_ids", types.TYPE_INT64, [-1]),
        ("attention_mask", types.TYPE_INT64, [-1]),
    ]
    assert [(o.name, o.data_type, list(o.dims)) for o in config.output] == [("logits", types.TYPE_FP32, [3])]
    assert config.dynamic_batching.max_queue_delay_microseconds == 0, "its caller sends whole batches"
    (group,) = config.instance_group
    assert (group.kind, group.count) == (triton_config.pb.ModelInstanceGroup.KIND_CPU, 2)
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    assert config.parameters["inter_op_thread_count"].string_value == "1"
    (warm_up,) = config.model_warmup
    assert warm_up.batch_size == 1
    assert {name: (list(v.dims), v.data_type, v.input_data_file) for name, v in warm_up.inputs.items()} == {
        name: ([8], types.TYPE_INT64, f"{name}_8") for name in ("input_ids", "attention_mask")
    }


def test_no_queue_policy_since_it_stalls_the_batcher() -> None:
    graph, front = graph_model("m_tokens", INFO, PACKAGE, SHORT), front_model("m", text_front(3, {}), PACKAGE)
    for config in (graph, front):
        assert not parse(as_text(config)).dynamic_batching.HasField("default_queue_policy")
    assert front.dynamic_batching.max_queue_delay_microseconds == PACKAGE.queue_delay_microseconds


def test_instances_share_a_queue_where_there_are_several() -> None:
    def preferred(target: triton_config.Target = "cpu", **changes: int) -> list[int]:
        package = PACKAGE.model_copy(update=changes)
        return list(front_model("m", text_front(3, {}), package, target).dynamic_batching.preferred_batch_size)

    assert preferred() == [8]
    assert preferred(max_batch_size=4) == [4]
    assert preferred(instances=1) == [], "one instance takes all that waits"
    assert preferred("gpu") == []


def test_instances_are_as_many_as_cores_within_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(package: Package, megabytes: int, target: triton_config.Target = "cpu") -> int:
        return with_instances(package, target, megabytes << 20).instances

    monkeypatch.setattr(triton_config, "cpu_limit", lambda: 6)
    assert count(Package(), 90) == 6
    assert count(Package(), 400) == 2
    assert count(Package(), 4000) == 1
    assert count(Package(), 90, "gpu") == 1
    assert count(Package(instances=3), 4000) == 3, "as the recipe says"
    monkeypatch.setattr(triton_config, "cpu_limit", lambda: 64)
    assert count(Package(), 10) == 8


def test_threads_come_from_the_cpu_limit_and_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_config, "cpu_limit", lambda: 6)
    assert intra_op_threads(Package(instances=2)) == 3
    assert intra_op_threads(Package(instances=7)) == 1
    assert intra_op_threads(Package(instances=2, intra_op_threads=5)) == 5
    monkeypatch.setattr(triton_config, "cpu_limit", lambda: 1)
    config = graph_model("m", INFO, Package(instances=1), SHORT)
    assert config.parameters["intra_op_thread_count"].string_value == "1"


def test_a_fixed_batch_is_refused_with_both_numbers(checkpoint: Path, tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "fixed.onnx", 16)
    package = Package(max_batch_size=128, instances=1)
    with pytest.raises(ModelError, match=r"input_ids.* 16\b.* 128\b"):
        graph_model("m", read_io(path), package, SHORT)
    with pytest.raises(ModelError, match=r"input_ids.* 16\b.* 128\b"):
        build_repository(TextEndpoint(), ModelFiles(path, checkpoint), tmp_path / "out", package, "m")
    graph_model("m", read_io(write_onnx(tmp_path / "dynamic.onnx", "batch")), package, SHORT)


def test_a_tensor_without_a_triton_type_is_named() -> None:
    info = OnnxInfo((TensorInfo("input_ids", TensorProto.COMPLEX64, (-1, -1)),), (LOGITS,))
    with pytest.raises(ModelError, match="input_ids"):
        graph_model("m", info, PACKAGE, SHORT)


@pytest.mark.parametrize("longest", [1, 8, 12, 13, 128, 512])
def test_buckets_rise_to_the_limit_and_no_further(longest: int) -> None:
    buckets = list(length_buckets(longest))
    assert buckets == sorted(set(buckets))
    assert buckets[-1] == longest
    assert all(after <= 1.5 * before for before, after in itertools.pairwise(buckets))


def test_a_repository_is_complete_and_its_names_are_the_checkpoints(checkpoint: Path, tmp_path: Path) -> None:
    described = build_repository(
        TextEndpoint(), ModelFiles(checkpoint / "model.onnx", checkpoint), tmp_path, PACKAGE, "reviews"
    )
    names = (tmp_path / "reviews" / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert names == ["middling", "alpha ünï", "zeta"]
    assert described["choice"] == "class"
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "README.md",
        "reviews/1/cleaning.py",
        "reviews/1/model.py",
        "reviews/1/text_reader.py",
        "reviews/1/tokenizer.json",
        "reviews/config.pbtxt",
        "reviews/labels.txt",
        "reviews_tokens/1/model.onnx",
        "reviews_tokens/config.pbtxt",
        "reviews_tokens/labels.txt",
        "reviews_tokens/warmup/attention_mask_32",
        "reviews_tokens/warmup/input_ids_32",
    ]
    text = parse((tmp_path / "reviews" / "config.pbtxt").read_text(encoding="utf-8"))
    tokens = parse((tmp_path / "reviews_tokens" / "config.pbtxt").read_text(encoding="utf-8"))
    assert text.parameters["token_model"].string_value == tokens.name == "reviews_tokens"
    assert text.parameters["token_inputs"].string_value == ",".join(i.name for i in tokens.input)
    assert {o.name: list(o.dims) for o in text.output} == {"label": [1], "scores": [3]}
    assert tokens.output[0].label_filename == "labels.txt"
    for model in ("reviews", "reviews_tokens"):
        lines = (tmp_path / model / "labels.txt").read_text(encoding="utf-8")
        assert lines == "middling\nalpha ünï\nzeta\n"


def test_labels_that_do_not_fit_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    onnx_path = checkpoint / "model.onnx"
    two = edited(checkpoint, tmp_path / "two", "config.json", id2label={"0": "a", "1": "b"})
    with pytest.raises(ModelError, match="3 outputs for 2 labels"):
        build_repository(TextEndpoint(), ModelFiles(onnx_path, two), tmp_path / "a", PACKAGE, "m")
    gap = edited(checkpoint, tmp_path / "gap", "config.json", id2label={"0": "a", "1": "b", "3": "c"})
    with pytest.raises(ModelError, match=r"\[0, 1, 3\]"):
        build_repository(TextEndpoint(), ModelFiles(onnx_path, gap), tmp_path / "b", PACKAGE, "m")
    line = edited(checkpoint, tmp_path / "line", "config.json", id2label={"0": "a", "1": "b\nc", "2": "d"})
    with pytest.raises(ModelError, match="line break"):
        build_repository(TextEndpoint(), ModelFiles(onnx_path, line), tmp_path / "c", PACKAGE, "m")


@pytest.mark.parametrize(("in_config", "in_tokenizer", "side"), [
    (None, None, "right"), ("left", None, "left"), (None, "left", "left"), ("right", "left", "right"),
])  # fmt: skip
def test_the_server_cuts_where_transformers_does(
    checkpoint: Path, tmp_path: Path, in_config: str | None, in_tokenizer: str | None, side: str
) -> None:
    changes = {} if in_config is None else {"truncation_side": in_config}
    folder = edited(checkpoint, tmp_path / "m", "tokenizer_config.json", **changes)
    if in_tokenizer is not None:
        cut = {"direction": in_tokenizer.capitalize(), "max_length": 9, "strategy": "LongestFirst", "stride": 0}
        content = {**json.loads((folder / "tokenizer.json").read_text()), "truncation": cut}
        (folder / "tokenizer.json").write_text(json.dumps(content))
    described = build_repository(
        TextEndpoint(), ModelFiles(checkpoint / "model.onnx", folder), tmp_path / "out", PACKAGE, "m"
    )
    assert described["truncation_side"] == side


@pytest.mark.parametrize("split", [True, False])
def test_a_special_tokens_name_in_a_text_is_read_as_transformers_does(
    checkpoint: Path, tmp_path: Path, split: bool
) -> None:
    folder = edited(checkpoint, tmp_path / "m", "tokenizer_config.json", split_special_tokens=split)
    files = ModelFiles(checkpoint / "model.onnx", folder)
    found = build_repository(TextEndpoint(), files, tmp_path / "out", PACKAGE, "m")
    assert found["split_special_tokens"] == str(split).lower()


def test_a_tokenizer_that_the_server_would_read_otherwise_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a tokenizer class that changes texts in Python: nothing of that is in tokenizer.json."""

    class Shouting:
        def __init__(self, folder: Path) -> None:
            self.inner = load_tokenizer(folder)
            self.all_special_tokens = self.inner.all_special_tokens

        def __call__(self, text: str, **options: Any) -> Any:
            return self.inner(text.replace("e", "o"), **options)

    monkeypatch.setattr("lwc.models.load.load_tokenizer", Shouting)
    files = ModelFiles(checkpoint / "model.onnx", checkpoint)
    with pytest.raises(ModelError, match="as other input_ids than transformers does"):
        build_repository(TextEndpoint(), files, tmp_path / "out", PACKAGE, "m")


def test_padding_is_the_tokenizers_own(checkpoint: Path, tmp_path: Path) -> None:
    """Training pads with the tokenizer's id; a config that lacks one or has another must not change serving."""
    for number, value in enumerate([None, 7]):
        folder = edited(checkpoint, tmp_path / f"m{number}", "config.json", pad_token_id=value)
        out = tmp_path / f"out{number}"
        assert (
            build_repository(TextEndpoint(), ModelFiles(checkpoint / "model.onnx", folder), out, PACKAGE, "m")["pad_id"]
            == "0"
        )


def test_a_tokenizer_without_a_usable_limit_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """Checkpoints without a limit carry 10^30 for it; a long text would then fail in the server."""
    for number, length in enumerate([10**30, 41, None]):
        folder = edited(checkpoint, tmp_path / f"m{number}", "tokenizer_config.json", model_max_length=length)
        with pytest.raises(ModelError, match=f"model_max_length is {length}, the model has 40 positions"):
            build_repository(
                TextEndpoint(), ModelFiles(checkpoint / "model.onnx", folder), tmp_path / "out", PACKAGE, "m"
            )


def test_a_tokenizer_without_padding_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = edited(checkpoint, tmp_path / "m", "tokenizer_config.json", pad_token=None)
    with pytest.raises(ModelError, match="no padding token"):
        build_repository(TextEndpoint(), ModelFiles(checkpoint / "model.onnx", folder), tmp_path / "out", PACKAGE, "m")


def test_serving_no_repository_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(RecipeError, match="no Triton model repository"):
            foreground.serve_embedded(folder, 0, 0, 0, print)
        with pytest.raises(RecipeError, match="no Triton model repository"):
            foreground.serve_docker(folder, 0, 0, 0, print)


@pytest.mark.parametrize(
    ("fields", "inputs", "joined"),
    [
        ((), ["text"], ""),
        (("body",), ["text"], "without a title"),
        (("title",), ["text"], "without a body"),
        (("title", "body"), ["text", "title"], "the title, a line break, the body"),
        (("body", "title"), ["text", "title"], "the body, a line break, the title"),
    ],
)
def test_a_repository_says_how_title_and_body_are_joined(
    checkpoint: Path, tmp_path: Path, fields: tuple[str, ...], inputs: list[str], joined: str
) -> None:
    files = ModelFiles(checkpoint / "model.onnx", checkpoint, fields=fields)
    described = build_repository(TextEndpoint(), files, tmp_path, PACKAGE, "reviews")
    config = parse((tmp_path / "reviews" / "config.pbtxt").read_text(encoding="utf-8"))
    assert [(one.name, one.optional) for one in config.input] == [(name, name == "title") for name in inputs]
    assert described.get("text_fields") == (",".join(fields) or None)
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert joined in readme
    (command,) = curl_commands(tmp_path, "127.0.0.1:8000")
    assert command in readme
    assert ("title" in command) == ("title" in inputs)
