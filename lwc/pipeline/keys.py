"""What a stage's key holds beside its own sections of the recipe: contents of files, machines, other sections."""

from __future__ import annotations

from pathlib import Path

from lwc.core.machine import cpu_limit, cpu_model, precision_here
from lwc.core.store import digest_paths, key_of
from lwc.data.paths import locate_all
from lwc.data.source import digests_of
from lwc.models.source import resolve_folder, resolve_source
from lwc.recipe import Iterated, LlamaProfile, Pretrained, Racing, Recipe


def data_files(recipe: Recipe) -> dict[str, str]:
    """Content digests of local data files: the same name with new bytes is a miss."""
    ingest = recipe.data.ingest
    metadata = locate_all(ingest.metadata) if ingest is not None else {}
    found = {name: digest_paths([path]) for name, path in metadata.items()}
    for source in (recipe.data.source, *recipe.task.sources):
        found.update(digests_of(source))
    return found


def check_model(recipe: Recipe) -> None:
    """Raise where the checkpoint is not there: before a large source is read, not after."""
    if isinstance(recipe.model, Pretrained) and not recipe.task.any_weights:
        resolve_source(recipe.model.source)


def _model_files(recipe: Recipe) -> dict[str, str]:
    """Content digest of a local or package-carried checkpoint."""
    if not isinstance(recipe.model, Pretrained):
        return {}
    resolve = resolve_folder if recipe.task.any_weights else resolve_source
    folder = Path(resolve(recipe.model.source))
    return {recipe.model.source: digest_paths([folder])} if folder.is_dir() else {}


def train_needs(recipe: Recipe) -> dict[str, str]:
    """The checkpoint's content, and the precision that training has here."""
    return {**_model_files(recipe), "precision": precision_here(recipe.train.precision)}


def recover_needs(recipe: Recipe) -> dict[str, str]:
    """The content of further texts, and the precision that recovery has here."""
    more = recipe.recover.unlabelled
    texts: dict[str, str] = {}
    if more is not None:
        texts = {**digests_of(more.source), "near_duplicate_threshold": str(recipe.data.near_duplicate_threshold)}
    return {**texts, "precision": precision_here(recipe.recover.precision)}


def _short_recovery(recipe: Recipe) -> str:
    """Key of recoveries that take their number of steps from elsewhere."""
    settings = recipe.recover.model_dump(mode="json", exclude={"epochs", "checkpoint_every"})
    return key_of({**settings, **recover_needs(recipe)})


def score_needs(recipe: Recipe) -> dict[str, str]:
    """What scores depend on beside their own section: recovery of cut models, and the files of a depth profile."""
    needs: dict[str, str] = {}
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
    """What selection depends on beside its sections: recovery, the vocabulary, or the machine that latency is of."""
    needs: dict[str, str] = {}
    if isinstance(recipe.select, Racing | Iterated):
        needs["recover"] = _short_recovery(recipe)
    if recipe.vocabulary.trim:
        needs["vocabulary"] = key_of(recipe.vocabulary.model_dump(mode="json"))
    if recipe.target.of == "latency":
        settings = recipe.export.model_dump(mode="json", exclude={"tensorrt"})
        needs["export"] = key_of({**settings, **measuring_machine(recipe)})
    return needs


def measuring_machine(recipe: Recipe) -> dict[str, str]:
    """Latency is of a machine: another one measures anew."""
    return {"cpu": cpu_model(), "cores": str(cpu_limit())}


def package_needs(recipe: Recipe) -> dict[str, str]:
    """A measured delay is of a machine and of a number of clients."""
    if not recipe.package.measure_queue_delay:
        return {}
    return {**measuring_machine(recipe), "users": str(recipe.verify.users)}
