"""Versions of a model in a repository that a server reads: what is live, what is parked, and one atomic switch.

A deployed model ``M`` is a front: an ensemble of one step that passes requests to ``M-v7``, the model of version 7.
What a version needs has names of its own, so that two versions share nothing::

    M/config.pbtxt           the switch: says which version is live
    M/7/config.pbtxt         that file as version 7 wants it
    M/6/models/              the models of version 6, parked: Triton does not look in there
    M-v7/, M_tokens-v7/      the models of the live version
    .lwc-rollout-M.json      versions, oldest first; Triton ignores files beside models, but no folders

A repository that was put there by hand becomes version 1 as it is.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter
from tritonclient.grpc import model_config_pb2 as pb

from lwc.core.errors import RecipeError
from lwc.core.store import exclusive, file_digest, key_of, read_json, write_json, write_whole
from lwc.serving.checks.model import Model
from lwc.serving.triton.config import EXAMPLE, as_text, parse

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_CONFIG = "config.pbtxt"
_SCHEMA = 1
# Parameters in which a Python model that lwc wrote names the model it calls.
_CALLS = ("token_model", "graph")


@dataclass(frozen=True)
class Version:
    """One version: its models, those that others call first, and the digest of the repository it came from."""

    number: int
    models: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class State:
    """Versions that can be served, the one to go back to before the live one, and one that is being added."""

    versions: tuple[Version, ...]
    adding: Version | None = None
    last: int = 0


_STATE = TypeAdapter(State)


@dataclass(frozen=True)
class Place:
    """Where model ``model`` is deployed: the repository ``folder``, which must exist."""

    folder: Path
    model: str

    @property
    def front(self) -> Path:
        return self.child(self.model)

    @property
    def state_file(self) -> Path:
        return self.folder / f".lwc-rollout-{self.model}.json"

    @property
    def staging(self) -> Path:
        """A folder on the same file system that no server looks into."""
        return self.front / ".lwc-staging" if self.front.is_dir() else self.outside

    @property
    def outside(self) -> Path:
        """Where the first version is staged: Triton does not start over a folder beside the models that is no model."""
        folder = self.folder.resolve()
        return folder.parent / f".{folder.name}.lwc-staging"

    def child(self, name: str) -> Path:
        """The folder of a model of this repository.

        Raises:
            RecipeError: the name is none of a model, or the folder leads out of the repository.
        """
        path = self.folder / name
        if not _NAME.fullmatch(name) or path.resolve().parent != self.folder.resolve():
            raise RecipeError(f"{path}: no folder of a model in {self.folder}", "use letters, digits, '.', '_' and '-'")
        return path

    def parked(self, version: Version) -> Path:
        return self.front / str(version.number) / "models"

    def config_of(self, number: int) -> Path:
        return self.front / str(number) / _CONFIG


def calls(config: pb.ModelConfig) -> list[str]:
    """Models that a model calls: the steps of an ensemble, or what a Python model that lwc wrote calls."""
    names = [step.model_name for step in config.ensemble_scheduling.step]
    return names + [config.parameters[key].string_value for key in _CALLS if key in config.parameters]


def callees_first(name: str, configs: Mapping[str, pb.ModelConfig]) -> list[str]:
    """``name`` and all that it calls, each behind what it calls itself. Calls must not go round in circles."""
    order: list[str] = []

    def visit(model: str) -> None:
        for called in calls(configs[model]):
            visit(called)
        if model not in order:
            order.append(model)

    visit(name)
    return order


def read_configs(folder: Path) -> dict[str, pb.ModelConfig]:
    """Configurations of all models in a repository by folder name."""
    found = {path.parent.name: parse(path.read_text(encoding="utf-8")) for path in folder.glob(f"*/{_CONFIG}")}
    return dict(sorted(found.items()))


def digest_of(repository: Path, models: Sequence[str]) -> str:
    """SHA-256 over names and content of the models' files, without what Python compiled beside them."""
    found = [path for name in models for path in (repository / name).rglob("*") if path.is_file()]
    return key_of({str(p.relative_to(repository)): file_digest(p) for p in found if p.parent.name != "__pycache__"})


def locked(folder: Path) -> AbstractContextManager[None]:
    """One rollout at a time in a folder.

    Raises:
        RecipeError: another one is running.
    """
    busy = RecipeError(f"{folder}: another rollout is running there", "wait until it ends")
    return exclusive(folder / ".lwc-rollout.lock", busy)


def live_number(place: Place) -> int | None:
    """The version that a server takes from the files; None where the model is not there."""
    path = place.front / _CONFIG
    if not path.is_file():
        return None
    served = Model(place.front, parse(path.read_text(encoding="utf-8"))).served
    return max(served) if served else None


def load_state(place: Place) -> State:
    """What the state file says; a model that was put there by hand is its one version.

    Raises:
        RecipeError: the file is of a newer lwc, or the model there has no version that a server would take.
    """
    if place.state_file.is_file():
        content = read_json(place.state_file)
        if content.get("schema") != _SCHEMA:
            raise RecipeError(f"{place.state_file}: schema {content.get('schema')}, not {_SCHEMA}", "update lwc")
        return _STATE.validate_python(content)
    if not place.front.exists():
        return State(())
    number = live_number(place)
    if number is None:
        raise RecipeError(f"{place.front}: no version of it is served", "see `lwc repo check`")
    configs = read_configs(place.folder)
    needed = callees_first(place.model, configs)[:-1]
    others = {called for name in configs if name not in (place.model, *needed) for called in calls(configs[name])}
    return State((Version(number, tuple(name for name in needed if name not in others), ""),), last=number)


