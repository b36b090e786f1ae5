"""``config.pbtxt`` through Triton's own protobuf classes: a wrong field or type cannot be written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import onnx
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from lwc.core.errors import ModelError
from lwc.core.machine import cpu_limit
from lwc.export.onnx_io import OnnxInfo, TensorInfo
from lwc.recipe import Package
from lwc.tasks.endpoint import Front

# ONNX element types that have another name in Triton.
_RENAMED = {"FLOAT": "FP32", "DOUBLE": "FP64", "FLOAT16": "FP16", "BFLOAT16": "BF16"}


MOST_INSTANCES, INSTANCE_BYTES = 8, 1 << 30
"""Instances that a repository gets by itself: so many, and no more weights than so many bytes."""

PREFERRED = 8
"""Texts that an instance takes of a queue at once, so that the others get their share; on a CPU more gain nothing."""

# Parameter of a model that clients call: a question as JSON for Triton's /generate.
EXAMPLE = "example_request"

# Which backend runs the graph: ONNX Runtime on the CPU or with CUDA, or TensorRT.
Target = Literal["cpu", "gpu", "tensorrt"]


@dataclass(frozen=True)
class WarmUp:
    """A request that Triton sends a model before it calls it ready: ``batch`` texts of ``length`` tokens."""

    batch: int
    length: int

    def file(self, tensor: str) -> str:
        """Name of the file under ``warmup/`` that holds one text of this input."""
        return f"{tensor}_{self.length}"


def as_text(config: pb.ModelConfig) -> str:
    """A ModelConfig as ``config.pbtxt``."""
    return str(text_format.MessageToString(config))


def parse(text: str) -> pb.ModelConfig:
    """``config.pbtxt`` as a ModelConfig; typos and wrong types raise ``text_format.ParseError``."""
    return text_format.Parse(text, pb.ModelConfig())


def with_instances(package: Package, target: Target, graph_bytes: int) -> Package:
    """The settings with a number of instances: as the recipe says, or one for each core, as far as memory goes.

    Instances of one thread leave nothing to wait for: threads of one instance that wait for each other, spinning, halve
    the service where other programs use the cores (docs/decisions/0020).
    """
    if package.instances:
        return package
    fitting = max(1, INSTANCE_BYTES // max(1, graph_bytes))
    count = min(cpu_limit(), MOST_INSTANCES, fitting) if target == "cpu" else 1
    return package.model_copy(update={"instances": count})


def intra_op_threads(package: Package) -> int:
    """Threads of one instance: as the recipe says, or the CPU limit shared among the instances."""
    return package.intra_op_threads or max(1, cpu_limit() // package.instances)


def graph_type(onnx_type: int) -> str | None:
    """Triton's name of an ONNX element type, None where it has none (a sequence, a map, a complex number)."""
    known = onnx.TensorProto.DataType.DESCRIPTOR.values_by_number.get(onnx_type)
    name = "" if known is None else f"TYPE_{_RENAMED.get(known.name, known.name)}"
    return name if name in pb.DataType.keys() else None  # noqa: SIM118  (no mapping)


def _tensor(info: TensorInfo) -> dict[str, Any]:
    data_type = graph_type(info.dtype)
    if data_type is None:
        raise ModelError(
            f"tensor {info.name}: ONNX type {info.dtype} has no Triton type here", "export it as INT64/FP32"
        )
    # With max_batch_size > 0 the batch dimension is implied and must not be repeated.
    return {"name": info.name, "data_type": data_type, "dims": list(info.dims[1:])}


def _common(name: str, backend: str, package: Package, delay: int) -> pb.ModelConfig:
    config = pb.ModelConfig(name=name, backend=backend, max_batch_size=package.max_batch_size)
    config.dynamic_batching.max_queue_delay_microseconds = delay
    # No default_queue_policy: any one makes the batcher of Triton 2.51 stall requests for half a second now and then
    # (docs/decisions/0009). Clients bound their own waiting.
    # One: a text model calls the newest token model, so that an older text model beside it would mix two checkpoints.
    config.version_policy.latest.num_versions = 1
    if package.response_cache:
        config.response_cache.enable = True
    return config


def graph_model(
    name: str,
    info: OnnxInfo,
    package: Package,
    warm_ups: Sequence[WarmUp],
    target: Target = "cpu",
    profiles: int = 1,
) -> pb.ModelConfig:
    """The model that runs the exported graph; warmed up with the files of ``warm_ups`` before it is ready.

    On a GPU no execution accelerator is set: ONNX Runtime's own TensorRT would build an engine for each new shape
    while requests wait. ``profiles`` of a plan are all used, Triton picks the nearest for each batch.
    """
    for tensor in info.inputs:
        if tensor.dims[0] != -1:
            raise ModelError(
                f"input {tensor.name}: the ONNX file fixes the batch at {tensor.dims[0]}, the recipe's max_batch_size"
                f" is {package.max_batch_size}",
                "export with a dynamic batch",
            )
    # Its caller sends whole batches: waiting for more would only delay them.
    config = _common(name, "tensorrt" if target == "tensorrt" else "onnxruntime", package, delay=0)
    for tensor in info.inputs:
        config.input.add(**_tensor(tensor))
    for tensor in info.outputs:
        config.output.add(**_tensor(tensor))
    group = config.instance_group.add(kind="KIND_CPU" if target == "cpu" else "KIND_GPU", count=package.instances)
    if target == "tensorrt":
        config.platform = "tensorrt_plan"
        group.profile.extend(str(number) for number in range(profiles))
    else:
        config.parameters["intra_op_thread_count"].string_value = str(intra_op_threads(package))
        config.parameters["inter_op_thread_count"].string_value = "1"
    for shape in warm_ups:
        warm_up = config.model_warmup.add(name=f"{shape.batch} of {shape.length} tokens", batch_size=shape.batch)
        for tensor in config.input:
            # Ids of a real text: random ones can leave the vocabulary, zeros are a text of padding alone.
            entry = warm_up.inputs[tensor.name]
            entry.data_type, entry.input_data_file = tensor.data_type, shape.file(tensor.name)
            entry.dims.append(shape.length)
    return config


def front_model(name: str, front: Front, package: Package, target: Target = "cpu") -> pb.ModelConfig:
    """The Python model that clients call; it calls the graph's model."""
    config = _common(name, "python", package, package.queue_delay_microseconds)
    if target == "cpu" and package.instances > 1:
        config.dynamic_batching.preferred_batch_size.append(min(PREFERRED, package.max_batch_size))
    for tensor in front.inputs:
        config.input.add(**tensor)
    for tensor in front.outputs:
        config.output.add(**tensor)
    config.instance_group.add(kind="KIND_CPU", count=package.instances)
    for key, value in {**front.parameters, EXAMPLE: json.dumps(front.example, ensure_ascii=False)}.items():
        config.parameters[key].string_value = value
    return config
