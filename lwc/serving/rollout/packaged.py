"""A repository to deploy: which of its models clients call, and what its models are called once deployed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from lwc.core.errors import RecipeError
from lwc.serving.checks.run import check_repository
from lwc.serving.rollout.versions import callees_first, calls, read_configs


@dataclass(frozen=True)
class Packaged:
    """The model that clients call and its configuration; all models, those that others call first."""

    model: str
    config: pb.ModelConfig
    models: list[str]


def read_repository(repository: Path, say: Callable[[str], None]) -> Packaged:
    """Check a repository and read its configurations.

    Raises:
        ModelError: a server would refuse it.
        RecipeError: it has several models that no other calls, or none.
    """
    for line in check_repository(repository):
        say(line)
    configs = read_configs(repository)
    called = {name for config in configs.values() for name in calls(config)}
    public = [name for name in configs if name not in called]
    if len(public) != 1:
        raise RecipeError(
            f"{repository}: {len(public)} models that no other calls ({', '.join(public)}); there must be one",
            "deploy unrelated models from separate folders",
        )
    return Packaged(public[0], configs[public[0]], callees_first(public[0], configs))


def names_of(live: str, models: Sequence[str], number: int) -> tuple[str, ...]:
    """Names that ``models``, of which clients call the last, have as version ``number`` of ``live``.

    A name that begins with that model's, such as NAME_tokens, begins with the live name instead: version 7 of two
    recipes that are deployed as one model has the same names.

    Raises:
        RecipeError: two would have one name.
    """
    public = models[-1]
    found = tuple(f"{live + one.removeprefix(public) if one.startswith(public) else one}-v{number}" for one in models)
    if len(set(found)) < len(found):
        raise RecipeError(f"as {live}, models would have one name: {', '.join(found)}", "choose another --as NAME")
    return found
