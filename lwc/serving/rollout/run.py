"""Put a new version beside the live one, try it, switch to it, and go back: docs/decisions/0012-rollout.md.

Every step is one rename in the folder that the server reads. Killed between any two, the folder is a repository that
Triton loads, with the old version live or the new one, and the same command can be run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from lwc.core.errors import GATE_FAILED, RecipeError, ServingError
from lwc.serving.loadtest.samples import read_samples
from lwc.serving.rollout import versions as files
from lwc.serving.rollout.canary import Limits, faults, measure
from lwc.serving.rollout.clients import check_clients, text_wire
from lwc.serving.rollout.control import LOAD_SECONDS, Control, connect
from lwc.serving.rollout.packaged import Packaged, names_of, read_repository
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


def deploy(
    repository: Path, target: Target, samples: Path | None = None, limits: Limits | None = None,
    say: Say = lambda text: None, name: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Make ``repository`` the live version of its model in ``target``; returns model, version, previous and check.

    With ``name`` it becomes a version of the model of that name, whatever it was packaged as.

    With samples, the new version is asked them beside the live one before the switch, under a name of its own.

    Raises:
        RecipeError, ModelError: the repository or the folder cannot be used, the options contradict each other, or
            clients of the live version would be refused by the new one.
        ServingError: the new version does not load or is past a limit (exit 3): the live one is as it was.
    """
    limits = limits or Limits()
    if limits != Limits() and samples is None:
        raise RecipeError("a limit needs texts to measure it on", "give --samples")
    if samples is not None and target.url is None:
        raise RecipeError("samples need a server that answers them", "give --url")
    packaged = read_repository(repository, say)
    model, models = name or packaged.model, packaged.models
    rows = _read_labelled(samples, packaged, say) if samples is not None else []
    target.folder.mkdir(parents=True, exist_ok=True)
    if repository.resolve().is_relative_to(target.folder.resolve()):
        raise RecipeError(f"{repository} is inside {target.folder}", "deploy from another folder")
    check: dict[str, Any] | None = None
    with _begin(target, model, say) as rollout:
        check_clients(rollout.place, packaged.config, repository)
        live, last = rollout.live(), rollout.state.last
        digest = files.digest_of(repository, models)
        if live is not None and live.digest == digest:
            unchecked = ": its samples and limits are not checked again" if rows else ""
            say(f"version {live.number} of {model} has these files already{unchecked}")
            new = live
            rollout.switch(live, live)
        else:
            number = 1 + max([last, *(int(p.name) for p in rollout.place.front.glob("*") if p.name.isdecimal())])
            new = Version(number, names_of(model, models, number), digest)
            renamed = dict(zip(models, new.models, strict=True))
            asked = rollout.asked(new, live, packaged.config, rows)
            check = rollout.add(new, repository, renamed, lambda: rollout.check(new, asked, rows, limits))
        older = [version for version in rollout.state.versions if version not in (live, new)]
        versions = (*older, *([live] if live not in (None, new) else []), new)
        rollout.retire(State(versions, last=max(last, new.number)))
        say(f"version {new.number} of {model} is live")
    previous = rollout.state.versions[-2].number if len(rollout.state.versions) > 1 else None
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
    model = model or names[0]
    with _begin(target, model, say) as rollout:
        live = rollout.live()
        others = [version for version in rollout.state.versions if version is not live]
        if live is None or not others:
            raise RecipeError(f"{model} has no version to go back to", "deploy one")
        rollout.save(replace(rollout.state, versions=(*others[:-1], live, others[-1])))
        rollout.switch(live, others[-1])
        rollout.retire(rollout.state)
        say(f"version {others[-1].number} of {model} is live again, instead of {live.number}")
    return {"model": model, "version": others[-1].number, "previous": live.number}


def _read_labelled(samples: Path, packaged: Packaged, say: Say) -> list[Sample]:
    rows = read_samples(samples, text_wire(packaged.config, packaged.model), say)
    if any(sample.label is None for sample in rows):
        raise RecipeError(f"{samples}: the texts have no label", "add the column label, by which answers are judged")
    return rows


@contextmanager
def _begin(target: Target, model: str, say: Say) -> Iterator[_Rollout]:
    """The one rollout in the folder, after what a killed one left was brought to an end."""
    place = Place(target.folder, model)
    with files.locked(target.folder):
        control = None if target.url is None else connect(target.url, target.key, target.seconds)
        rollout = _Rollout(place, files.load_state(place), control, say)
        rollout.recover()
        yield rollout


