"""An ONNX file to a TensorRT plan, with one or more optimisation profiles.

Two libraries with one interface do it. TensorRT builds on the GPU that the plan is for, and Triton serves what it
builds. TensorRT for RTX builds anywhere and leaves the last step to the GPU that loads the plan; Triton has no
backend for it. Networks are strongly typed (since TensorRT 11 there are no others): what the file says is computed,
and fp16 means an fp16 file, which `lwc.export.half` writes.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from lwc.core.errors import MissingDependency, ModelError
from lwc.recipe import Profile

Library = Literal["tensorrt", "tensorrt-rtx"]
_INSTALL: dict[Library, str] = {
    "tensorrt": "pip install the tensorrt package of the release that your Triton image carries",
    "tensorrt-rtx": "pip install 'lwc[tensorrt-rtx]'",
}
Shapes = dict[str, dict[str, list[int]]]
"""``{"input_ids": {"min": [1, 1], "opt": [8, 64], "max": [32, 128]}}``, shapes with the batch."""


@dataclass(frozen=True)
class Plan:
    """A serialized engine, the shapes of each of its profiles, and its layers counted by element type (``HALF``)."""

    content: bytes
    profiles: list[Shapes]
    layers: dict[str, int]


def load_library(name: Library) -> ModuleType:
    """The module of a TensorRT library.

    Raises:
        MissingDependency: it is not installed, or its shared libraries are not.
    """
    try:
        return importlib.import_module(name.replace("-", "_"))
    except (ImportError, OSError) as error:
        raise MissingDependency(f"{name} cannot be loaded: {error}", _INSTALL[name]) from error


def version_of(trt: ModuleType) -> str:
    """``10.9.0`` of ``10.9.0.34``: plans of one such version load in any build of it."""
    return ".".join(str(trt.__version__).split(".")[:3])


def shapes_of(profile: Profile, inputs: Sequence[str]) -> Shapes:
    """A profile of the recipe for inputs (B, T)."""
    sizes = {"min": profile.min, "opt": profile.opt, "max": profile.max}
    return {name: {key: [shape.batch, shape.length] for key, shape in sizes.items()} for name in inputs}


def build_plan(path: Path, profiles: Sequence[Profile], trt: ModuleType) -> Plan:
    """Build the plan of an ONNX file whose inputs are all (B, T).

    ``trt`` is the module of `load_library`. TF32 is off: fp32 in the file is fp32 on the GPU.

    Raises:
        ModelError: the parser or the builder refuses the graph, with what it says.
        ValueError: no profile is given.
    """
    if not profiles:
        raise ValueError("a graph with free sizes needs a profile")
    log = _log(trt)
    builder = trt.Builder(log)
    # TensorRT 11 takes the flag and ignores it: it has no other networks.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        told = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise ModelError(f"{path}: {trt.__name__} does not parse it: {told}", "export fp32 or fp16; int8 graphs of "
                         "ONNX Runtime are for the CPU")  # fmt: skip
    names = [network.get_input(i).name for i in range(network.num_inputs)]
    shapes = [shapes_of(profile, names) for profile in profiles]
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    for one in shapes:
        profile = builder.create_optimization_profile()
        for name, sizes in one.items():
            profile.set_shape(name, *(tuple(sizes[key]) for key in ("min", "opt", "max")))
        if config.add_optimization_profile(profile) < 0:
            raise ModelError(f"{path}: {trt.__name__} refuses the profile {one}: {log.last()}", "change the profile")
    content = builder.build_serialized_network(network, config)
    if content is None:
        raise ModelError(f"{path}: {trt.__name__} does not build it: {log.last()}", "serve the ONNX model")
    outputs = (network.get_layer(i).get_output(0) for i in range(network.num_layers))
    return Plan(bytes(content), shapes, dict(Counter(tensor.dtype.name for tensor in outputs if tensor is not None)))


def _log(trt: Any) -> Any:
    """A logger that keeps errors for our own message; TensorRT's prints them, the harmless ones too."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: object, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.errors.append(message)

        def last(self) -> str:
            # Without a driver every step complains of CUDA, also where it succeeds.
            told = [line for line in self.errors if "Cuda" not in line]
            return (told or self.errors or ["it does not say why"])[-1]

    return Log()