def save_state(place: Place, state: State) -> None:
    """Write the state file, whole or not at all."""
    write_json(place.state_file, {"schema": _SCHEMA, "model": place.model, **asdict(state)})


def pin(place: Place, number: int) -> None:
    """Write down the live configuration as that of version ``number``, once, and make it say so.

    Under "the latest version" a version folder that is only being added would go live.
    """
    if place.config_of(number).exists():
        return
    config = parse((place.front / _CONFIG).read_text(encoding="utf-8"))
    config.version_policy.Clear()
    config.version_policy.specific.versions.append(number)
    write_whole(place.config_of(number), as_text(config).encode())
    switch(place, number)


def switch(place: Place, number: int) -> None:
    """Make a version live for whoever reads the files next: one rename."""
    write_whole(place.front / _CONFIG, place.config_of(number).read_bytes())


def check_free(place: Place, version: Version) -> None:
    """Refuse names that are taken, before anything counts as ours.

    Raises:
        RecipeError: something lies where a model of this version would.
    """
    for name in version.models:
        if os.path.lexists(place.folder / name):
            raise RecipeError(f"{place.folder / name} is there already and is not lwc's", "move it away")
        place.child(name)


def stage(place: Place, repository: Path, version: Version, renamed: Mapping[str, str]) -> None:
    """Copy the models of ``repository`` under their new names and build the front, all in the staging folder."""
    sweep(place)
    staging = place.staging
    staging.mkdir()
    if staging.stat().st_dev != place.folder.stat().st_dev:
        staging.rmdir()
        raise RecipeError(f"{place.folder} is empty and a mount of its own", "deploy to a folder below it")
    for old, new in renamed.items():
        shutil.copytree(repository / old, staging / new, ignore=shutil.ignore_patterns("__pycache__"))
        config = parse((staging / new / _CONFIG).read_text(encoding="utf-8"))
        config.name = new
        for step in config.ensemble_scheduling.step:
            step.model_name = renamed[step.model_name]
        for key in _CALLS:
            if key in config.parameters:
                called = config.parameters[key]
                called.string_value = renamed[called.string_value]
        (staging / new / _CONFIG).write_text(as_text(config), encoding="utf-8")
    served = version.models[-1]
    front = _front(place.model, version.number, served, parse((staging / served / _CONFIG).read_text("utf-8")))
    folder = staging / place.model / str(version.number)
    folder.mkdir(parents=True)
    for path in (folder, folder.parent):
        (path / _CONFIG).write_text(as_text(front), encoding="utf-8")


def bring_in_front(place: Place, version: Version) -> None:
    """Move the staged front in: as a version that is not live yet, or, where there was none, as the live one."""
    staged = place.staging / place.model
    if place.front.exists():
        (staged / str(version.number)).rename(place.front / str(version.number))
    else:
        staged.rename(place.front)


def park(place: Place, version: Version) -> None:
    """Move a version's models to where no server looks."""
    parked = place.parked(version)
    parked.mkdir(exist_ok=True)
    for name in reversed(version.models):  # never one whose callees are gone
        if place.child(name).is_dir():
            place.child(name).rename(parked / name)


def bring_in(place: Place, version: Version, source: Path) -> None:
    """Move a version's models beside the live ones, from the staging folder or from where they are parked."""
    for name in version.models:
        if not place.child(name).is_dir():
            (source / name).rename(place.child(name))


def remove(place: Place, version: Version) -> None:
    """Take a version away that nothing calls: out of the server's sight by renames first, then deleted.

    The front goes with its only version.
    """
    alone = live_number(place) == version.number
    trash = (place.outside if alone else place.staging) / "trash"
    trash.mkdir(parents=True, exist_ok=True)
    folders = [place.front if alone else place.front / str(version.number)]
    folders += [place.child(name) for name in reversed(version.models)]
    for folder in folders:
        if folder.is_dir():
            folder.rename(trash / folder.name)
    sweep(place)


def sweep(place: Place) -> None:
    """Delete what was staged and not brought in, and what was thrown away."""
    for folder in (place.outside, place.front / ".lwc-staging"):
        if folder.is_dir():
            shutil.rmtree(folder)


def _front(model: str, number: int, served: str, config: pb.ModelConfig) -> pb.ModelConfig:
    """An ensemble named ``model`` whose one step is ``served``."""
    if config.model_transaction_policy.decoupled or config.HasField("sequence_batching"):
        raise RecipeError(f"{model}: decoupled and sequence models cannot be switched", "deploy it by hand")
    front = pb.ModelConfig(name=model, platform="ensemble", max_batch_size=config.max_batch_size)
    front.version_policy.specific.versions.append(number)
    step = front.ensemble_scheduling.step.add(model_name=served, model_version=-1)
    for tensor in config.input:
        front.input.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, optional=tensor.optional)
        step.input_map[tensor.name] = tensor.name
    for tensor in config.output:
        front.output.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        step.output_map[tensor.name] = tensor.name
    if EXAMPLE in config.parameters:
        front.parameters[EXAMPLE].CopyFrom(config.parameters[EXAMPLE])
    return front