@dataclass
class _Rollout:
    """The versions of one model, and the server that is told of them where there is one."""

    place: Place
    state: State
    control: Control | None
    say: Say

    def save(self, state: State) -> None:
        self.state = state
        files.save_state(self.place, state)

    def live(self) -> Version | None:
        number = files.live_number(self.place)
        found = next((version for version in self.state.versions if version.number == number), None)
        if found is None and (number is not None or self.state.versions):
            raise RecipeError(
                f"{self.place.front}: version {number} is live, which {self.place.state_file} does not know",
                "someone changed the folder by hand: put it back, or remove that file to begin anew with what is there",
            )
        return found

    def recover(self) -> None:
        """Bring a rollout that was killed to an end: what it added is live, or goes."""
        state, adding = self.state, self.state.adding
        if adding is not None:
            if files.live_number(self.place) == adding.number:
                state = replace(state, versions=(*state.versions, adding))
            else:
                self.take_away(adding)
            self.save(replace(state, adding=None))
        files.sweep(self.place)

    def add(
        self, new: Version, repository: Path, renamed: dict[str, str], check: Callable[[], dict[str, Any] | None]
    ) -> dict[str, Any] | None:
        """Bring the new version in, load and check it, switch to it; whatever fails, take it away again."""
        place, live, checked = self.place, self.live(), None
        files.check_free(place, new)
        before = replace(self.state, last=new.number)
        self.save(replace(before, adding=new))
        try:
            if live is not None:
                files.pin(place, live.number)
            files.stage(place, repository, new, renamed)
            files.bring_in(place, new, place.staging)
            if self.control is not None:
                self.say(f"loading version {new.number} of {place.model}")
                self.load(new)
                checked = check()
            files.bring_in_front(place, new)
            self.switch(live, new)
        except BaseException:
            if live is not None and files.live_number(place) == new.number:
                raise  # not even going back worked: the next run goes on from here
            try:
                self.take_away(new)
            except ServingError as problem:  # what led here says more
                self.say(f"not unloaded: {problem}")
            self.save(before)
            raise
        return checked

    def asked(
        self, new: Version, live: Version | None, config: pb.ModelConfig, samples: list[Sample]
    ) -> dict[str, TextWire]:
        """How the new version, which has ``config``, and the live one are asked about samples; empty without any.

        Raises:
            RecipeError: the live one does not take what the samples have.
        """
        if not samples:
            return {}
        found = {new.models[-1]: text_wire(config, new.models[-1])}
        if live is not None:
            model = self.place.model
            found[model] = text_wire(files.read_configs(self.place.folder)[model], model)
            if found[model].title is None and any(isinstance(one.question, dict) for one in samples):
                raise RecipeError(
                    f"the samples have titles, and the live version of {model} takes none",
                    "give samples with title and body in the column text, joined as README.md in the repository says",
                )
        return found

    def check(
        self, new: Version, asked: dict[str, TextWire], samples: list[Sample], limits: Limits
    ) -> dict[str, Any] | None:
        """The new version on the samples, beside the live one; None without samples or a server."""
        if not samples or self.control is None:
            return None
        model, live = self.place.model, len(asked) > 1
        if not live:
            self.say("no live version to compare with: agreement and latency are not checked")
        measured = measure(self.control.url, asked, samples)
        found = faults(measured, limits)
        if found:
            raise ServingError(
                f"version {new.number} of {model} is not made live:\n  " + "\n  ".join(found),
                "the live version serves on; nothing of the new one is left" if live else "nothing of it is left",
                GATE_FAILED,
            )
        return measured

    def load(self, version: Version) -> None:
        if self.control is not None:
            for name in version.models:
                self.control.load(name)

    def unload(self, version: Version) -> None:
        if self.control is not None:
            for name in reversed(version.models):
                self.control.unload(name)

    def take_away(self, version: Version) -> None:
        """Unload and delete a version that nothing calls, with the front where it is the only one."""
        try:
            if self.control is not None and files.live_number(self.place) == version.number:
                self.control.unload(self.place.model)
            self.unload(version)
        finally:
            files.remove(self.place, version)

    def switch(self, live: Version | None, new: Version) -> None:
        """Make ``new``, whose front is in, the live version; where the server does not load it, ``live`` stays."""
        place = self.place
        files.bring_in(place, new, place.parked(new))
        self.load(new)
        files.switch(place, new.number)
        if self.control is None:
            return
        try:
            self.control.load(place.model, new.number)
        except BaseException:
            if live is not None:
                files.switch(place, live.number)
                self.control.load(place.model, live.number)
            raise

    def retire(self, state: State) -> None:
        """Unload and park what is not live, once its last request is answered; only the last of it is kept."""
        self.save(state)
        kept = state.versions[-_KEPT:]
        for version in state.versions[:-1]:
            if self.control is not None:
                self.control.wait_for_end_of(self.place.model, version.number)
            self.unload(version)
            (files.park if version in kept else files.remove)(self.place, version)
        files.sweep(self.place)
        self.save(replace(state, versions=kept))
