"""STAGES: the line, one row a stage. Functions import what they need when they run."""

from __future__ import annotations

import difflib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from lwc.core.errors import LwcError, RecipeError
from lwc.core.progress import Say
from lwc.core.store import read_json, write_json
from lwc.pipeline import keys as needs
from lwc.pipeline import purposes
from lwc.pipeline.stage import Stage, StageContext
from lwc.recipe import Recipe


def _data(context: StageContext) -> None:
    from lwc.tasks.task import task_of

    task_of(context.recipe).prepare(context.recipe, context.out, context.scratch, context.progress)


def inspect(recipe: Recipe, say: Say = lambda _: None) -> dict[str, Any]:
    """The data quality report of a recipe; nothing is kept, but the bad rows that an error names."""
    from lwc.tasks.task import task_of

    folder = Path(tempfile.mkdtemp(prefix="lwc-inspect-"))
    out, scratch = folder / "data", folder / "scratch"
    kept = False
    try:
        out.mkdir()
        return task_of(recipe).prepare(recipe, out, scratch, say)
    except LwcError as error:
        kept = str(folder) in error.hint
        raise
    finally:
        if not kept:
            shutil.rmtree(folder)


def _train(context: StageContext) -> None:
    from lwc.pipeline.before_training import check_base
    from lwc.training.fine_tuning import train_base

    train_base(
        context.recipe,
        context.inputs["data"],
        context.out,
        context.scratch,
        context.progress,
        lambda base: check_base(context, base),
    )


def _score(context: StageContext) -> None:
    from lwc.pipeline.block_stages import score

    score(context)


def _select(context: StageContext) -> None:
    from lwc.pipeline.block_stages import select

    select(context)


def _remove(context: StageContext) -> None:
    from lwc.pipeline.block_stages import remove

    remove(context)


def _recover(context: StageContext) -> None:
    from lwc.training.recovery import recover

    kept = read_json(context.inputs["remove"] / "cut.json")["kept"]
    recover(context.recipe, kept, context.inputs, context.out, context.scratch, context.progress, context.answers)


def _evaluate(context: StageContext) -> None:
    from lwc.evaluation.run import evaluate
    from lwc.tasks.task import MODELS, Evaluation, task_of

    recipe, inputs = context.recipe, context.inputs
    stages = ("train", "remove", "recover")
    folders = {name: inputs[stage] / "model" for name, stage in zip(MODELS, stages, strict=True)}
    evaluation = Evaluation(recipe, inputs["data"], folders, context.out, context.progress, context.answers)
    quality = evaluate(task_of(recipe), evaluation)["quality"]
    metric = recipe.task.headline.metrics[0]
    base, small = (quality[name][metric.key]["value"] for name in ("base", "compressed"))
    context.progress(f"test {metric.name}: {base:.3f} base, {small:.3f} recovered")


def _export(context: StageContext) -> None:
    from lwc.export.run import export_pair

    served = export_pair(context.recipe, context.inputs, context.out, context.progress)["served"]
    ratios = served["ratios"]
    context.progress(f"{served['precision']} is served: size {ratios['size']:.2f}×, latency {ratios['latency']:.2f}×")


def _package(context: StageContext) -> None:
    from lwc.export.run import FP16, WHOLE
    from lwc.serving.triton.repository import ModelFiles, build_repository
    from lwc.tasks.task import task_of

    recipe, package, inputs = context.recipe, context.recipe.package, context.inputs
    endpoint = task_of(recipe).endpoint
    export, described = inputs["export"], dict[str, Any]()
    served = read_json(export / "export.json")["served"]
    reduced = (export / FP16).is_file()
    # A repository of a plan is written by `lwc export`, on the GPU that the plan is for.
    for target, folder, graph, precision in (
        ("cpu", "repository", served["path"], served["precision"]),
        ("gpu", "repository-gpu", FP16 if reduced else WHOLE, "fp16" if reduced else "fp32"),
    ):
        if target in package.targets:
            notes = {"precision": precision}
            if target == "cpu" and served["why"]:
                notes["precision_reason"] = served["why"]
            files = ModelFiles(export / graph, inputs["recover"] / "model", None, notes, recipe.data.text_fields)
            described[target] = build_repository(endpoint, files, context.out / folder, package, recipe.name, target)
    if package.measure_queue_delay:
        described["cpu"]["queue_delay"] = _measured_delay(context, context.out / "repository")
    write_json(context.out / "package.json", described["cpu"])
    context.progress(f"model name {recipe.name}")


