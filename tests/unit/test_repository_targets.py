"""Repositories for GPUs: read from the same files as the one for CPUs, and refused where there is no GPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from small_repository import configs
from tokenizers import Tokenizer

from lwc.core.errors import ModelError
from lwc.export.onnx_io import read_io
from lwc.export.stamp import Gpu, make_stamp
from lwc.export.tensorrt import shapes_of
from lwc.recipe import Package, Profile, Shape
from lwc.serving.checks.run import Machine, inspect_repository
from lwc.serving.triton.config import pb
from lwc.serving.triton.foreground import serve_docker, serve_embedded
from lwc.serving.triton.repository import ModelFiles, build_repository
from lwc.tasks.text_endpoint import TextEndpoint

PACKAGE = Package(max_batch_size=16, queue_delay_microseconds=500, instances=2, intra_op_threads=3)
KINDS = pb.ModelInstanceGroup


def built(checkpoint: Path, out: Path, target: str = "cpu", package: Package = PACKAGE) -> Path:
    build_repository(TextEndpoint(), ModelFiles(checkpoint / "model.onnx", checkpoint), out, package, "r", target)  # type: ignore[arg-type]
    return out


def test_the_one_for_a_cpu_is_sound_everywhere(checkpoint: Path, tmp_path: Path) -> None:
    repository = built(checkpoint, tmp_path)
    assert inspect_repository(repository, Machine(gpus=0)) == []
    text, tokens = configs(repository)
    assert {group.kind for config in (text, tokens) for group in config.instance_group} == {KINDS.KIND_CPU}
    assert not text.response_cache.enable
    assert not tokens.response_cache.enable


def test_the_one_for_a_gpu_differs_in_where_the_token_model_runs_and_in_sharing_no_queue(
    checkpoint: Path, tmp_path: Path
) -> None:
    text, tokens = configs(built(checkpoint, tmp_path / "gpu", "gpu"))
    plain_text, plain = configs(built(checkpoint, tmp_path / "cpu"))
    plain_text.dynamic_batching.ClearField("preferred_batch_size")
    assert text == plain_text
    (group,) = tokens.instance_group
    assert (group.kind, group.count) == (KINDS.KIND_GPU, 2)
    assert not tokens.HasField("optimization"), "no accelerator: it would build engines while requests wait"
    assert [(w.batch_size, w.inputs["input_ids"].dims[0]) for w in tokens.model_warmup] == [(1, 32), (16, 40)]
    for config in (tokens, plain):
        config.ClearField("instance_group")
        config.ClearField("model_warmup")
    assert tokens == plain


def test_the_graphs_configuration_says_its_precision_and_why(checkpoint: Path, tmp_path: Path) -> None:
    notes = {"precision": "fp32", "precision_reason": "int8 takes 1.64 times as long as fp32 on this machine (1×32)"}
    files = ModelFiles(checkpoint / "model.onnx", checkpoint, notes=notes)
    described = build_repository(TextEndpoint(), files, tmp_path, PACKAGE, "r")
    text, tokens = configs(tmp_path)
    assert {key: tokens.parameters[key].string_value for key in notes} == notes
    assert {key: described[key] for key in notes} == notes
    assert "precision" not in text.parameters
    assert inspect_repository(tmp_path, Machine(gpus=0)) == []


def test_a_machine_without_a_gpu_is_told_to_take_the_other(checkpoint: Path, tmp_path: Path) -> None:
    repository = built(checkpoint, tmp_path, "gpu")
    assert inspect_repository(repository, Machine(gpus=1)) == []
    (finding,) = inspect_repository(repository, Machine(gpus=0))
    assert (finding.severity, finding.model) == ("error", "r_tokens")
    assert "KIND_GPU" in finding.what


def test_the_embedded_server_is_not_started_for_a_gpu(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="KIND_GPU: needs a GPU"):
        serve_embedded(built(checkpoint, tmp_path, "gpu"), 0, 0, 0, print)


def test_warm_up_sends_the_ids_of_a_text_in_the_order_of_bytes_that_triton_reads(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = built(checkpoint, tmp_path, "gpu") / "r_tokens" / "warmup"
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    names = [tensor.name for tensor in read_io(checkpoint / "model.onnx").inputs]
    assert {path.name for path in folder.iterdir()} == {f"{name}_{n}" for name in names for n in (32, 40)}
    for length in (32, 40):
        ids = np.frombuffer((folder / f"input_ids_{length}").read_bytes(), dtype="<i8")
        mask = np.frombuffer((folder / f"attention_mask_{length}").read_bytes(), dtype="<i8")
        assert len(ids) == len(mask) == length
        assert 0 <= ids.min() < ids.max() < tokenizer.get_vocab_size()
        text = tokenizer.decode(ids[mask == 1].tolist())
        assert "product arrived on time" in text
        assert mask.all(), "as long as a text can be: padding costs an attention kernel nothing"


def test_the_response_cache_is_an_option(checkpoint: Path, tmp_path: Path) -> None:
    for config in configs(built(checkpoint, tmp_path, package=Package(response_cache=True))):
        assert config.response_cache.enable


def served_by_docker(repository: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments that a ``docker`` of ours gets from ``lwc serve --docker``, the last call's."""
    (folder / "docker").write_text(f'#!/bin/sh\ncat >/dev/null\nprintf "%s\\n" "$@" > {folder}/arguments\n')
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    assert serve_docker(repository, 8000, 8001, 8002, print) == 0
    return (folder / "arguments").read_text().splitlines()


