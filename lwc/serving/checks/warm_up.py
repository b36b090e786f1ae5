"""Every ``model_warmup`` against the inputs of the same configuration, its files, and the graph's vocabulary."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.utils import triton_to_np_dtype

from lwc.serving.checks.embeddings import rows_by_input
from lwc.serving.checks.model import Finding, Model, Repository, escapes, type_name

# Types that token ids come in.
_WHOLE = ("TYPE_INT32", "TYPE_INT64", "TYPE_UINT32", "TYPE_UINT64")


def check_warm_up(model: Model, repository: Repository) -> Iterator[Finding]:
    """A model is ready only once its warm-up ran."""
    del repository
    config = model.config
    if model.is_ensemble:
        if config.model_warmup:
            yield model.error("model_warmup on an ensemble", "warm up the models of its steps")
        return
    inputs = {entry.name: entry for entry in config.input}
    rows = rows_by_input(model.graph) if config.model_warmup and model.graph is not None else {}
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
        if inputs and (unknown or missing):  # without any, it is told that they are left to the server
            yield model.error(
                f"{where} its inputs are {sorted(warm_up.inputs)}, the model's {sorted(inputs)}",
                "name the model's inputs",
            )
        for name in sorted(set(warm_up.inputs) & set(inputs)):
            given = warm_up.inputs[name]
            yield from _shape(model, f"{where} input {name}:", given, inputs[name])
            yield from _values(model, f"{where} input {name}:", given, rows.get(name))


def _shape(model: Model, where: str, given: pb.ModelWarmup.Input, entry: pb.ModelInput) -> Iterator[Finding]:
    if given.data_type != entry.data_type:
        yield model.error(
            f"{where} {type_name(given.data_type)}, the model's is {type_name(entry.data_type)}", "use the model's"
        )
    wanted, dims = list(entry.dims), list(given.dims)
    if len(dims) != len(wanted) or any(b not in (-1, a) for a, b in zip(dims, wanted, strict=True)):
        yield model.error(f"{where} dims {dims}, the model's are {wanted}", "give a shape that the model takes")
    elif any(size < 1 for size in dims):
        yield model.error(f"{where} dims {dims}", "give every size a number")


def _values(model: Model, where: str, given: pb.ModelWarmup.Input, rows: int | None) -> Iterator[Finding]:
    """Where the values come from; ``rows`` of the table that they are looked up in, None where it is not known."""
    source = given.WhichOneof("input_data_type")
    file = model.folder / "warmup" / given.input_data_file
    if source is None:
        yield model.error(f"{where} does not specify its values", "add zero_data: true")
    elif source == "random_data" and type_name(given.data_type) in _WHOLE:
        what = f"{where} random_data of {type_name(given.data_type)}: "
        if rows is None:
            yield model.warning(f"{what}where they are ids they can leave the vocabulary", "write zero_data: true")
        else:
            yield model.error(f"{what}ids leave the embedding table, which has {rows} rows", "write zero_data: true")
    elif source == "input_data_file":
        if escapes(given.input_data_file):
            yield model.error(f"{where} {given.input_data_file!r} leads out of warmup/", "name a file in it")
        elif not file.is_file():
            yield model.error(f"{where} its input_data_file: no such file", "add it", file)
        else:
            yield from _file(model, where, given, file, rows)


def _file(model: Model, where: str, given: pb.ModelWarmup.Input, path: Path, rows: int | None) -> Iterator[Finding]:
    """A file of raw numbers: Triton reads one row of it, and repeats it for a batch."""
    name = type_name(given.data_type).removeprefix("TYPE_")
    kind = triton_to_np_dtype(name)
    if kind is None or name == "STRING" or min(given.dims, default=0) < 1:
        return
    count, item = math.prod(given.dims), np.dtype(kind).itemsize
    size = path.stat().st_size
    if size < count * item:
        yield model.error(
            f"{where} its file has {size} bytes, dims {list(given.dims)} of {name} take {count * item}",
            "write one row of raw little-endian numbers",
            path,
        )
    elif rows is not None and np.issubdtype(kind, np.integer):
        ids = np.fromfile(path, np.dtype(kind).newbyteorder("<"), count)
        # ONNX counts negative ids from the end.
        outside = ids[(ids >= rows) | (ids.astype(np.int64) < -rows)]
        if outside.size:
            yield model.error(
                f"{where} its file has id {outside[0]}, the embedding table of the graph has {rows} rows",
                f"write ids below {rows}",
                path,
            )
