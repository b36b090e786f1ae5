"""What would fail a run late, checked before its first stage that costs time. Imports torch only to read a model."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lwc.core.errors import MissingDependency
from lwc.pipeline.destination import check_destination, destinations
from lwc.recipe import LlamaProfile, LlmExpert, Pretrained, Recipe, Single

if TYPE_CHECKING:
    from lwc.tasks.task import Checkpoint

SERVING = {
    "tritonclient": "tritonclient",
    "locust": "locust",
    "prometheus-client": "prometheus_client",
}
"""Packages that packaging and verification need, and the modules they install."""


@dataclass(frozen=True)
class Subject:
    """What checks look at: the recipe, the stages still to run, and what the run has so far.

    Args:
        place: where the stages write.
        models: where the repository is published.
        data: folder of the data stage.
        base: the model and its reader; before the train stage, perhaps without weights.
    """

    recipe: Recipe
    stages: Collection[str]
    place: Path | None = None
    models: Path | None = None
    data: Path | None = None
    base: Checkpoint | None = None


@dataclass(frozen=True)
class Check:
    """One check: ``function`` raises an `LwcError`. ``stages`` fail without it, ``asked`` whether a recipe needs it."""

    title: str
    stages: tuple[str, ...]
    function: Callable[[Subject], None]
    asked: Callable[[Recipe], bool] = lambda recipe: True


def run_checks(checks: Sequence[Check], subject: Subject, say: Callable[[str], None] = lambda title: None) -> None:
    """Run the checks that the recipe and its stages need; ``say`` gets the title of each that passed."""
    for check in checks:
        if set(check.stages).intersection(subject.stages) and check.asked(subject.recipe):
            check.function(subject)
            say(check.title)


def require_serving(server: bool) -> None:
    """Raise `MissingDependency` where packaging, or with ``server`` the embedded server, lacks something."""
    from lwc.serving.triton import environment

    missing = [name for name, module in SERVING.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingDependency(
            f"packaging and verification need packages that are not installed: {', '.join(missing)}",
            "pip install 'lwc[serve]', or stop earlier with --until export",
        )
    if server and environment.existing() is None:
        environment.interpreter()


def serves(subject: Subject) -> bool:
    """Whether the stages start the embedded server."""
    measured = subject.recipe.package.measure_queue_delay and "package" in subject.stages
    return "verify" in subject.stages or measured


def _serving(subject: Subject) -> None:
    require_serving(serves(subject))


def _openvino(subject: Subject) -> None:
    if importlib.util.find_spec("openvino") is None:
        raise MissingDependency("export.openvino: OpenVINO is not installed", "pip install 'lwc[openvino]'")


def _trackers(subject: Subject) -> None:
    from lwc.pipeline.tracking import require_trackers

    require_trackers(subject.recipe)


def _destinations(subject: Subject) -> None:
    for place in destinations(subject.recipe, subject.models).values() if subject.models else ():
        check_destination(place)


def _floors(subject: Subject) -> None:
    for module, extra in subject.recipe.task.floor_packages.items():
        if importlib.util.find_spec(module) is None:
            raise MissingDependency(f"the floors need the package {module}", f"pip install 'lwc[{extra}]'")


def _decides(recipe: Recipe) -> LlmExpert | None:
    """The expert of the recipe, if the run fails without its answer."""
    for method in recipe.score.methods:
        if isinstance(method, LlmExpert):
            chosen = isinstance(recipe.select, Single) and recipe.select.method == method.method
            alone = not any(other.weight for other in recipe.score.methods if other is not method)
            return method if method.required or chosen or alone else None
    return None


def _expert(subject: Subject) -> None:
    from lwc.importance.llm_expert import check_key

    expert = _decides(subject.recipe)
    assert expert is not None
    check_key(expert)


def _profiles(recipe: Recipe) -> list[LlamaProfile]:
    return [method for method in recipe.score.methods if isinstance(method, LlamaProfile)]


def _depth_profile(subject: Subject) -> None:
    from lwc.models.causal import LLAMA_FAMILY, locate_causal, model_type

    for method in _profiles(subject.recipe):
        model_type(locate_causal(method.source, method.gguf_file), LLAMA_FAMILY)


def _unlabelled(subject: Subject) -> None:
    from lwc.data.source import digests_of, quiet, read_rows

    more = subject.recipe.recover.unlabelled
    assert more is not None
    digests_of(more.source)
    next(iter(read_rows(more.source, quiet)), None)  # its columns; the rest takes time


def _checkpoint(subject: Subject) -> None:
    from lwc.pipeline.before_training import SHAPE, outline

    base = outline(subject.recipe)
    if base is not None:
        run_checks(SHAPE, Subject(subject.recipe, subject.stages, base=base))


def _data(subject: Subject) -> None:
    from lwc.tasks.task import task_of

    assert subject.data is not None
    task_of(subject.recipe).check(subject.recipe, subject.data, subject.stages)


MACHINE = (
    Check("packages and system libraries that serve", ("package", "verify"), _serving),
    Check("OpenVINO", ("export",), _openvino, lambda recipe: recipe.export.openvino),
    Check("experiment trackers", ("data",), _trackers, lambda recipe: bool(recipe.tracking)),
    Check("the folders to publish to", ("verify",), _destinations),
)
"""Cheap, and of use before anything else: a run needs them even if all but its last stage are reused."""

RECIPE = (
    Check("packages of the floors", ("evaluate",), _floors, lambda recipe: bool(recipe.task.floor_packages)),
    Check("the key of llm_expert", ("score",), _expert, lambda recipe: _decides(recipe) is not None),
    Check("the model of llama_profile", ("score",), _depth_profile, lambda recipe: bool(_profiles(recipe))),
    Check(
        "the first row of recover.unlabelled", ("recover",), _unlabelled,
        lambda recipe: recipe.recover.unlabelled is not None,
    ),
    Check(
        "the checkpoint's config and tokenizer: its family, positions and blocks", ("train",), _checkpoint,
        lambda recipe: isinstance(recipe.model, Pretrained),
    ),
)  # fmt: skip
"""Before the first stage that is not reused."""

DATA = (Check("the data: labels, floors and questions", ("evaluate", "export", "package"), _data),)
"""Before the first stage after ``data`` that is not reused."""
