"""Put a new version beside the live one, try it, switch to it, and go back: docs/decisions/0012-rollout.md.

Every step is one rename in the folder that the server reads. Killed between any two, the folder is a repository that
Triton loads, with the old version live or the new one, and the same command can be run again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lwc.core.errors import GATE_FAILED, RecipeError, ServingError
from lwc.serving.checks.run import check_repository
from lwc.serving.loadtest.samples import read_samples
from lwc.serving.rollout import versions as files
from lwc.serving.rollout.canary import Limits, faults, measure
from lwc.serving.rollout.control import LOAD_SECONDS, Control, connect
from lwc.serving.rollout.versions import Place, State, Version
from lwc.tasks.endpoint import Sample
from lwc.tasks.text_wire import TextWire

Say = Callable[[str], None]
# The live version and the one to go back to.
_KEPT = 2


@dataclass(frozen=True)
class Target:
    """Where to deploy: the repository folder that a server reads, and that server where it is to be told.

    ``url`` is ``host:port`` of its HTTP interface and ``key`` opens its repository interface; ``seconds`` bounds the
    wait for one model. Without a URL only files change, for the next start of a server.
    """

    folder: Path
    url: str | None = None
    key: str = ""
    seconds: float = LOAD_SECONDS


@dataclass(frozen=True)
class _Source:
    """Where a new version comes from, its models' new names, and what it must answer before it is made live."""

    repository: Path
    renamed: dict[str, str]
    samples: list[Sample]
    limits: Limits


def deploy(
    repository: Path, target: Target, samples: Path | None = None, limits: Limits | None = None,
    say: Say = lambda text: None,
) -> dict[str, Any]:  # fmt: skip
    """Make ``repository`` the live version of its model in ``target``; returns model, version, previous and check.

    With samples, the new version is asked them beside the live one before the switch, under a name of its own.

    Raises:
        RecipeError, ModelError: the repository or the folder cannot be used, or the options contradict each other.
        ServingError: the new version does not load or is past a limit (exit 3): the live one is as it was.
    """
    limits = limits or Limits()
    if limits.any and samples is None:
        raise RecipeError("a limit needs texts to measure it on", "give --samples")
    if samples is not None and target.url is None:
        raise RecipeError("samples need a server that answers them", "give --url")
    rows = read_samples(samples, TextWire()) if samples is not None else []
    model, models = _read_repository(repository, say)
    target.folder.mkdir(parents=True, exist_ok=True)
    if repository.resolve().is_relative_to(target.folder.resolve()):
        raise RecipeError(f"{repository} lies in {target.folder} itself", "deploy from another folder")
    place = Place(target.folder, model)
    check: dict[str, Any] | None = None
    with files.locked(target.folder):
        control = _connect(target)
        state = _recover(place, files.load_state(place), control)
        digest = files.digest_of(repository, models)
        live = _live(place, state)
        if live is not None and live.digest == digest:
            say(f"version {live.number} of {model} is this repository already")
            new = live
            _switch(place, live, live, control)
        else:
            number = 1 + max([state.last, *(int(p.name) for p in place.front.glob("*") if p.name.isdecimal())])
            new = Version(number, tuple(f"{name}-v{number}" for name in models), digest)
            source = _Source(repository, dict(zip(models, new.models, strict=True)), rows, limits)
            check = _add(place, state, new, source, control, say)
        older = [version for version in state.versions if version not in (live, new)]
        state = State((*older, *([live] if live not in (None, new) else []), new), last=max(state.last, new.number))
        state = _retire(place, state, control)
        say(f"version {new.number} of {model} is live")
    previous = state.versions[-2].number if len(state.versions) > 1 else None
    return {"model": model, "version": new.number, "previous": previous, "check": check}


def rollback(target: Target, model: str | None = None, say: Say = lambda text: None) -> dict[str, Any]:
    """Make the version before the live one live again; once more, and the one that was left is back.

    Raises:
        RecipeError: nothing was deployed there, several models were and none is named, or there is no other version.
        ServingError: the version does not load; the live one is as it was.
    """
    names = sorted(path.name[13:-5] for path in target.folder.glob(".lwc-rollout-*.json"))
    if model is None and len(names) != 1:
        raise RecipeError(f"{target.folder}: deployed models: {', '.join(names) or 'none'}", "name one with --model")
    if model is not None and model not in names:
        raise RecipeError(f"{target.folder}: {model} was not deployed there", f"deployed: {', '.join(names) or 'none'}")
    place = Place(target.folder, model or names[0])
    with files.locked(target.folder):
        control = _connect(target)
        state = _recover(place, files.load_state(place), control)
        live = _live(place, state)
        others = [version for version in state.versions if version is not live]
        if live is None or not others:
            raise RecipeError(f"{place.model} has no version to go back to", "deploy one")
        state = replace(state, versions=(*others[:-1], live, others[-1]))
        files.save_state(place, state)
        _switch(place, live, others[-1], control)
        _retire(place, state, control)
        say(f"version {others[-1].number} of {place.model} is live again, instead of {live.number}")
    return {"model": place.model, "version": others[-1].number, "previous": live.number}


