"""Extra cache-key inputs of stages: file digests, the machine, other recipe sections."""

from __future__ import annotations

from pathlib import Path

from lwc.core.errors import MissingDependency, ModelError
from lwc.core.machine import cpu_limit, cpu_model, precision_here
from lwc.core.store import canonical, digest_paths, key_of
from lwc.data.paths import locate_all
from lwc.data.source import digests_of
from lwc.models.head import head_of
from lwc.models.source import resolve_folder, resolve_source
from lwc.recipe import Iterated, LlamaProfile, Pretrained, Racing, Recipe

# Of the export stage, whose graphs a latency target measures too.
EXPORT_VERSION = 9


def data_files(recipe: Recipe) -> dict[str, str]:
    """Content digests of local data files, so that the same name with new bytes is a miss."""
    ingest = recipe.data.ingest
    metadata = locate_all(ingest.metadata) if ingest is not None else {}
    found = {name: digest_paths([path]) for name, path in metadata.items()}
    for source in (*recipe.data.sources.values(), *recipe.task.sources):
        found.update(digests_of(source))
    return found


def data_needs(recipe: Recipe) -> dict[str, str]:
    """The content of the data's files, and the head of the checkpoint, whose classes and order the data take."""
    head = _head(recipe)
    return {**data_files(recipe), **({} if head is None else {"the checkpoint's head": head})}


def _head(recipe: Recipe) -> str | None:
    """Names of the outputs of the checkpoint's own head; of a hub id, whose config may not be here, the id."""
    model = recipe.model
    if not recipe.task.has_head or not isinstance(model, Pretrained) or model.head == "new":
        return None
    try:
        if not Path(resolve_source(model.source)).is_dir():
            return f"{model.source}@{model.revision}"
        head = head_of(model)
    except (MissingDependency, ModelError):
        return None  # said before the first stage that runs, by `lwc.pipeline.preflight`
    return None if head is None else canonical(list(head.outputs))


def train_needs(recipe: Recipe) -> dict[str, str]:
    """The content of a checkpoint in a local folder or a package, and the precision of training on this machine.

    For a head that is kept also what the recipe calls its classes.
    """
    needs = {} if recipe.train.skip else {"precision": precision_here(recipe.train.precision)}
    labels = recipe.data.labels
    if (labels.map or labels.names) and _head(recipe) is not None:
        needs["data.labels"] = key_of({"map": labels.map, "names": labels.names})
    if isinstance(recipe.model, Pretrained):
        resolve = resolve_folder if recipe.task.any_weights else resolve_source
        folder = Path(resolve(recipe.model.source))
        if folder.is_dir():
            needs[recipe.model.source] = digest_paths([folder])
    return needs


def recover_needs(recipe: Recipe) -> dict[str, str]:
    """The content of additional texts, and the precision of recovery on this machine."""
    more = recipe.recover.unlabelled
    texts: dict[str, str] = {}
    if more is not None:
        texts = {**digests_of(more.source), "near_duplicate_threshold": str(recipe.data.near_duplicate_threshold)}
    return {**texts, "precision": precision_here(recipe.recover.precision)}


def _short_recovery(recipe: Recipe) -> str:
    """Key of recoveries whose number of steps is set elsewhere."""
    settings = recipe.recover.model_dump(mode="json", exclude={"epochs", "checkpoint_every"})
    return key_of({**settings, **recover_needs(recipe)})


def score_needs(recipe: Recipe) -> dict[str, str]:
    """Recovery and target, if scores are judged on cut models, the files of a depth profile, versions of methods."""
    needs = {one.method: f"version {one.version}" for one in recipe.score.methods if one.version > 1}
    trust = recipe.score.trust
    if trust is not None or recipe.score.fusion == "learned":
        # Scores are judged on models cut as deep as the target asks, whatever the strategy.
        cut = {name: getattr(recipe, name).model_dump(mode="json") for name in ("target", "vocabulary")}
        needs["target"] = key_of({**cut, "required": [recipe.select.keep_first, recipe.select.keep_last]})
    if trust is not None and trust.recovery_steps:
        needs["recover"] = _short_recovery(recipe)
    for method in recipe.score.methods:
        if isinstance(method, LlamaProfile):
            folder = Path(resolve_folder(method.source))
            if folder.exists():
                needs[method.source] = digest_paths([folder])
    return needs


def select_needs(recipe: Recipe) -> dict[str, str]:
    """Recovery, the vocabulary, and for a latency target the machine."""
    needs: dict[str, str] = {}
    if isinstance(recipe.select, Racing | Iterated):
        needs["recover"] = _short_recovery(recipe)
    if recipe.vocabulary.trim:
        needs["vocabulary"] = key_of(recipe.vocabulary.model_dump(mode="json"))
    if recipe.target.of == "latency":
        settings = recipe.export.model_dump(mode="json", exclude={"tensorrt"})
        needs["export"] = key_of(
            {**settings, "version": EXPORT_VERSION, "task": recipe.task.key("export"), **measuring_machine(recipe)}
        )
    return needs


def measuring_machine(recipe: Recipe) -> dict[str, str]:
    """The machine on which latency is measured; another one measures again."""
    return {"cpu": cpu_model(), "cores": str(cpu_limit())}


def package_needs(recipe: Recipe) -> dict[str, str]:
    """The text fields, which the endpoint joins; the machine and the clients on which a measured delay depends."""
    needs = {"text_fields": ",".join(recipe.data.text_fields)}
    if not recipe.package.measure_queue_delay:
        return needs
    return {**needs, **measuring_machine(recipe), "users": str(recipe.verify.users)}
