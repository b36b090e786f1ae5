"""Every finding of the repository check: planted alone in a sound repository, and found as the only thing to say."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import typer
from damaged_repository import (
    ENSEMBLE,
    MODEL_PY,
    append,
    both,
    edit,
    graph,
    named,
    sound_repository,
    touch,
    warm_ids,
    write,
    write_graph,
)  # fmt: skip
from onnx import TensorProto
from tiny_models import tiny
from tiny_repository import tiny_repository

from lwc.cli.serve import repo_check
from lwc.core.errors import MISSING, OK, USAGE, MissingDependency, ModelError, RecipeError
from lwc.export.onnx import export_onnx
from lwc.models.load import save_checkpoint
from lwc.models.tokenizer import train_wordpiece
from lwc.recipe import Package
from lwc.serving.checks.model import version_number
from lwc.serving.checks.run import Finding, Machine, check_repository, examine, inspect_repository
from lwc.serving.triton.config import as_text, parse
from lwc.serving.triton.repository import ModelFiles, build_repository
from lwc.tasks.text_endpoint import TextEndpoint

PLAN = """\
backend: "tensorrt"
max_batch_size: 32
input { name: "ids" data_type: TYPE_INT64 dims: -1 }
output { name: "logits" data_type: TYPE_FP32 dims: 2 }
dynamic_batching { }
"""
PROFILE = {"ids": {"min": [1, 1], "opt": [8, 64], "max": [32, 128]}}
LONGER = {"ids": {"min": [1, 1], "opt": [2, 128], "max": [8, 256]}}
STAMP: dict[str, Any] = {
    "library": "tensorrt",
    "tensorrt": "10.3.0",
    "gpu": "NVIDIA L4",
    "compute_capability": "8.9",
    "driver": "550.54.15",
    "precision": "fp16",
    "plan_sha256": hashlib.sha256(b"plan").hexdigest(),
    "profiles": [PROFILE],
}
GPU_MACHINE = Machine(gpus=1, gpu="NVIDIA L4", compute_capability="8.9", tensorrt="10.3.0")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return sound_repository(tmp_path / "repository")


def add_plan(repository: Path, **changes: Any) -> None:
    version = repository / "r" / "1"
    version.mkdir(parents=True)
    (repository / "r" / "config.pbtxt").write_text(PLAN)
    (version / "model.plan").write_bytes(b"plan")
    (version / "plan.json").write_text(json.dumps({**STAMP, **changes}))


def plan(**changes: Any) -> Callable[[Path], None]:
    return lambda repository: add_plan(repository, **changes)


def profile(low: list[int], best: list[int], high: list[int], name: str = "ids") -> Callable[[Path], None]:
    return plan(profiles=[{name: {"min": low, "opt": best, "max": high}}])


def external(content: bytes | None, location: str = "weights.bin", offset: str = "0") -> Callable[[Path], None]:
    def change(repository: Path) -> None:
        path = repository / "t" / "1" / "model.onnx"
        write_graph(path, external=True)
        (path.parent / "weights.bin").chmod(0o644)  # onnx writes it for its owner alone
        if content is None:
            (path.parent / "weights.bin").unlink()
        else:
            (path.parent / "weights.bin").write_bytes(content)
        model = onnx.load(path, load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            entry.value = {"location": location, "offset": offset}.get(entry.key, entry.value)
        path.write_bytes(model.SerializeToString())

    return change


def outward(repository: Path) -> None:
    path = repository / "t" / "1" / "model.onnx"
    path.rename(repository.parent / "elsewhere.onnx")
    path.symlink_to(repository.parent / "elsewhere.onnx")


def outward_folder(repository: Path) -> None:
    (repository / "p").rename(repository.parent / "p_elsewhere")
    (repository / "p").symlink_to(repository.parent / "p_elsewhere")


DYNAMIC = "dynamic_batching { }"
WARM = "data_type: TYPE_INT64 dims: 8 zero_data: true"
STEP_T = 'model_name: "t" model_version: -1'
Case = tuple[Callable[[Path], object], str, str, list[str]]
# What is done to the sound repository; severity, path and words of the one finding that follows.
CASES: dict[str, Case] = {
    # The configuration does not parse.
    "two schedulers": (append("t", "sequence_batching { }"),
        "error", "t/config.pbtxt:6", ["dynamic_batching", "oneof"]),
    "a typo inside": (edit("t", "zero_data", "zero_dat"), "error", "t/config.pbtxt:10", ["zero_dat"]),
    "a wrong type": (edit("t", "TYPE_INT64", "TYPE_INT65"), "error", "t/config.pbtxt:3", ["TYPE_INT65"]),
    "not UTF-8": (lambda r: (r / "t/config.pbtxt").write_bytes(b"\xff"), "error", "t/config.pbtxt", ["UTF-8"]),
    # Folders and files.
    "no config": (touch("x/1/"), "error", "x/", ["no config.pbtxt"]),
    "another name": (append("p", 'name: "q"'), "error", "p/config.pbtxt", ["'q'", "'p'"]),
    "no version": (lambda r: (r / "e/1").rmdir(), "error", "e/", ["no version folder"]),
    "specific version absent": (
        append("p", "version_policy { specific { versions: 3 } }"), "error", "p/config.pbtxt", ["[3]", "[1]"]),
    "latest none": (append("p", "version_policy { latest { num_versions: 0 } }"),
        "error", "p/config.pbtxt", ["latest 0"]),
    "one specific version absent": (
        append("p", "version_policy { specific { versions: [1, 3] } }"), "warning", "p/config.pbtxt", ["3", "[1]"]),
    "no model.py": (lambda r: (r / "p/1/model.py").unlink(), "error", "p/1/model.py", ["no such file"]),
    "a version that is not served": (
        both(touch("p/2/"), write("p/2/model.py", MODEL_PY)), "note", "p/1/", ["version 1 is not served", "[2]"]),
    "no backend": (
        both(edit("p", 'backend: "python"', ""), lambda r: (r / "p/1/model.py").unlink()),
        "error", "p/config.pbtxt", ["no backend"]),
    "an unknown backend": (edit("p", '"python"', '"mine"'), "note", "p/config.pbtxt", ["'mine'", "not checked"]),
    "a platform as backend": (
        edit("t", '"onnxruntime"', '"onnxruntime_onnx"'), "error", "t/config.pbtxt", ["onnxruntime_onnx", "platform"]),
    "a misspelled backend": (edit("p", '"python"', '"Pyton"'), "error", "p/config.pbtxt", ["'Pyton'", "misspelled"]),
    "a backend as platform": (
        edit("p", 'backend: "python"', 'platform: "python"'), "error", "p/config.pbtxt", ["no platform 'python'"]),
    "platform and backend of two kinds": (
        append("t", 'platform: "tensorrt_plan"'), "error", "t/config.pbtxt", ["'tensorrt_plan'", "'onnxruntime'"]),
    "no inputs": (
        edit("t", 'input { name: "ids" data_type: TYPE_INT64 dims: -1 }', ""),
        "warning", "t/config.pbtxt", ["no input:", "auto-complete"]),
    "no configuration, but a model": (
        lambda r: (r / "t/config.pbtxt").unlink(), "warning", "t/", ["no config.pbtxt", "auto-complete"]),
    "a private file": (lambda r: (r / "t/1/model.onnx").chmod(0o600), "warning", "t/1/model.onnx", ["user 1000"]),
    "private folders": (
        both(lambda r: (r / "p/1").chmod(0o700), lambda r: (r / "p").chmod(0o711)),
        "warning", "p/", ["user 1000", "1 more"]),
    "model file beside the versions": (touch("p/model.py"), "warning", "p/model.py", ["ignored"]),
    "a backup of the configuration": (touch("p/config.pbtxt.bak"), "warning", "p/config.pbtxt.bak", ["ignored"]),
    "notebook folder": (touch("p/.ipynb_checkpoints/"), "warning", "p/.ipynb_checkpoints/", ["ignored"]),
    "tmp in a version": (touch("t/1/tmp/"), "warning", "t/1/tmp/", ["ignored"]),
    "a backup of version 1": (touch("p/1_backup/"), "warning", "p/1_backup/", ["ignored", "version 1"]),
    "leading zeros": (touch("p/002/"), "warning", "p/002/", ["ignored", "leading zeros"]),
    "a negative version": (touch("p/-3/"), "warning", "p/-3/", ["-3"]),
    "a negative version alone": (
        both(append("e", "version_policy { latest { num_versions: 1 } }"), lambda r: (r / "e/1").rename(r / "e/-3")),
        "error", "e/-3/", ["-3"]),
    "a version that no number of Triton's holds": (
        both(append("e", "version_policy { all { } }"), touch(f"e/{2**63}/")), "error", f"e/{2**63}/", ["ends"]),
    "a filename that leads out": (
        append("t", 'default_model_filename: "../x.onnx"'), "error", "t/config.pbtxt", ["'../x.onnx'", "out of"]),
    "a filename that is a pattern": (
        append("t", 'default_model_filename: "a.**"'), "error", "t/1/a.**", ["no such file"]),
    "a filename that no file system has": (
        append("t", f'default_model_filename: "{"x" * 300}"'), "error", f"t/1/{'x' * 300}", ["cannot be read"]),
    "a link to a file outside": (outward, "error", "t/1/model.onnx", ["leaves the repository", "elsewhere.onnx"]),
    "a link to a folder outside": (outward_folder, "error", "p", ["leaves the repository", "p_elsewhere"]),
    # The graph.
    "Git LFS pointer": (
        lambda r: (r / "t/1/model.onnx").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "error", "t/1/model.onnx", ["Git LFS pointer"]),
    "not ONNX": (lambda r: (r / "t/1/model.onnx").write_bytes(b"\x00no"), "error", "t/1/model.onnx", ["not an ONNX"]),
    "an empty file": (lambda r: (r / "t/1/model.onnx").write_bytes(b""), "error", "t/1/model.onnx", ["not an ONNX"]),
    "a file above 2 GB": (
        lambda r: os.truncate(r / "t/1/model.onnx", 2**31), "error", "t/1/model.onnx", ["2 GB", str(2**31)]),
    "external data missing": (external(None), "error", "t/1/model.onnx", ["'weights.bin' is missing"]),
    "external data cut": (external(b"123"), "error", "t/1/model.onnx", ["has 3 bytes", "reads 8"]),
    "external data outside": (external(bytes(8), "../w.bin"), "error", "t/1/model.onnx", ["'../w.bin'", "out of"]),
    "external data at no number": (
        external(bytes(8), offset="x"), "error", "t/1/model.onnx", ["weight", "'x'"]),
    "int32 graph": (graph(kind=TensorProto.INT32), "error", "t/1/model.onnx", ["TYPE_INT32 in", "TYPE_INT64 in"]),
    "length fixed": (graph(length=64), "error", "t/1/model.onnx", ["[64] in the file", "[-1] in config"]),
    "reshape to another rank": (
        edit("t", "dims: 2 label", "dims: 2 reshape { shape: [2, 1, 1] } label"),
        "error", "t/1/model.onnx", ["logits", "[2] in the file", "[2, 1, 1] in config"]),
    "no max_batch_size": (
        both(edit("t", "max_batch_size: 128", ""), edit("t", "dims: -1", "dims: [-1, -1]"), edit("t", DYNAMIC, ""),
             edit("t", "dims: 2", "dims: [-1, 2]"), edit("t", "dims: 8", "dims: [1, 8]"),
             lambda r: (r / "e/config.pbtxt").unlink(), lambda r: (r / "e/1").rmdir(), lambda r: (r / "e").rmdir()),
        "warning", "t/config.pbtxt", ["max_batch_size is 0", "4"]),
    # Labels, batching, instances, threads.
    "no labels": (lambda r: (r / "t/labels.txt").unlink(), "error", "t/labels.txt", ["no such file"]),
    "three labels": (lambda r: (r / "t/labels.txt").write_text("a\nb\nc\n"), "error", "t/labels.txt", ["3", "[2]"]),
    "labels outside": (edit("t", '"labels.txt"', '"/labels.txt"'), "error", "t/config.pbtxt", ["leads out"]),
    "no data type": (edit("p", '"x" data_type: TYPE_FP32', '"x"'), "error", "p/config.pbtxt", ["x: no data_type"]),
    "no dims": (edit("p", "TYPE_FP32 dims: 2", "TYPE_FP32"), "error", "p/config.pbtxt", ["x: no dims"]),
    "dims of 0": (edit("p", "TYPE_FP32 dims: 2", "TYPE_FP32 dims: 0"), "error", "p/config.pbtxt", ["dims [0]"]),
    "an input twice": (
        append("p", 'input { name: "x" data_type: TYPE_FP32 dims: 2 }'), "warning", "p/config.pbtxt", ["x", "2 times"]),
    "preferred batch too large": (
        append("p", "dynamic_batching { preferred_batch_size: 9 }"), "error", "p/config.pbtxt", ["9", "8"]),
    "dynamic batching without a batch": (
        both(edit("p", "max_batch_size: 8", ""), append("p", DYNAMIC)),
        "warning", "p/config.pbtxt", ["without max_batch"]),
    "no dynamic batching": (edit("t", DYNAMIC, ""), "note", "t/config.pbtxt", ["128", "not batched"]),
    "no instance group": (
        edit("t", "instance_group { kind: KIND_CPU count: 1 }", ""),
        "warning", "t/config.pbtxt", ["no instance_group"]),
    "no instance count": (edit("t", "CPU count: 1", "CPU"), "warning", "t/config.pbtxt", ["without a count"]),
    "no threads": (edit("t", '"intra_op', '"other_op'), "warning", "t/config.pbtxt", ["not set", "host"]),
    "threads 0": (edit("t", 'value: "1"', 'value: "0"'), "warning", "t/config.pbtxt", ["is 0", "host"]),
    "threads in words": (edit("t", 'value: "1"', 'value: "all"'), "error", "t/config.pbtxt", ["'all'"]),
    "GPU, unknown machine": (edit("t", "KIND_CPU", "KIND_GPU"), "warning", "t/config.pbtxt", ["needs a GPU"]),
    # Warm-up.
    "warm-up input unknown": (edit("t", '{ key: "ids"', '{ key: "id"'),
        "error", "t/config.pbtxt", ["['id']", "['ids']"]),
    "warm-up type": (edit("t", WARM, WARM.replace("64", "32")),
        "error", "t/config.pbtxt", ["TYPE_INT32", "TYPE_INT64"]),
    "warm-up rank": (edit("t", WARM, WARM.replace("8", "[1, 8]")), "error", "t/config.pbtxt", ["[1, 8]", "[-1]"]),
    "warm-up batch": (edit("t", "batch_size: 1\n", "batch_size: 129\n"), "error", "t/config.pbtxt", ["129", "128"]),
    "warm-up size": (edit("t", WARM, WARM.replace("8", "-1")), "error", "t/config.pbtxt", ["dims [-1]"]),
    "warm-up without data": (edit("t", "zero_data: true", ""), "error", "t/config.pbtxt", ["does not specify"]),
    "warm-up file absent": (
        edit("t", "zero_data: true", 'input_data_file: "f"'), "error", "t/warmup/f", ["no such file"]),
    "random ids": (edit("t", "zero_data", "random_data"), "warning", "t/config.pbtxt", ["leave the vocabulary"]),
    "warm-up file too short": (
        both(edit("t", "zero_data: true", 'input_data_file: "f"'), touch("t/warmup/"), write("t/warmup/f", bytes(56))),
        "error", "t/warmup/f", ["56 bytes", "64"]),
    "warm-up id past the vocabulary": (warm_ids(1, 7, 8), "error", "t/warmup/f", ["id 8", "8 rows"]),
    "warm-up id far below zero": (warm_ids(1, -9, 2), "error", "t/warmup/f", ["id -9", "8 rows"]),
    "random ids of a known vocabulary": (
        both(graph(rows=8), edit("t", "zero_data", "random_data")), "error", "t/config.pbtxt", ["8 rows"]),
    # Ensembles.
    "warm-up of an ensemble": (append("e", 'model_warmup { name: "w" }'),
        "error", "e/config.pbtxt", ["on an ensemble"]),
    "instances of an ensemble": (append("e", "instance_group { }"),
        "error", "e/config.pbtxt", ["instance_group on an"]),
    "cache of an ensemble": (
        append("e", "response_cache { enable: true }"), "warning", "e/config.pbtxt", ["response_cache on an"]),
    "no platform": (edit("e", 'platform: "ensemble"', ""), "error", "e/config.pbtxt", ["without platform"]),
    "no step": (
        lambda r: (r / "e/config.pbtxt").write_text('platform: "ensemble"'),
        "error", "e/config.pbtxt", ["without a step"]),
    "step of no model": (edit("e", '"t"', '"u"'), "error", "e/config.pbtxt", ["step 0 (u)", "no such model"]),
    "step version omitted": (edit("e", STEP_T, 'model_name: "t"'), "error", "e/config.pbtxt", ["not set", "[1]"]),
    "step version absent": (edit("e", STEP_T, STEP_T.replace("-1", "9")), "error", "e/config.pbtxt", ["is 9", "[1]"]),
    "step input unknown": (
        edit("e", 'key: "x" value', 'key: "z" value'), "error", "e/config.pbtxt", ["p has no input 'z'"]),
    "step input not given": (
        edit("p", 'output { name: "y"', 'input { name: "more" data_type: TYPE_FP32 dims: 1 }\noutput { name: "y"'),
        "error", "e/config.pbtxt", ["step 1 (p)", "lacks ['more']"]),
    "step output unknown": (
        edit("e", 'key: "y" value', 'key: "z" value'), "error", "e/config.pbtxt", ["p has no output 'z'", "['y']"]),
    "tensor of no step": (
        edit("e", '"x" value: "logits"', '"x" value: "l"'), "error", "e/config.pbtxt", ["'l' is made by no step"]),
    "output of no step": (
        append("e", 'output { name: "o" data_type: TYPE_FP32 dims: 2 }'), "error", "e/config.pbtxt",
        ["output 'o' is made by no"]),
    "input for no step": (
        append("e", 'input { name: "i" data_type: TYPE_FP32 dims: 2 }'), "error", "e/config.pbtxt",
        ["input 'i' is used by no"]),
    "ensemble type": (
        edit("e", '"words" data_type: TYPE_INT64', '"words" data_type: TYPE_INT32'),
        "error", "e/config.pbtxt", ["TYPE_INT32 in e", "TYPE_INT64 in t"]),
    "type between steps": (
        edit("p", '"x" data_type: TYPE_FP32', '"x" data_type: TYPE_FP16'),
        "error", "e/config.pbtxt", ["TYPE_FP32 in t", "TYPE_FP16 in p"]),
    "shape between steps": (
        edit("p", "TYPE_FP32 dims: 2", "TYPE_FP32 dims: 3"), "error", "e/config.pbtxt", ["[2] in t", "[3] in p"]),
    "ensemble batch": (
        edit("e", "max_batch_size: 8", "max_batch_size: 16"),
        "error", "e/config.pbtxt", ["step 1 (p)", "8 there", "16 in"]),
    "made twice": (
        edit("e", 'value: "scores" }\n  }',
             'value: "scores" }\n  }\n  step { model_name: "p" model_version: -1'
             ' input_map { key: "x" value: "logits" } output_map { key: "y" value: "scores" } }'),
        "error", "e/config.pbtxt", ["'scores' is made 2 times"]),
    "steps that wait for one another": (
        edit("e", "ensemble_scheduling {",
             "ensemble_scheduling {"
             ' step { model_name: "p" model_version: -1 input_map { key: "x" value: "a" }'
             ' output_map { key: "y" value: "b" } }'
             ' step { model_name: "p" model_version: -1 input_map { key: "x" value: "b" }'
             ' output_map { key: "y" value: "a" } }'),
        "error", "e/config.pbtxt", ["0 (p), 1 (p) wait for one another"]),
    # TensorRT, on the machine the plan was built on.
    "no stamp": (
        both(plan(), lambda r: (r / "r/1/plan.json").unlink()), "warning", "r/1/model.plan", ["no plan.json"]),
    "no plan": (both(plan(), lambda r: (r / "r/1/model.plan").unlink()), "error", "r/1/model.plan", ["no such file"]),
    "plan on the CPU": (
        both(plan(), append("r", "instance_group { kind: KIND_CPU count: 1 }")),
        "error", "r/config.pbtxt", ["KIND_CPU"]),
    "broken stamp": (
        both(plan(), lambda r: (r / "r/1/plan.json").write_text("{")), "error", "r/1/plan.json", ["not JSON"]),
    "stamp without a profile": (plan(profiles=None), "error", "r/1/plan.json", ["'profiles'"]),
    "stamp without a GPU": (plan(gpu=None), "error", "r/1/plan.json", ["'gpu'"]),
    "half a profile": (plan(profiles=[{"ids": {"min": [1]}}]), "error", "r/1/plan.json", ["'ids'", "min, opt"]),
    "profiles of two ranks": (
        plan(profiles=[PROFILE, {"ids": {"min": [1], "opt": [1], "max": [1]}}]),
        "error", "r/1/plan.json", ["profile 1", "one rank"]),
    "another plan": (
        both(plan(), lambda r: (r / "r/1/model.plan").write_bytes(b"other")),
        "error", "r/1/plan.json", ["model.plan is not the file"]),
    "plan of TensorRT for RTX": (
        plan(library="tensorrt-rtx"), "error", "r/1/plan.json", ["tensorrt-rtx", "does not load"]),
    "two profiles, none chosen": (
        plan(profiles=[PROFILE, LONGER]), "warning", "r/config.pbtxt", ["2 profiles", "only the first"]),
    "a profile that is not there": (
        both(plan(), append("r", 'instance_group { kind: KIND_GPU profile: ["0", "1"] }')),
        "error", "r/1/plan.json", ["profile '1'", "the plan has 1"]),
    "the chosen profile is too small": (
        both(plan(profiles=[PROFILE, LONGER]), append("r", 'instance_group { kind: KIND_GPU profile: "1" }')),
        "error", "r/1/plan.json", ["up to 8", "is 32"]),
    "plan's batch too small": (profile([1, 1], [8, 64], [16, 128]), "error", "r/1/plan.json", ["up to 16", "is 32"]),
    "plan's smallest batch": (profile([4, 1], [8, 64], [32, 128]), "warning", "r/1/plan.json", ["below 4"]),
    "profile out of order": (profile([9, 1], [8, 64], [32, 128]), "error", "r/1/plan.json", ["[9, 1]", "[8, 64]"]),
    "another input": (profile([1, 1], [8, 64], [32, 128], "id"), "error", "r/1/plan.json", ["'id'", "['ids']"]),
    "a fixed length out of the profile": (
        both(plan(), edit("r", "dims: -1", "dims: 256")), "error", "r/1/plan.json", ["[256]", "[1] to [128]"]),
    "another TensorRT": (plan(tensorrt="8.6.1"), "error", "r/1/plan.json", ["TensorRT 8.6.1", "10.3.0"]),
    "another GPU": (plan(gpu="Tesla T4"), "error", "r/1/plan.json", ["Tesla T4", "NVIDIA L4"]),
    "another compute capability": (plan(compute_capability="7.5"), "error", "r/1/plan.json", ["7.5", "8.9"]),
}  # fmt: skip


def machine_for(name: str) -> Machine:
    return Machine() if name == "GPU, unknown machine" else GPU_MACHINE


def test_a_sound_repository_has_nothing_to_tell(repository: Path) -> None:
    assert inspect_repository(repository) == []
    add_plan(repository)
    assert inspect_repository(repository, GPU_MACHINE) == []


@pytest.mark.parametrize(
    "config", ['platform: "onnxruntime_onnx"', 'platform: "onnxruntime_onnx" backend: "onnxruntime"', ""]
)
def test_platforms_that_fit_their_backend_are_no_fault(repository: Path, config: str) -> None:
    edit("t", 'backend: "onnxruntime"', config)(repository)
    assert inspect_repository(repository) == []


@pytest.mark.parametrize("name", ["no inputs", "no configuration, but a model"])
def test_servers_that_lwc_starts_derive_nothing(repository: Path, name: str) -> None:
    CASES[name][0](repository)
    with pytest.raises(ModelError, match="auto-complete"):
        check_repository(repository)


def test_profiles_are_judged_together(repository: Path) -> None:
    """Two profiles share the work: neither alone takes what the configuration allows."""
    long = {"ids": {"min": [1, 128], "opt": [4, 256], "max": [32, 512]}}
    add_plan(repository, profiles=[PROFILE, long])
    append("r", 'instance_group { kind: KIND_GPU profile: ["0", "1"] }')(repository)
    assert inspect_repository(repository, GPU_MACHINE) == []


@pytest.mark.parametrize("name", list(CASES))
def test_what_is_planted_is_all_that_is_found(repository: Path, name: str) -> None:
    damage, severity, path, words = CASES[name]
    damage(repository)
    (finding,) = inspect_repository(repository, machine_for(name))
    assert (finding.severity, finding.path) == (severity, path)
    assert finding.model == path.split("/")[0]
    for word in words:
        assert word in finding.what
    assert finding.hint


def test_a_fixed_batch_is_told_of_every_tensor(repository: Path) -> None:
    for batch in (16, 1):
        write_graph(repository / "t" / "1" / "model.onnx", batch=batch)
        findings = inspect_repository(repository)
        assert [finding.what for finding in findings] == [
            f"{tensor} the file fixes the batch at {batch}, max_batch_size is 128"
            for tensor in ("input ids:", "output logits:")
        ]


def test_a_backup_of_a_newer_version_keeps_triton_from_starting(repository: Path) -> None:
    (repository / "p" / "2_backup").mkdir()
    error, note = inspect_repository(repository)
    assert (error.severity, error.path) == ("error", "p/2_backup/")
    assert "version 2" in error.what
    assert (note.severity, note.path) == ("note", "p/1/")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("1", 1),
        ("12", 12),
        ("0", 0),
        ("2_backup", 2),
        ("-3", -3),
        ("001", None),
        ("tmp", None),
        (".1", None),
        ("v1", None),
    ],
)
def test_versions_are_read_as_triton_reads_them(name: str, number: int | None) -> None:
    assert version_number(name) == number


def test_a_model_given_for_a_repository_is_a_usage_error(repository: Path) -> None:
    with pytest.raises(RecipeError, match="a model, not a repository"):
        inspect_repository(repository / "t")


def test_start_where_the_embedded_server_cannot_be_made(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LWC_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("LWC_SERVER_PYTHON", "/nowhere/python3.11")
    with pytest.raises(MissingDependency, match="LWC_SERVER_PYTHON") as caught:
        repo_check(repository, start=True)
    assert caught.value.exit_code == MISSING


def test_the_closing_line_says_what_was_checked_and_what_not(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        repo_check(repository)
    shown = " ".join(capsys.readouterr().err.split())
    assert ended.value.exit_code == OK
    assert "checked 3 models against: names, folders and files" in shown
    assert "not checked: whether the Python code runs (p); whether ONNX Runtime loads the graph (t)" in shown
    assert "answers to requests (--start loads the models)" in shown
    touch("x/")(repository)
    with pytest.raises(typer.Exit) as ended:
        repo_check(repository)
    assert ended.value.exit_code == USAGE


def test_gpus_of_the_machine_decide(repository: Path) -> None:
    edit("t", "KIND_CPU count: 1", "KIND_GPU count: 1 gpus: [0, 1]")(repository)
    (none,) = inspect_repository(repository, Machine(gpus=0))
    assert (none.severity, none.what) == ("error", "instance_group KIND_GPU: needs a GPU, the machine has none")
    (one,) = inspect_repository(repository, Machine(gpus=1))
    assert (one.severity, one.what) == ("error", "instance_group names GPU 1, the machine has 1")
    assert inspect_repository(repository, Machine(gpus=2)) == []


def test_a_plan_wants_a_gpu_and_its_hint_offers_the_onnx_model(repository: Path) -> None:
    add_plan(repository)
    (unknown,) = inspect_repository(repository)
    (none,) = inspect_repository(repository, Machine(gpus=0))
    (other,) = inspect_repository(repository, Machine(gpus=1, gpu="NVIDIA H100"))
    assert [f.severity for f in (unknown, none, other)] == ["warning", "error", "error"]
    for finding in (unknown, none, other):
        assert "use the ONNX model" in finding.hint


def test_ensembles_in_a_circle(repository: Path) -> None:
    for name, called in (("f", "g"), ("g", "f")):
        (repository / name / "1").mkdir(parents=True)
        config = parse(ENSEMBLE)
        config.output[0].data_type, config.output[0].dims[0] = config.input[0].data_type, -1
        del config.ensemble_scheduling.step[1]
        step = config.ensemble_scheduling.step[0]
        step.model_name = called
        for mapping, key, tensor in ((step.input_map, "words", "words"), (step.output_map, "scores", "scores")):
            mapping.clear()
            mapping[key] = tensor
        (repository / name / "config.pbtxt").write_text(as_text(config))
    (finding,) = inspect_repository(repository)
    assert (finding.severity, finding.model) == ("error", "f")
    assert "f → g → f" in finding.what


def test_a_step_whose_model_does_not_parse_is_told_once(repository: Path) -> None:
    edit("t", "max_batch_size", "max_batchsize")(repository)
    (finding,) = inspect_repository(repository)
    assert finding.path == "t/config.pbtxt:2"
    assert finding.hint == "did you mean max_batch_size?"


def test_sound_things_that_look_odd_are_left_alone(repository: Path) -> None:
    """Links inside, weights beside the file, modules beside a model.py, data for the warm-up, a variable output."""
    external(b"12345678")(repository)
    (repository / "p" / "1" / "helpers").mkdir()
    (repository / "p" / "1" / "__pycache__").mkdir()
    (repository / "t" / "warmup").mkdir()
    (repository / "t" / "warmup" / "f").write_bytes(bytes(64))
    edit("t", "zero_data: true", 'input_data_file: "f"')(repository)
    (repository / "t" / "1" / "model.onnx").rename(repository / "t" / "1" / "other.onnx")
    (repository / "t" / "1" / "model.onnx").symlink_to("other.onnx")
    edit("p", 'backend: "python"', "")(repository)
    (repository / "README.md").write_text("files beside the models are not looked at")
    assert inspect_repository(repository) == []


def test_what_is_not_checked_is_named(repository: Path) -> None:
    named("x")(repository)
    edit("x", '"python"', '"pytorch"')(repository)
    write("e/config.pbtxt", "oops")(repository)
    add_plan(repository)
    found = examine(repository)
    assert found.models == ["p", "r", "t", "x"]
    assert not found.sound
    assert found.not_checked == {
        "whether the Python code runs": ["p"],
        "whether the plan loads": ["r"],
        "whether ONNX Runtime loads the graph": ["t"],
        "the files of backend 'pytorch'": ["x"],
        "anything else": ["e"],
        "answers to requests": ["p", "r", "t", "x"],
    }
    assert "stamps of TensorRT plans" in found.checked
    assert "steps of ensembles" not in found.checked


def test_errors_come_first_and_the_order_is_the_same_each_time(repository: Path) -> None:
    for step in (touch("p/tmp/"), edit("t", DYNAMIC, ""), touch("x/"), edit("t", "CPU count: 1", "CPU")):
        step(repository)
    findings = inspect_repository(repository)
    assert [(f.severity, f.model) for f in findings] == [
        ("error", "x"), ("warning", "p"), ("warning", "t"), ("note", "t"),
    ]  # fmt: skip
    assert findings == inspect_repository(repository)
    assert isinstance(findings[0], Finding)


def test_an_empty_or_absent_folder(tmp_path: Path) -> None:
    (finding,) = inspect_repository(tmp_path)
    assert (finding.severity, finding.what) == ("error", "no model in it")
    with pytest.raises(RecipeError, match="no such folder"):
        inspect_repository(tmp_path / "absent")


def test_a_repository_that_lwc_wrote_has_nothing_to_tell(tmp_path: Path) -> None:
    texts = ["a good thing that works", "a bad broken thing"] * 4
    tokenizer, model = train_wordpiece(texts, 60, 32), tiny("bert", blocks=1, pad_token_id=0)
    checkpoint, repository = tmp_path / "checkpoint", tmp_path / "repository"
    checkpoint.mkdir()
    save_checkpoint(model, tokenizer, checkpoint)
    export_onnx(model, tokenizer, checkpoint / "model.onnx")
    build_repository(
        TextEndpoint(),
        ModelFiles(checkpoint / "model.onnx", checkpoint),
        repository,
        Package(max_batch_size=16),
        "reviews",
    )
    assert inspect_repository(repository, Machine(gpus=0)) == []
    assert check_repository(repository) == []


def test_a_folder_of_repositories_is_not_called_faulty_models(tmp_path: Path) -> None:
    tiny_repository(tmp_path / "mine")
    with pytest.raises(RecipeError, match="a folder of repositories, not a repository") as caught:
        examine(tmp_path)
    assert str(tmp_path / "mine") in caught.value.hint
