"""Requests that Triton sends a model before it calls it ready: a wrong one keeps the server from starting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lwc.serving.checks.layout import escapes
from lwc.serving.checks.model import Finding, Model, type_name

# Types that token ids come in.
_WHOLE = ("TYPE_INT32", "TYPE_INT64", "TYPE_UINT32", "TYPE_UINT64")


def check_warm_up(model: Model) -> Iterator[Finding]:
    """Every ``model_warmup`` against the inputs of the same configuration."""
    config = model.config
    if model.is_ensemble:
        if config.model_warmup:
            yield model.error("model_warmup on an ensemble", "warm up the models of its steps")
        return
    inputs = {entry.name: entry for entry in config.input}
    for warm_up in config.model_warmup:
        where = f"model_warmup {warm_up.name!r}:"
        # Triton 2.51 does not refuse this one, it crashes.
        if warm_up.batch_size > max(config.max_batch_size, 1):
            yield model.error(
                f"{where} batch_size {warm_up.batch_size} is above max_batch_size {config.max_batch_size}", "lower it"
            )
        unknown = sorted(set(warm_up.inputs) - set(inputs))
        # Sequence models get inputs that no client sends.
        required = {name for name, entry in inputs.items() if not entry.optional}
        missing = [] if config.HasField("sequence_batching") else sorted(required - set(warm_up.inputs))
        if unknown or missing:
            yield model.error(
                f"{where} its inputs are {sorted(warm_up.inputs)}, the model's {sorted(inputs)}",
                "name the model's inputs",
            )
        for name in sorted(set(warm_up.inputs) & set(inputs)):
            yield from _input(model, f"{where} input {name}:", warm_up.inputs[name], inputs[name])


def _input(model: Model, where: str, given: Any, entry: Any) -> Iterator[Finding]:
    if given.data_type != entry.data_type:
        yield model.error(
            f"{where} {type_name(given.data_type)}, the model's is {type_name(entry.data_type)}", "use the model's"
        )
    wanted, dims = list(entry.dims), list(given.dims)
    if len(dims) != len(wanted) or any(b not in (-1, a) for a, b in zip(dims, wanted, strict=True)):
        yield model.error(f"{where} dims {dims}, the model's are {wanted}", "give a shape that the model takes")
    elif any(size < 1 for size in dims):
        yield model.error(f"{where} dims {dims}", "give every size a number")
    source = given.WhichOneof("input_data_type")
    if source is None:
        yield model.error(f"{where} says nothing of its values", "add zero_data: true")
    elif source == "input_data_file":
        file = model.folder / "warmup" / given.input_data_file
        if escapes(given.input_data_file):
            yield model.error(f"{where} {given.input_data_file!r} leads out of warmup/", "name a file in it")
        elif not file.is_file():
            yield model.error(f"{where} its input_data_file: no such file", "add it", file)
    elif source == "random_data" and type_name(given.data_type) in _WHOLE:
        yield model.warning(
            f"{where} random_data of {type_name(given.data_type)}: where they are ids they can leave the vocabulary",
            "write zero_data: true",
        )
