"""Ensembles: every step names a model that is there, and every tensor has one source, a type and a use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TypeAlias

from tritonclient.grpc import model_config_pb2 as pb

from lwc.serving.checks.model import Finding, Model, Repository, Tensor, type_name


@dataclass(frozen=True)
class _End:
    """One end of a tensor of an ensemble: whose input or output it is, and what that one's configuration says."""

    owner: Model
    entry: Tensor

    @property
    def text(self) -> str:
        return f"{type_name(self.entry.data_type)} in {self.owner.name}"


_Ends: TypeAlias = dict[str, list[_End]]


def check_ensemble(model: Model, repository: Repository) -> Iterator[Finding]:
    """An ensemble against the models of its steps."""
    config, models = model.config, repository.models
    if config.platform != "ensemble":
        yield model.error('ensemble_scheduling without platform: "ensemble"', 'add platform: "ensemble"')
    if config.instance_group:
        yield model.error("instance_group on an ensemble", "set it on the models of its steps")
    if not config.ensemble_scheduling.step:
        yield model.error("an ensemble without a step", "add ensemble_scheduling { step { ... } }")
        return
    produced = {entry.name: [_End(model, entry)] for entry in config.input}
    used = {entry.name: [_End(model, entry)] for entry in config.output}
    broken = False
    for number, step in enumerate(config.ensemble_scheduling.step):
        where = f"step {number} ({step.model_name}):"
        called = models.get(step.model_name)
        if called is not None and not (called.config.input and called.config.output) and called.graph is not None:
            broken = True  # they are left to the server, which is told of that model
            continue
        if called is None:
            broken = True
            if any(step.model_name == path.name for path in model.folder.parent.iterdir()):
                continue  # its own fault was told
            yield model.error(f"{where} no such model in the repository", f"there are {sorted(models)}")
            continue
        faults = [*_step(model, where, step, called), *_maps(model, where, step, called, produced, used)]
        broken = broken or bool(faults)
        yield from faults
    # What a step that is wrong would have made or used is not known.
    if not broken:
        yield from _flow(model, produced, used)


def _step(model: Model, where: str, step: pb.ModelEnsembling.Step, called: Model) -> Iterator[Finding]:
    if step.model_version not in (-1, *called.served):
        said = step.model_version or "not set, which means 0"
        yield model.error(
            f"{where} its model_version is {said}, served are {sorted(called.served)}",
            "write model_version: -1 for the latest",
        )
    ours, theirs = model.config.max_batch_size, called.config.max_batch_size
    if ours > theirs > 0:
        yield model.error(
            f"{where} max_batch_size is {theirs} there, {ours} in the ensemble", f"write max_batch_size: {theirs}"
        )


def _maps(
    model: Model, where: str, step: pb.ModelEnsembling.Step, called: Model, produced: _Ends, used: _Ends
) -> Iterator[Finding]:
    """Faults of a step's maps; fills in the ends of the ensemble's tensors that it makes and uses."""
    sides = (
        ("input", step.input_map, called.config.input, used),
        ("output", step.output_map, called.config.output, produced),
    )
    for kind, mapping, declared, ends in sides:
        entries = {entry.name: entry for entry in declared}
        for name, tensor in sorted(mapping.items()):
            if name not in entries:
                yield model.error(
                    f"{where} {called.name} has no {kind} {name!r}, its {kind}s are {sorted(entries)}",
                    f"map one of its {kind}s",
                )
            else:
                ends.setdefault(tensor, []).append(_End(called, entries[name]))
    required = {entry.name for entry in called.config.input if not entry.optional}
    missing = sorted(required - set(step.input_map))
    if missing and set(step.input_map) <= {entry.name for entry in called.config.input}:
        yield model.error(f"{where} input_map lacks {missing}", "map every input of the model")
    if not step.output_map:
        yield model.error(f"{where} no output_map", "map the outputs that are used")


def _flow(model: Model, produced: _Ends, used: _Ends) -> Iterator[Finding]:
    outputs = {entry.name for entry in model.config.output}
    inputs = {entry.name for entry in model.config.input}
    unmade = sorted(set(used) - set(produced))
    for tensor in unmade:
        kind = "output" if tensor in outputs else "tensor"
        yield model.error(f"{kind} {tensor!r} is made by no step and is no input", f"made are {sorted(produced)}")
    # A name written wrong is one fault, not also that the right one goes unused.
    for tensor in sorted(set(produced) - set(used)) if not unmade else ():
        kind = "input" if tensor in inputs else "tensor"
        yield model.error(f"{kind} {tensor!r} is used by no step and is no output", "drop it, or use it")
    for tensor, sources in sorted(produced.items()):
        if len(sources) > 1:
            yield model.error(f"tensor {tensor!r} is made {len(sources)} times", "give each its own name")
        for end in used.get(tensor, []):
            yield from _agree(model, tensor, sources[0], end)
    if not unmade:
        yield from _order(model)


def _agree(model: Model, tensor: str, source: _End, end: _End) -> Iterator[Finding]:
    if 0 not in (source.entry.data_type, end.entry.data_type) and source.entry.data_type != end.entry.data_type:
        yield model.error(f"tensor {tensor!r}: {source.text}, {end.text}", "make the types of both models equal")
    # Triton compares no shapes between a model that batches and one that does not.
    if (source.owner.config.max_batch_size > 0) != (end.owner.config.max_batch_size > 0):
        return
    made, taken = list(source.entry.dims), list(end.entry.dims)
    if not made or not taken or 0 in (*made, *taken):
        return  # no shape at all, which is told of its own model
    if len(made) != len(taken) or any(a != b and -1 not in (a, b) for a, b in zip(made, taken, strict=True)):
        yield model.error(
            f"tensor {tensor!r}: dims {made} in {source.owner.name}, {taken} in {end.owner.name}",
            "make the shapes of both models equal",
        )


def _order(model: Model) -> Iterator[Finding]:
    """Steps that wait for one another."""
    ready = {entry.name for entry in model.config.input}
    waiting = dict(enumerate(model.config.ensemble_scheduling.step))
    while able := [number for number, step in waiting.items() if ready.issuperset(step.input_map.values())]:
        for number in able:
            ready |= set(waiting.pop(number).output_map.values())
    if waiting:
        names = ", ".join(f"{number} ({step.model_name})" for number, step in waiting.items())
        yield model.error(f"steps {names} wait for one another's tensors: a cycle", "let one step begin")


def check_cycles(models: Mapping[str, Model]) -> Iterator[Finding]:
    """Ensembles that come back to themselves through their steps; each is told once, of its first ensemble."""
    calls = {
        name: sorted({step.model_name for step in model.config.ensemble_scheduling.step} & set(models))
        for name, model in sorted(models.items())
    }
    while True:
        try:
            TopologicalSorter(calls).prepare()
        except CycleError as error:
            # From callee to caller, its ends the same; told from its first ensemble on.
            cycle = error.args[1][:0:-1]
            at = cycle.index(min(cycle))
            chain = [*cycle[at:], *cycle[: at + 1]]
            calls[chain[-2]].remove(chain[-1])
            yield models[chain[0]].error(
                f"an ensemble that calls itself: {' → '.join(chain)}", "let one step call another model"
            )
        else:
            return