def _read_repository(repository: Path, say: Say) -> tuple[str, list[str]]:
    """The model that clients call, and all models, those that others call first."""
    for line in check_repository(repository):
        say(line)
    configs = files.read_configs(repository)
    called = {name for config in configs.values() for name in files.calls(config)}
    public = [name for name in configs if name not in called]
    if len(public) != 1:
        raise RecipeError(
            f"{repository}: {len(public)} models that no other calls ({', '.join(public)}); there must be one",
            "deploy models that do not belong together from folders of their own",
        )
    return public[0], files.callees_first(public[0], configs)


def _connect(target: Target) -> Control | None:
    return None if target.url is None else connect(target.url, target.key, target.seconds)


def _live(place: Place, state: State) -> Version | None:
    number = files.live_number(place)
    found = next((version for version in state.versions if version.number == number), None)
    if found is None and (number is not None or state.versions):
        raise RecipeError(
            f"{place.front}: version {number} is live, which {place.state_file} does not know",
            "someone changed the folder by hand: put it back, or remove that file to begin anew with what is there",
        )
    return found


def _recover(place: Place, state: State, control: Control | None) -> State:
    """Bring a rollout that was killed to an end: what it added is live, or goes."""
    adding = state.adding
    if adding is not None:
        state = replace(state, adding=None)
        if files.live_number(place) == adding.number:
            state = replace(state, versions=(*state.versions, adding))
        else:
            _take_away(place, adding, control)
        files.save_state(place, state)
    files.sweep(place)
    return state


def _add(
    place: Place, state: State, new: Version, source: _Source, control: Control | None, say: Say
) -> dict[str, Any] | None:
    """Bring the new version in, load and check it, switch to it; whatever fails, take it away again."""
    live = _live(place, state)
    files.check_free(place, new)
    files.save_state(place, replace(state, adding=new, last=new.number))
    try:
        if live is not None:
            files.pin(place, live.number)
        files.stage(place, source.repository, new, source.renamed)
        files.bring_in(place, new, place.staging)
        check = None
        if control is not None:
            say(f"loading version {new.number} of {place.model}")
            _load(new, control)
            if source.samples:
                check = _check(place, new, live, control, source, say)
        files.bring_in_front(place, new)
        _switch(place, live, new, control)
    except BaseException:
        if live is not None and files.live_number(place) == new.number:
            raise  # not even going back worked: the next run goes on from here
        try:
            _take_away(place, new, control)
        except ServingError as problem:  # what led here says more
            say(f"not unloaded: {problem}")
        files.save_state(place, replace(state, last=new.number))
        raise
    return check


def _take_away(place: Place, version: Version, control: Control | None) -> None:
    """Unload and delete a version that nothing calls, with the front where it is the only one."""
    try:
        if control is not None:
            if files.live_number(place) == version.number:
                control.unload(place.model)
            for name in reversed(version.models):
                control.unload(name)
    finally:
        files.remove(place, version)


def _check(
    place: Place, new: Version, live: Version | None, control: Control, source: _Source, say: Say
) -> dict[str, Any]:
    if live is None:
        say("no live version to compare with: agreement and latency are not checked")
    measured = measure(control.url, new.models[-1], place.model if live else None, source.samples)
    found = faults(measured, source.limits)
    if found:
        raise ServingError(
            f"version {new.number} of {place.model} is not made live:\n  " + "\n  ".join(found),
            "the live version serves on; nothing of the new one is left" if live else "nothing of it is left",
            GATE_FAILED,
        )
    return measured


def _load(version: Version, control: Control) -> None:
    for name in version.models:
        control.load(name)


def _switch(place: Place, live: Version | None, new: Version, control: Control | None) -> None:
    """Make ``new``, whose front is in, the live version; where the server does not load it, ``live`` stays."""
    files.bring_in(place, new, place.parked(new))
    if control is not None:
        _load(new, control)
    files.switch(place, new.number)
    if control is None:
        return
    try:
        control.load(place.model, new.number)
    except BaseException:
        if live is not None:
            files.switch(place, live.number)
            control.load(place.model, live.number)
        raise


def _retire(place: Place, state: State, control: Control | None) -> State:
    """Unload and park what is not live, once its last request is answered; only the last of it is kept."""
    files.save_state(place, state)
    for version in state.versions[:-1]:
        if control is not None:
            control.wait_for_end_of(place.model, version.number)
            for name in reversed(version.models):
                control.unload(name)
        if version in state.versions[-_KEPT:]:
            files.park(place, version)
        else:
            files.remove(place, version)
    files.sweep(place)
    state = replace(state, versions=state.versions[-_KEPT:])
    files.save_state(place, state)
    return state
