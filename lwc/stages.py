"""STAGES: the line, one row a stage. Functions import what they need when they run."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwc.artifacts import digest_paths, key_of, read_json, write_json
from lwc.environment import BF16_FLAGS, cpu_flags, cpu_limit, cpu_model, gpu_present, versions
from lwc.errors import RecipeError
from lwc.models.source import resolve_folder
from lwc.recipe import HubDataset, LlamaProfile, McAuleyFile, Pretrained, Recipe, TableFile


@dataclass(frozen=True)
class StageContext:
    """What a stage function gets: read ``inputs``, fill ``out``; ``scratch`` survives a kill."""

    recipe: Recipe
    inputs: Mapping[str, Path]
    out: Path
    scratch: Path
    progress: Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """One row of the line. ``sections`` are the recipe sections its result depends on."""

    name: str
    version: int
    inputs: tuple[str, ...]
    sections: tuple[str, ...]
    function: Callable[[StageContext], None]
    libraries: tuple[str, ...] = ()
    external: Callable[[Recipe], dict[str, str]] = lambda recipe: {}
    cached: bool = True

    def config(self, recipe: Recipe) -> dict[str, Any]:
        """The resolved settings that this stage's result depends on."""
        dumped = recipe.model_dump(mode="json")
        return {name: dumped[name] for name in self.sections}

    def library_versions(self) -> dict[str, str | None]:
        """Versions that may change the result."""
        return versions(self.libraries)


def _data_files(recipe: Recipe) -> dict[str, str]:
    """Content digests of local data files: the same name with new bytes is a miss."""
    from lwc.data.paths import local_dataset, locate

    source = recipe.data.source
    if isinstance(source, HubDataset):
        folder = local_dataset(source.id)
        return {source.id: digest_paths([Path(folder)])} if folder is not None else {}
    if not isinstance(source, McAuleyFile | TableFile):
        return {}
    return {name: digest_paths([locate(name)]) for name in source.paths}


def _model_files(recipe: Recipe) -> dict[str, str]:
    """Content digest of a local or package-carried checkpoint."""
    if not isinstance(recipe.model, Pretrained):
        return {}
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
    return {"precision": _precision(recipe.recover.precision)}


def _score_needs(recipe: Recipe) -> dict[str, str]:
    """What scores depend on beside their own section: recovery of cut models, and the files of a depth profile."""
    needs: dict[str, str] = {}
    trust = recipe.score.trust
    if trust is not None and trust.recovery_steps:
        needs["recover"] = key_of({**recipe.recover.model_dump(mode="json"), **_recover_machine(recipe)})
    for method in recipe.score.methods:
        if isinstance(method, LlamaProfile):
            folder = Path(resolve_folder(method.source))
            if folder.exists():
                needs[method.source] = digest_paths([folder])
    return needs


def _measuring_machine(recipe: Recipe) -> dict[str, str]:
    """Latency is of a machine: another one measures anew."""
    return {"cpu": cpu_model(), "cores": str(cpu_limit())}


def _data(context: StageContext) -> None:
    from lwc.data.prepare import prepare

    quality = prepare(context.recipe.data, context.recipe.seed, context.out, context.progress)
    source = read_json(context.out / "source.json")
    splits = quality["splits"]
    sizes = ", ".join(f"{name} {splits[name]['rows']:,}" for name in ("train", "validation", "test"))
    context.progress(f"{source['source']}: {sizes}")


def _train(context: StageContext) -> None:
    from lwc.fine_tuning import train_classifier

    train_classifier(context.recipe, context.inputs["data"], context.out, context.scratch, context.progress)


def _measured_on(context: StageContext, split: str) -> tuple[Any, Any, Any]:
    """(model, family, batches): the base model and the rows of a split that it is measured on."""
    from lwc.data.splits import load_split
    from lwc.models.batches import batches, encode
    from lwc.models.families import family_of
    from lwc.models.load import load_classifier, load_tokenizer

    folder = context.inputs["train"] / "model"
    model, tokenizer = load_classifier(folder), load_tokenizer(folder)
    examples = load_split(context.inputs["data"], split)
    encoded = encode(tokenizer, examples.texts, context.recipe.model.max_length)
    size = context.recipe.score.batch_size
    return model, family_of(model), batches(encoded, examples.labels, size, length_bucketed=True, seed=None)


def _short_recovery(context: StageContext, model: Any) -> Callable[[Collection[int]], float] | None:
    """Loss of a cut model after the recipe's few steps of recovery, where it asks for that."""
    trust = context.recipe.score.trust
    if trust is None or trust.recovery_steps == 0:
        return None
    from lwc.distillation import Recoverer
    from lwc.models.load import load_tokenizer

    tokenizer = load_tokenizer(context.inputs["train"] / "model")
    recoverer = Recoverer(context.recipe, context.inputs["data"], copy.deepcopy(model), tokenizer)
    steps = trust.recovery_steps

    def loss(removed: Collection[int]) -> float:
        name = "-".join(str(block) for block in sorted(removed))
        return recoverer.loss_after(removed, steps, context.scratch / f"without-{name}", context.progress)

    return loss


