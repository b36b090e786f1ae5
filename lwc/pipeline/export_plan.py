"""``lwc export``: the model of a finished run as a TensorRT plan, with its stamp and its Triton repository."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from lwc.core.arrays import Array
from lwc.core.errors import MissingDependency, ModelError, RecipeError
from lwc.core.store import (
    RECORD,
    STORE_FOLDER,
    Artifact,
    Store,
    file_digest,
    key_of,
    read_json,
    read_record,
    write_json,
)
from lwc.export.stamp import PLAN, STAMP, Gpu, make_stamp, read_trtexec_log, this_gpu
from lwc.export.tensorrt import Library, Plan, build_plan, load_library, shapes_of, version_of
from lwc.pipeline.destination import check_destination
from lwc.pipeline.publish import publish
from lwc.pipeline.run import plan, run_folder
from lwc.recipe import Profile, Recipe, Shape
from lwc.recipe.file import load_recipe
from lwc.report.gate_names import CHECKS

# The TensorRT image of the same release as the Triton image that `lwc serve --docker` uses.
BUILDER_IMAGE = "nvcr.io/nvidia/tensorrt:26.07-py3"
LOG = "trtexec.log"
_NEEDED = ("data", "recover", "export")
# Largest |Δ logit| of an engine in fp32: other kernels add in another order.
_FP32_TOLERANCE = 1e-3
_PARITY_TEXTS = 200


@dataclass(frozen=True)
class FinishedRun:
    """A run up to export: its recipe, its folder, where its stages left what they made, and how it was asked for.

    ``passed``: its report is of these very stages, and every gate passed.
    """

    recipe: Recipe
    folder: Path
    stages: dict[str, Path]
    arguments: str
    passed: bool

    @property
    def checkpoint(self) -> Path:
        """The compressed model's Hugging Face folder."""
        return self.stages["recover"] / "model"


def find_run(source: Path, runs: Path, overrides: Sequence[str] = ()) -> FinishedRun:
    """The stages of a run folder as they were recorded, or of a recipe file as they would be reused.

    Raises:
        RecipeError: the run has not come as far as export.
    """
    artifacts: dict[str, Artifact | None]
    arguments = [str(source)]
    if source.is_dir():
        report, record = source / "report.json", source / RECORD
        if not report.is_file() or not record.is_file():
            raise RecipeError(f"{source}: not the folder of a finished run", "give its recipe instead")
        try:
            recipe = Recipe.model_validate(_reported(report, "recipe", "resolved"))
        except ValidationError as error:
            raise RecipeError(f"{report}: its recipe is not one of this lwc", "give the recipe file instead") from error
        folder, store, made = source, Store(source.parent / STORE_FOLDER), read_record(source)
        # By the record and not by a new plan: another machine than the run's would measure latency anew.
        artifacts = {name: store.find(name, key_of(made[name])) if name in made else None for name in _NEEDED}
    else:
        recipe = load_recipe(source, overrides, CHECKS)
        arguments += ["--runs", str(runs), *(f"--set={override}" for override in overrides)]
        folder = run_folder(runs, recipe)
        artifacts = {one.stage.name: one.artifact for one in plan(recipe, runs) if one.stage.name in _NEEDED}
    missing = [name for name in _NEEDED if artifacts[name] is None]
    if missing:
        raise RecipeError(
            f"{recipe.name}: stage {missing[0]} has not run with these settings", "use `lwc run --until export` first"
        )
    made_at = {name: artifact.path for name, artifact in artifacts.items() if artifact is not None}
    return FinishedRun(recipe, folder, made_at, shlex.join(arguments), _passed(folder, made_at))


def _reported(report: Path, section: str, key: str) -> Any:
    try:
        return read_json(report)[section][key]
    except (LookupError, TypeError) as error:
        what = f"{report}: not a report: no {section}.{key}"
        raise RecipeError(what, "write it again with `lwc report RECIPE`") from error


def _passed(folder: Path, made_at: Mapping[str, Path]) -> bool:
    report = folder / "report.json"
    if not report.is_file() or not _reported(report, "verdict", "passed"):
        return False
    store, made = Store(folder.parent / STORE_FOLDER), read_record(folder)
    return all(name in made and store.place(name, key_of(made[name])) == path for name, path in made_at.items())


