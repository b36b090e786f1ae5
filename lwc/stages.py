"""STAGES: the line, one row a stage. Functions import what they need when they run."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lwc import choosing
from lwc.artifacts import digest_paths, key_of, read_json, write_json
from lwc.environment import BF16_FLAGS, cpu_flags, cpu_limit, cpu_model, gpu_present
from lwc.errors import RecipeError
from lwc.models.source import resolve_folder
from lwc.readings import READINGS
from lwc.recipe import (
    DataSource,
    HubDataset,
    Iterated,
    LlamaProfile,
    McAuleyFile,
    NextItem,
    Pretrained,
    Racing,
    Recipe,
    TableFile,
)
from lwc.stage import Stage, StageContext


def _data_files(recipe: Recipe) -> dict[str, str]:
    """Content digests of local data files: the same name with new bytes is a miss."""
    more = recipe.data.ingest.metadata if recipe.data.ingest is not None else ()
    text = recipe.task.text if isinstance(recipe.task, NextItem) else None
    metadata = {} if text is None or text.metadata is None else _source_files(text.metadata)
    return {**_source_files(recipe.data.source), **_named(more), **metadata}


def _named(names: tuple[str, ...]) -> dict[str, str]:
    from lwc.data.paths import locate

    return {name: digest_paths([locate(name)]) for name in names}


def _source_files(source: DataSource) -> dict[str, str]:
    from lwc.data.paths import local_dataset

    if isinstance(source, HubDataset):
        folder = local_dataset(source.id)
        return {source.id: digest_paths([Path(folder)])} if folder is not None else {}
    if not isinstance(source, McAuleyFile | TableFile):
        return {}
    return _named(source.paths)


def _model_files(recipe: Recipe) -> dict[str, str]:
    """Content digest of a local or package-carried checkpoint."""
    if not isinstance(recipe.model, Pretrained):
        return {}
    if recipe.task.kind == "causal_lm":  # GGUF files have no config.json beside them
        folder = Path(resolve_folder(recipe.model.source))
        return {recipe.model.source: digest_paths([folder])} if folder.is_dir() else {}
    from lwc.models.source import resolve_source

    folder = Path(resolve_source(recipe.model.source))
    return {recipe.model.source: digest_paths([folder])} if folder.is_dir() else {}


def _precision(setting: str) -> str:
    """What a training stage computes in on this machine (``auto`` differs between machines)."""
    if setting != "auto":
        return setting
    native = gpu_present() or bool(cpu_flags() & BF16_FLAGS)
    return "bf16" if native else "fp32"


def _train_machine(recipe: Recipe) -> dict[str, str]:
    return {**_model_files(recipe), "precision": _precision(recipe.train.precision)}


def _recover_machine(recipe: Recipe) -> dict[str, str]:
    more = recipe.recover.unlabelled
    files = {} if more is None else _source_files(more.source)
    return {**files, "precision": _precision(recipe.recover.precision)}


def _score_needs(recipe: Recipe) -> dict[str, str]:
    """What scores depend on beside their own section: recovery of cut models, and the files of a depth profile."""
    needs: dict[str, str] = {}
    trust = recipe.score.trust
    if trust is not None or recipe.score.fusion == "learned":
        # Scores are judged on models cut as deep as the target asks.
        sections = (recipe.target, recipe.select, recipe.vocabulary)
        needs["target"] = key_of({type(one).__name__: one.model_dump(mode="json") for one in sections})
    if trust is not None and trust.recovery_steps:
        needs["recover"] = key_of({**recipe.recover.model_dump(mode="json"), **_recover_machine(recipe)})
    for method in recipe.score.methods:
        if isinstance(method, LlamaProfile):
            folder = Path(resolve_folder(method.source))
            if folder.exists():
                needs[method.source] = digest_paths([folder])
    return needs


def _select_needs(recipe: Recipe) -> dict[str, str]:
    """What selection depends on beside its sections: recovery, the vocabulary, or the machine that latency is of."""
    needs: dict[str, str] = {}
    if isinstance(recipe.select, Racing | Iterated):
        needs["recover"] = key_of({**recipe.recover.model_dump(mode="json"), **_recover_machine(recipe)})
    if recipe.vocabulary.trim:
        needs["vocabulary"] = key_of(recipe.vocabulary.model_dump(mode="json"))
    if recipe.target.of == "latency":
        settings = recipe.export.model_dump(mode="json", exclude={"tensorrt"})
        needs["export"] = key_of({**settings, **_measuring_machine(recipe)})
    return needs


def _measuring_machine(recipe: Recipe) -> dict[str, str]:
    """Latency is of a machine: another one measures anew."""
    return {"cpu": cpu_model(), "cores": str(cpu_limit())}


def _data(context: StageContext) -> None:
    recipe = context.recipe
    if recipe.data.ingest is not None:
        from lwc.data.ingest.stage import prepare_large

        quality = prepare_large(recipe.data, recipe.seed, context.out, context.scratch, context.progress)
    else:
        from lwc.data.prepare import prepare

        quality = prepare(recipe.data, recipe.seed, context.out, context.progress)
    source = read_json(context.out / "source.json")
    splits = quality["splits"]
    sizes = ", ".join(f"{name} {splits[name]['rows']:,}" for name in ("train", "validation", "test"))
    context.progress(f"{source['source']}: {sizes}")


def _train(context: StageContext) -> None:
    from lwc.fine_tuning import train_base

    train_base(context.recipe, context.inputs["data"], context.out, context.scratch, context.progress)


def _recover(context: StageContext) -> None:
    from lwc.distillation import recover

    recover(
        context.recipe,
        data_dir=context.inputs["data"],
        teacher_dir=context.inputs["train"],
        student_dir=context.inputs["remove"],
        selection=read_json(context.inputs["select"] / "selection.json"),
        out=context.out,
        scratch=context.scratch,
        progress=context.progress,
    )


def _evaluate(context: StageContext) -> None:
    from lwc.evaluation import evaluate

    result = evaluate(
        context.recipe,
        data_dir=context.inputs["data"],
        base_dir=context.inputs["train"],
        unrecovered_dir=context.inputs["remove"],
        compressed_dir=context.inputs["recover"],
        out=context.out,
        progress=context.progress,
    )
    metric = READINGS[context.recipe.task.kind].metrics[0]
    base, small = (result["quality"][name][metric.key]["value"] for name in ("base", "compressed"))
    context.progress(f"test {metric.name} {base:.3f} → {small:.3f}")


def _export(context: StageContext) -> None:
    from lwc.export.stage import export_pair

    recipe = context.recipe
    result = export_pair(
        data_dir=context.inputs["data"],
        base_dir=context.inputs["train"],
        compressed_dir=context.inputs["recover"],
        settings=recipe.export,
        max_length=recipe.model.max_length,
        out=context.out,
        progress=context.progress,
    )
    ratios = result["ratios"]
    context.progress(f"size {ratios['size']:.2f}×, latency {ratios['latency']:.2f}×")


def _package(context: StageContext) -> None:
    from lwc.export.stage import FP16, INT8, WHOLE
    from lwc.serving.repository import build_repository

    recipe, package = context.recipe, context.recipe.package
    described: dict[str, Any] = {}
    # A repository of a plan is written by `lwc export`, on the GPU that the plan is for.
    for target, folder, reduced in (("cpu", "repository", INT8), ("gpu", "repository-gpu", FP16)):
        if target in package.targets:
            graph = context.inputs["export"] / reduced
            described[target] = build_repository(
                graph if graph.is_file() else context.inputs["export"] / WHOLE,
                context.inputs["recover"] / "model",
                context.out / folder,
                package,
                recipe.name,
                target,
            )
    if package.measure_queue_delay:
        described["cpu"]["queue_delay"] = _measured_delay(context, context.out / "repository")
    write_json(context.out / "package.json", described["cpu"])
    context.progress("text-in model " + recipe.name)


def _measured_delay(context: StageContext, repository: Path) -> dict[str, Any]:
    """Measure delays on calibration texts and write the best into the repository; returns the figures."""
    from lwc.data.splits import load_split
    from lwc.serving.delay import measure, set_delay

    recipe = context.recipe
    texts = load_split(context.inputs["data"], "calibration").texts
    users = recipe.verify.users
    limit, current = recipe.verify.startup_seconds, recipe.package.queue_delay_microseconds
    found = measure(repository, recipe.name, texts, users, limit, context.progress, current)
    set_delay(repository, found["chosen"])
    context.progress(f"queue delay {found['chosen']} µs, with {found['users']} clients")
    return found


def _package_needs(recipe: Recipe) -> dict[str, str]:
    """A measured delay is of a machine and of a number of clients."""
    if not recipe.package.measure_queue_delay:
        return {}
    return {**_measuring_machine(recipe), "users": str(recipe.verify.users)}


def _verify(context: StageContext) -> None:
    from lwc.export.stage import INT8_ANSWERS
    from lwc.serving.verify import verify

    reduced = context.inputs["export"] / INT8_ANSWERS
    verify(
        context.recipe,
        context.inputs["package"] / "repository",
        context.recipe.name,
        context.inputs["evaluate"],
        context.inputs["data"],
        context.out,
        (context.inputs["export"] / "base" / "model.onnx", context.inputs["train"] / "model"),
        context.progress,
        reduced if reduced.is_file() else None,
    )


_TRAINING = ("torch", "transformers", "tokenizers", "accelerate", "numpy")

_LINE: tuple[Stage, ...] = (
    Stage("data", 1, (), ("data",), _data, ("rdata", "pandas", "pyarrow", "datasets", "numpy"), external=_data_files),
    Stage("train", 3, ("data",), ("model", "train", "task"), _train, _TRAINING, external=_train_machine, shared=True),
    Stage(
        "score",
        4,
        ("data", "train"),
        ("score",),
        choosing.score,
        (*_TRAINING, "scipy", "gguf"),
        external=_score_needs,
        shared=True,
    ),
    Stage(
        "select",
        2,
        ("data", "train", "score"),
        ("target", "select"),
        choosing.select,
        _TRAINING,
        external=_select_needs,
        shared=True,
    ),
    Stage("remove", 2, ("train", "select"), (), choosing.remove, _TRAINING),
    Stage(
        "recover",
        3,
        ("data", "train", "select", "remove"),
        ("recover", "vocabulary"),
        _recover,
        _TRAINING,
        external=_recover_machine,
        shared=True,
    ),
    Stage(
        "evaluate",
        2,
        ("data", "train", "remove", "recover"),
        ("evaluate",),
        _evaluate,
        (*_TRAINING, "scikit-learn"),
        shared=True,
    ),
    Stage(
        "export",
        3,
        ("data", "train", "recover"),
        ("export",),
        _export,
        ("torch", "onnx", "onnxruntime"),
        external=_measuring_machine,
    ),
    Stage(
        "package",
        5,
        ("data", "export", "recover"),
        ("package", "name"),
        _package,
        ("onnx", "tritonclient"),
        external=_package_needs,
    ),
    # Serving is measured on this machine now: a cached figure would prove nothing.
    Stage(
        "verify",
        2,
        ("data", "train", "evaluate", "export", "package"),
        ("verify", "name", "package"),
        _verify,
        cached=False,
    ),
)


def _by_task(stage: Stage) -> Callable[[StageContext], None]:
    """The stage's function, or the one of its name in `lwc.recommender` where the recipe's task is next_item."""

    def run(context: StageContext) -> None:
        if isinstance(context.recipe.task, NextItem):
            from lwc.recommender.stages import FUNCTIONS

            FUNCTIONS[stage.name](context)
        else:
            stage.function(context)

    return run


STAGES = tuple(replace(stage, function=_by_task(stage)) for stage in _LINE)


def check_stage(name: str | None) -> None:
    """Raise `RecipeError` where ``name`` is not a stage."""
    names = [stage.name for stage in STAGES]
    if name is not None and name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else ""
        raise RecipeError(f"no stage {name!r}; stages: {', '.join(names)}", hint)