def _score(context: StageContext) -> None:
    from lwc.importance.score import score_blocks

    model, family, calibration = _measured_on(context, "calibration")
    settings = context.recipe.score
    # Cut models are judged on rows that no score has seen.
    needed = settings.trust is not None or settings.fusion == "learned"
    held_out = _measured_on(context, "validation")[2] if needed else None
    importance = score_blocks(
        model,
        family,
        calibration,
        settings,
        context.progress,
        validation=held_out,
        recover=_short_recovery(context, model),
        seed=context.recipe.seed,
    )
    write_json(context.out / "importance.json", importance)
    ranking = importance["fused"]["ranking"]
    context.progress(f"{len(importance['methods'])} methods, most important first: {ranking}")


def _select(context: StageContext) -> None:
    from lwc.selection.select import select_blocks

    model, family, calibration = _measured_on(context, "calibration")
    importance = read_json(context.inputs["score"] / "importance.json")
    recipe = context.recipe
    selection = select_blocks(model, family, calibration, importance, recipe.target, recipe.select)
    write_json(context.out / "selection.json", selection)
    context.progress(f"keep {selection['kept']}, remove {selection['removed']}")


def _remove(context: StageContext) -> None:
    from lwc.models.families import family_of
    from lwc.models.load import load_classifier, load_tokenizer, save_checkpoint
    from lwc.models.surgery import remove_blocks

    base = context.inputs["train"] / "model"
    selection = read_json(context.inputs["select"] / "selection.json")
    model = load_classifier(base)
    smaller = remove_blocks(model, family_of(model), selection["removed"])
    save_checkpoint(smaller, load_tokenizer(base), context.out / "model")


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
    base, small = (result["quality"][name]["accuracy"]["value"] for name in ("base", "compressed"))
    context.progress(f"test accuracy {base:.3f} → {small:.3f}")


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
    from lwc.serving.repository import build_repository

    recipe = context.recipe
    described = build_repository(
        context.inputs["export"] / "compressed" / "model.onnx",
        context.inputs["recover"] / "model",
        context.out / "repository",
        recipe.package,
        recipe.name,
    )
    write_json(context.out / "package.json", described)
    context.progress("text-in model " + recipe.name)


def _verify(context: StageContext) -> None:
    from lwc.serving.verify import verify

    verify(
        context.recipe,
        context.inputs["package"] / "repository",
        context.recipe.name,
        context.inputs["evaluate"],
        context.inputs["data"],
        context.out,
        context.progress,
    )


_TRAINING = ("torch", "transformers", "tokenizers", "accelerate", "numpy")

STAGES: tuple[Stage, ...] = (
    Stage("data", 1, (), ("data",), _data, ("rdata", "pandas", "pyarrow", "datasets", "numpy"), external=_data_files),
    Stage("train", 1, ("data",), ("model", "train"), _train, _TRAINING, external=_train_machine),
    Stage("score", 3, ("data", "train"), ("score",), _score, (*_TRAINING, "scipy", "gguf"), external=_score_needs),
    Stage("select", 1, ("data", "train", "score"), ("target", "select"), _select, _TRAINING),
    Stage("remove", 1, ("train", "select"), (), _remove, _TRAINING),
    Stage(
        "recover",
        1,
        ("data", "train", "select", "remove"),
        ("recover",),
        _recover,
        _TRAINING,
        external=_recover_machine,
    ),
    Stage(
        "evaluate",
        1,
        ("data", "train", "remove", "recover"),
        ("evaluate",),
        _evaluate,
        (*_TRAINING, "scikit-learn"),
    ),
    Stage(
        "export",
        1,
        ("data", "train", "recover"),
        ("export",),
        _export,
        ("torch", "onnx", "onnxruntime"),
        external=_measuring_machine,
    ),
    Stage("package", 2, ("export", "recover"), ("package", "name"), _package, ("onnx", "tritonclient")),
    # Serving is measured on this machine now: a cached figure would prove nothing.
    Stage("verify", 1, ("data", "evaluate", "package"), ("verify", "name"), _verify, cached=False),
)


def check_stage(name: str | None) -> None:
    """Raise `RecipeError` where ``name`` is not a stage."""
    names = [stage.name for stage in STAGES]
    if name is not None and name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else ""
        raise RecipeError(f"no stage {name!r}; stages: {', '.join(names)}", hint)