def profiles_of(recipe: Recipe) -> tuple[Profile, ...]:
    """The recipe's optimisation profiles, or one from a single token to the largest batch, tuned for half of both."""
    batch, length = recipe.package.max_batch_size, recipe.model.max_length
    whole = Profile(
        min=Shape(batch=1, length=1),
        opt=Shape(batch=max(1, batch // 2), length=max(1, length // 2)),
        max=Shape(batch=batch, length=length),
    )
    return recipe.export.tensorrt.profiles or (whole,)


def export_plan(
    run: FinishedRun,
    to: Library,
    precision: str,
    out: Path | None,
    models: Path,
    built: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Write ``model.plan``, its stamp and the ONNX file it was built from to ``out``; returns the stamp.

    With ``built`` the plan lies there already, left by the printed container command. Where a GPU is there, the
    engine's answers on test texts are compared with the fp32 ONNX file's. A plan of TensorRT also becomes the
    repository ``models/NAME-tensorrt``, where ``package.targets`` has it; in the run's folder, where ``run`` has not
    passed its gates.

    Raises:
        MissingDependency: the library is missing or, for tensorrt, a GPU; the message has the command that does it.
        ModelError: the graph is refused, or the engine's answers differ too much.
        RecipeError: ``built`` for another library, or something else lies where the repository goes.
    """
    if built and to != "tensorrt":
        raise RecipeError(f"--built needs a plan built in NVIDIA's image, not {to}", "leave it out")
    recipe = run.recipe
    destination = (
        models / f"{recipe.name}-tensorrt" if to == "tensorrt" and "tensorrt" in recipe.package.targets else None
    )
    if destination is not None:
        check_destination(destination)
    out = out or run.folder / to
    out.mkdir(parents=True, exist_ok=True)
    onnx = out / ("model.fp16.onnx" if precision == "fp16" else "model.onnx")
    path = out / PLAN
    gpu: Gpu | None
    if built:
        gpu, version, profiles = _built_elsewhere(out, onnx, profiles_of(recipe))
    else:
        _write_graph(run, onnx, say)
        gpu, version, made = _build(run, to, onnx, say)
        path.write_bytes(made.content)
        profiles = made.profiles
        say(f"built: {len(made.content):,} bytes, layers {made.layers}")
    stamp = make_stamp(path, onnx, to, version, gpu, precision, profiles)
    write_json(out / STAMP, stamp)
    try:
        stamp["parity"] = _parity(run, path, onnx, precision, say)
    except ModelError:
        (out / STAMP).unlink()  # nothing loads a plan without its stamp
        raise
    write_json(out / STAMP, stamp)
    say(f"plan: {path}   stamp: {out / STAMP}   ONNX model: {onnx}")
    if destination is not None:
        why = "" if run.passed else "   (held back: the run has not passed its gates)"
        say(f"repository: {_publish(run, onnx, path, destination)}{why}")
    return stamp


def _write_graph(run: FinishedRun, onnx: Path, say: Callable[[str], None]) -> None:
    """Put the graph to build from at ``onnx``; where the run wrote none in fp16, make it."""
    from lwc.export.onnx_files import copy_graph
    from lwc.export.run import FP16, WHOLE, half_graph

    whole = run.stages["export"] / WHOLE
    ready = run.stages["export"] / FP16 if onnx.name.endswith(".fp16.onnx") else whole
    if ready.is_file():
        copy_graph(ready, onnx)
        return
    say("writing the fp16 graph")
    settings = run.recipe
    half_graph(whole, onnx, run.stages["data"], run.checkpoint, settings.model.max_length, settings.data.calibration)


def _build(run: FinishedRun, to: Library, onnx: Path, say: Callable[[str], None]) -> tuple[Gpu | None, str, Plan]:
    gpu = this_gpu() if to == "tensorrt" else None
    try:
        if to == "tensorrt" and gpu is None:
            raise MissingDependency(
                "a TensorRT plan must be built on the GPU that runs it, and this machine has none",
                "run this command on the machine with that GPU",
            )
        trt = load_library(to)
    except MissingDependency as error:
        if to != "tensorrt":
            raise
        commands = container_commands(run, onnx)
        raise MissingDependency(
            f"{error.message}.\nThe same ONNX file in the image that has it, on a machine with the GPU:\n\n"
            f"{commands[0]}\n\nThen, to stamp what it built:\n\n{commands[1]}",
            f"run both there; until then serve the ONNX model {onnx}",
        ) from error
    say(f"building with {to} {version_of(trt)}")
    return gpu, version_of(trt), build_plan(onnx, profiles_of(run.recipe), trt)


def container_commands(run: FinishedRun, onnx: Path) -> tuple[str, str]:
    """The command that builds the plan of ``onnx`` beside it in NVIDIA's image, and the one that stamps it."""
    from lwc.export.onnx_io import read_io

    names = [tensor.name for tensor in read_io(onnx).inputs]
    profiles = []
    for number, profile in enumerate(profiles_of(run.recipe)):
        shapes = {"min": profile.min, "opt": profile.opt, "max": profile.max}
        profiles.append(f"--profile={number}")
        for key, shape in shapes.items():
            profiles.append(f"--{key}Shapes=" + ",".join(f"{name}:{shape.batch}x{shape.length}" for name in names))
    # TensorRT 10 has to be told to compute what the file says; a later trtexec may no longer know the flag.
    build = (
        f"trtexec --onnx=/out/{onnx.name} --saveEngine=/out/{PLAN} --skipInference --noTF32"
        " $(trtexec --help | grep -o -m1 -e --stronglyTyped) " + " ".join(profiles) + f" > /out/{LOG}"
    )
    driver = f'nvidia-smi --query-gpu=driver_version --format=csv,noheader | sed "s/^/Driver: /" >> /out/{LOG}'
    digest = f"sha256sum /out/{onnx.name} >> /out/{LOG}"
    volume = shlex.quote(f"--volume={onnx.parent.resolve()}:/out")
    docker = (
        f"docker run --rm --gpus=device=0 --user={os.getuid()}:{os.getgid()} {volume} {BUILDER_IMAGE}"
        f" sh -c '{build} && {driver} && {digest}'"
    )
    precision = "fp16" if onnx.name.endswith(".fp16.onnx") else "fp32"
    out = shlex.quote(str(onnx.parent))
    stamp = f"lwc export {run.arguments} --to tensorrt --precision {precision} --out {out} --built"
    return docker, stamp


def _built_elsewhere(out: Path, onnx: Path, profiles: Sequence[Profile]) -> tuple[Gpu, str, list[Any]]:
    """GPU, TensorRT version and shapes of a plan that the container command left in ``out``."""
    from lwc.export.onnx_io import read_io

    for path in (onnx, out / PLAN, out / LOG):
        if not path.is_file():
            raise ModelError(f"{path}: missing", "run the command that `lwc export` prints without --built")
    log = (out / LOG).read_text(encoding="utf-8", errors="replace")
    gpu, version = read_trtexec_log(log)
    if file_digest(onnx) not in log:
        raise ModelError(f"{out / LOG}: of another file than {onnx.name}", "run the container command again")
    names = [tensor.name for tensor in read_io(onnx).inputs]
    return gpu, version, [shapes_of(profile, names) for profile in profiles]


def _parity(
    run: FinishedRun, path: Path, onnx: Path, precision: str, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """Answers of the engine on test texts against the fp32 ONNX file; None where the plan does not run here."""
    from lwc.export.engine import compare_answers, open_classifier
    from lwc.export.inputs import padded_inputs
    from lwc.export.run import HALF_TOLERANCE, WHOLE

    classifier = open_classifier(path, onnx, say)
    if classifier.runtime != "engine":
        return None
    profiles = profiles_of(run.recipe)
    shortest = min(profile.min.length for profile in profiles)
    batch = min(16, max(profile.max.batch for profile in profiles))
    length = run.recipe.model.max_length
    texts, _, _ = padded_inputs(run.stages["data"], run.checkpoint, "test", length, _PARITY_TEXTS, batch)
    found = compare_answers(classifier, run.stages["export"] / WHOLE, [_at_least(one, shortest) for one in texts])
    tolerance = HALF_TOLERANCE if precision == "fp16" else _FP32_TOLERANCE
    if found["max_abs_diff"] > tolerance:
        raise ModelError(
            f"{path}: logits differ from the ONNX model's by {found['max_abs_diff']:.3g}, {tolerance:g} is allowed",
            f"serve the ONNX model {onnx}",
        )
    say(f"engine and ONNX model: |Δ logit| ≤ {found['max_abs_diff']:.3g}, n = {found['rows']}")
    return {**found, "tolerance": tolerance}


def _at_least(inputs: dict[str, Array], length: int) -> dict[str, Array]:
    """Inputs (B, T) padded to ``length``, for a profile that takes no shorter ones; the mask hides what is added."""
    return {name: np.pad(value, ((0, 0), (0, max(0, length - value.shape[1])))) for name, value in inputs.items()}


def _publish(run: FinishedRun, onnx: Path, path: Path, destination: Path) -> Path:
    from lwc.serving.triton.repository import ModelFiles, build_repository

    recipe = run.recipe
    with tempfile.TemporaryDirectory() as folder:
        endpoint, files = (
            recipe.task.load().endpoint,
            ModelFiles(onnx, run.checkpoint, path, fields=recipe.data.text_fields),
        )
        build_repository(endpoint, files, Path(folder), recipe.package, recipe.name, "tensorrt")
        return publish(Path(folder), destination, run.folder / "repository-tensorrt", run.passed)