def _measured_delay(context: StageContext, repository: Path) -> dict[str, Any]:
    """Measure delays on calibration texts and write the best into the repository; returns the figures."""
    from lwc.data.splits import load_split
    from lwc.serving.tune.delay import DelaySearch, measure, set_delay

    recipe = context.recipe
    texts = load_split(context.inputs["data"], "calibration").texts
    search = DelaySearch(recipe.package.queue_delay_microseconds, recipe.verify.users, recipe.verify.startup_seconds)
    found = measure(repository, recipe.name, texts, search, context.progress)
    set_delay(repository, found["chosen"])
    context.progress(f"queue delay {found['chosen']} µs, with {found['users']} clients")
    return found


def _verify(context: StageContext) -> None:
    from lwc.export.run import INT8_ANSWERS
    from lwc.serving.triton.repository import ModelFiles
    from lwc.serving.verify.run import Packaged, verify

    served = read_json(context.inputs["export"] / "export.json")["served"]
    packaged = Packaged(
        context.inputs["package"] / "repository",
        context.inputs["data"],
        context.inputs["evaluate"],
        ModelFiles(
            context.inputs["export"] / "base" / "model.onnx",
            context.inputs["train"] / "model",
            fields=context.recipe.data.text_fields,
        ),
        context.inputs["export"] / INT8_ANSWERS if served["precision"] == "int8" else None,
    )
    serving = verify(context.recipe, packaged, context.out, context.progress)
    equal = min(one["served"]["matches_offline"] for one in serving.values())
    share = "every served answer equals" if equal == 1 else f"{equal:.2%} of the served answers equal"
    context.progress(f"{share} the offline one")


_TRAINING = ("torch", "transformers", "tokenizers", "accelerate", "numpy")

STAGES: tuple[Stage, ...] = (
    Stage(
        "data", 5, (), ("data",), _data, ("rdata", "pandas", "pyarrow", "datasets", "numpy"),
        external=needs.data_needs, account=("source.json", "quality.json", "quarantine.jsonl", "test_raw.parquet"),
        purpose=purposes.data,
    ),
    Stage(
        "train", 3, ("data",), ("model", "train"), _train, _TRAINING,
        external=needs.train_needs, shared=True, account=("metrics.json",), purpose=purposes.train,
    ),
    Stage(
        "score", 4, ("data", "train"), ("score",), _score, (*_TRAINING, "scipy", "gguf"),
        external=needs.score_needs, shared=True, purpose=purposes.score,
    ),
    Stage(
        "select", 5, ("data", "train", "score"), ("target", "select"), _select, _TRAINING,
        external=needs.select_needs, shared=True, purpose=purposes.select,
    ),
    Stage("remove", 3, ("train", "select"), (), _remove, _TRAINING, purpose=purposes.remove),
    Stage(
        "recover", 4, ("data", "train", "remove"), ("recover", "vocabulary"), _recover, _TRAINING,
        external=needs.recover_needs, shared=True, account=("metrics.json",), purpose=purposes.recover,
    ),
    Stage(
        "evaluate", 2, ("data", "train", "remove", "recover"), ("evaluate",), _evaluate, (*_TRAINING, "scikit-learn"),
        shared=True, purpose=purposes.evaluate,
    ),
    Stage(
        "export", needs.EXPORT_VERSION, ("data", "train", "recover", "evaluate"), ("export",), _export,
        ("torch", "onnx", "onnxruntime", "openvino"), external=needs.measuring_machine, purpose=purposes.export,
    ),
    Stage(
        "package", 8, ("data", "export", "recover"), ("package", "name"), _package, ("onnx", "tritonclient"),
        external=needs.package_needs, purpose=purposes.package,
    ),
    # Serving is measured on this machine now: a cached figure would prove nothing.
    Stage(
        "verify", 3, ("data", "train", "evaluate", "export", "package"), ("verify", "name", "package"), _verify,
        cached=False, purpose=purposes.verify,
    ),
)  # fmt: skip


def check_stage(name: str | None) -> None:
    """Raise `RecipeError` where ``name`` is not a stage."""
    names = [stage.name for stage in STAGES]
    if name is not None and name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(names)}"
        raise RecipeError(f"no stage {name!r}", hint)


def stages_until(name: str | None) -> list[str]:
    """Names of all stages up to this one; of all, where it is None."""
    names = [stage.name for stage in STAGES]
    return names if name is None else names[: names.index(name) + 1]
