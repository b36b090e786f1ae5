"""What a stage is, and what its function gets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwc.core.machine import versions
from lwc.recipe import Recipe


@dataclass(frozen=True)
class StageContext:
    """What a stage function gets: read ``inputs``, fill ``out``; ``scratch`` survives a kill.

    ``answers`` is where the uncut model's answers are shared with other runs of the same base, if with any; ``ahead``
    are this stage and those that the run makes or reuses after it.
    """

    recipe: Recipe
    inputs: Mapping[str, Path]
    out: Path
    scratch: Path
    progress: Callable[[str], None]
    answers: Path | None = None
    ahead: Collection[str] = (
        "train",
        "score",
        "select",
        "remove",
        "recover",
        "evaluate",
        "export",
        "package",
        "verify",
    )


# Settings that change no stage's result. Plans are built by `lwc export`.
_WITHOUT_EFFECT: dict[str, set[str]] = {
    "export": {"tensorrt"},
    "train": {"checkpoint_every"},
    "recover": {"checkpoint_every"},
}


@dataclass(frozen=True)
class Stage:
    """One row of the line. ``sections`` are the recipe sections its result depends on.

    Where several processes run the line (`lwc.core.distributed`), all of them make a ``shared`` stage, and the
    main one's ``out`` is kept; any other stage is made by the main process alone. No key covers the ``account`` of
    another: where rows came from, how long it took. Only uncached stages read it. ``purpose`` says what the stage does,
    in half a line (`lwc.pipeline.purposes`).
    """

    name: str
    version: int
    inputs: tuple[str, ...]
    sections: tuple[str, ...]
    function: Callable[[StageContext], None]
    libraries: tuple[str, ...] = ()
    external: Callable[[Recipe], dict[str, str]] = lambda recipe: {}
    cached: bool = True
    shared: bool = False
    account: tuple[str, ...] = ()
    purpose: Callable[[Recipe, Mapping[str, Path]], str] = lambda recipe, inputs: ""

    def config(self, recipe: Recipe) -> dict[str, Any]:
        """The resolved settings that this stage's result depends on."""
        dumped = recipe.model_dump(mode="json", exclude=_WITHOUT_EFFECT)
        return {**{name: dumped[name] for name in self.sections}, "task": recipe.task.key(self.name)}

    def library_versions(self) -> dict[str, str | None]:
        """Versions that may change the result."""
        return versions(self.libraries)