@pytest.mark.parametrize(("target", "cache"), [("cpu", False), ("gpu", True)])
def test_docker_gets_what_the_repository_needs(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, cache: bool
) -> None:
    repository = built(checkpoint, tmp_path / "repository", target, Package(response_cache=cache))
    arguments = served_by_docker(repository, tmp_path, monkeypatch)
    assert ("--gpus=all" in arguments[: arguments.index("tritonserver")]) == (target == "gpu")
    server = arguments[arguments.index("tritonserver") :]
    assert any(argument.startswith("--cache-config=local,size=") for argument in server) == cache


def test_cpu_is_always_among_the_targets() -> None:
    assert Package(targets=("cpu", "gpu")).targets == ("cpu", "gpu")
    for wrong in (("gpu",), ("cpu", "cpu"), ()):
        with pytest.raises(ValidationError, match="name cpu"):
            Package(targets=wrong)  # type: ignore[arg-type]


def planned(checkpoint: Path, folder: Path, longest: int, smallest: int = 1) -> Path:
    plan = folder / "model.plan"
    plan.write_bytes(b"plan")
    low, high = Shape(batch=1, length=smallest), Shape(batch=8, length=longest)
    names = [tensor.name for tensor in read_io(checkpoint / "model.onnx").inputs]
    profiles = [shapes_of(Profile(min=low, opt=high, max=high), names)]
    gpu = Gpu("NVIDIA L4", "8.9", "550.54.15")
    stamp = make_stamp(plan, checkpoint / "model.onnx", "tensorrt", "10.9.0", gpu, "fp32", profiles)
    (folder / "plan.json").write_text(json.dumps(stamp))
    return plan


def test_a_plan_sets_the_limits(checkpoint: Path, tmp_path: Path) -> None:
    plan = planned(checkpoint, tmp_path, 64, smallest=10)
    out = tmp_path / "repository"
    described = build_repository(
        TextEndpoint(), ModelFiles(checkpoint / "model.onnx", checkpoint, plan), out, PACKAGE, "r", "tensorrt"
    )
    assert described["length_buckets"] == "12,16,24,32,40", "none below the plan's smallest"
    assert inspect_repository(out, Machine(gpus=1, gpu="NVIDIA L4")) == []
    text, tokens = configs(out)
    assert text.max_batch_size == tokens.max_batch_size == 8
    assert (tokens.backend, tokens.platform) == ("tensorrt", "tensorrt_plan")
    assert "intra_op_thread_count" not in tokens.parameters
    assert (out / "r_tokens" / "1" / "model.plan").read_bytes() == b"plan"
    assert not (out / "r_tokens" / "1" / "model.onnx").exists()


def test_a_plan_that_is_too_short_for_the_texts_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    plan = planned(checkpoint, tmp_path, 32)
    with pytest.raises(ModelError, match="up to 32 tokens, texts are cut at 40"):
        build_repository(
            TextEndpoint(),
            ModelFiles(checkpoint / "model.onnx", checkpoint, plan),
            tmp_path / "o",
            PACKAGE,
            "r",
            "tensorrt",
        )
