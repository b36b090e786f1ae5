"""One model's configuration by itself: tensors, batching, instances, threads and the cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tritonclient.grpc import model_config_pb2 as pb

from lwc.serving.checks.model import Finding, Machine, Model, Repository


def check_settings(model: Model, repository: Repository) -> Iterator[Finding]:
    """What the configuration of one model says, without its model file."""
    yield from _tensors(model)
    yield from _batching(model)
    if model.is_ensemble:
        if model.config.response_cache.enable:
            yield model.warning(
                "response_cache on an ensemble: servers skip it, or take it only where every step has it too",
                "set it on the models of the steps",
            )
        return
    yield from _instances(model, repository.machine)
    if model.backend == "onnxruntime":
        yield from _threads(model)


def _tensors(model: Model) -> Iterator[Finding]:
    for kind, entries in (("input", model.config.input), ("output", model.config.output)):
        for name, count in Counter(entry.name for entry in entries).items():
            if count > 1:
                yield model.warning(f"{kind} {name}: stands there {count} times", "drop the others")
        for entry in entries:
            if not entry.name:
                yield model.error(f"an {kind} without a name", "add one: name: ...")
            if entry.data_type == 0:
                yield model.error(f"{kind} {entry.name}: no data_type", "add one, such as data_type: TYPE_INT64")
            if not entry.dims:
                yield model.error(f"{kind} {entry.name}: no dims", "add them, such as dims: [ -1 ]")
            elif any(size == 0 or size < -1 for size in entry.dims):
                yield model.error(
                    f"{kind} {entry.name}: dims {list(entry.dims)}", "sizes are at least 1, or -1 where they vary"
                )


def _batching(model: Model) -> Iterator[Finding]:
    config = model.config
    limit = config.max_batch_size
    if limit < 0:
        yield model.error(f"max_batch_size is {limit}", "0 means no batching")
    if config.HasField("dynamic_batching"):
        too_large = [size for size in config.dynamic_batching.preferred_batch_size if size > max(limit, 0)]
        if too_large:
            yield model.error(
                f"preferred_batch_size {too_large[0]} is above max_batch_size {limit}",
                "raise max_batch_size or remove the preferred size",
            )
        elif limit == 0:
            yield model.warning("dynamic_batching without max_batch_size: nothing is batched", "set max_batch_size")
    elif limit > 1 and model.backend in ("onnxruntime", "tensorrt") and not config.HasField("sequence_batching"):
        yield model.note(
            f"max_batch_size is {limit} without dynamic_batching: requests are not batched",
            "add dynamic_batching {}, unless clients batch",
        )


def _instances(model: Model, machine: Machine) -> Iterator[Finding]:
    groups, kinds = model.config.instance_group, pb.ModelInstanceGroup
    on_gpu = [group for group in groups if group.kind == kinds.KIND_GPU]
    if model.backend == "tensorrt":
        yield from _needs_gpu(model, machine, "the tensorrt backend")
        if any(group.kind == kinds.KIND_CPU for group in groups):
            yield model.error("a TensorRT plan in an instance_group of KIND_CPU", "write kind: KIND_GPU")
    elif on_gpu:
        yield from _needs_gpu(model, machine, "instance_group KIND_GPU")
    for number in sorted({number for group in on_gpu for number in group.gpus}):
        if machine.gpus and number >= machine.gpus:
            yield model.error(
                f"instance_group names GPU {number}, the machine has {machine.gpus}", "name GPUs from 0, or none"
            )
    on_cpu = not groups or any(group.kind != kinds.KIND_GPU and group.count < 1 for group in groups)
    if model.backend == "onnxruntime" and on_cpu:
        yield model.warning(
            "instance_group without a count" if groups else "no instance_group",
            "say how many: on the CPU Triton makes 2 instances of an onnxruntime model",
        )


def _needs_gpu(model: Model, machine: Machine, what: str) -> Iterator[Finding]:
    hint = "use the ONNX model" if model.backend == "tensorrt" else "write kind: KIND_CPU where there is none"
    if machine.gpus is None:
        yield model.warning(f"{what}: needs a GPU", hint)
    elif machine.gpus == 0:
        yield model.error(f"{what}: needs a GPU, the machine has none", hint)


def _threads(model: Model) -> Iterator[Finding]:
    groups = model.config.instance_group
    if groups and all(group.kind == pb.ModelInstanceGroup.KIND_GPU for group in groups):
        return
    parameters = model.config.parameters
    name = "intra_op_thread_count"
    text = parameters[name].string_value if name in parameters else "0"
    if not text.strip().isdecimal():
        yield model.error(f"{name} is {text!r}", "write a number of threads")
    elif int(text) == 0:
        state = "is 0" if name in parameters else "is not set"
        yield model.warning(
            f"{name} {state}: every instance takes all cores of the host, also in a container with a CPU limit",
            "set it to the CPU limit divided by the instances",
        )
