"""Run a TensorRT plan where it belongs, or the ONNX model, by name, where it does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lwc.core.arrays import Array
from lwc.core.errors import MissingDependency, ModelError
from lwc.core.machine import cpu_limit
from lwc.export.quantize import apart
from lwc.export.session import cpu_session, logits, run
from lwc.export.stamp import misfits, read_stamp, this_gpu
from lwc.export.tensorrt import Shapes, load_library, version_of


@dataclass(frozen=True)
class Classifier:
    """Inputs (B, T) by name in, logits (B, C) out. ``runtime`` says what answers: ``engine`` or ``onnxruntime``."""

    runtime: str
    answer: Callable[[dict[str, Array]], Array]


def fitting(profiles: Sequence[Shapes], inputs: dict[str, Array]) -> int:
    """The profile that takes these shapes and whose optimum is nearest; the first of equals, as Triton chooses.

    Raises:
        ValueError: none does.
    """
    best: tuple[int, int] | None = None
    for number, profile in enumerate(profiles):
        distance = 0
        for name, sizes in profile.items():
            shape = inputs[name].shape
            bounds = zip(sizes["min"], shape, sizes["max"], strict=True)
            if not all(low <= size <= high for low, size, high in bounds):
                break
            distance += sum(abs(size - tuned) for size, tuned in zip(shape, sizes["opt"], strict=True))
        else:
            best = min(best or (distance, number), (distance, number))
    if best is None:
        raise ValueError(f"no profile takes { ({name: value.shape for name, value in inputs.items()}) }: {profiles}")
    return best[1]


class Engine:
    """A plan on the GPU, with one execution context a profile; torch holds the buffers."""

    def __init__(self, plan: Path) -> None:
        """Load ``plan`` by its stamp.

        Raises:
            ModelError: it has no whole stamp, was built for another place, or does not load.
            MissingDependency: there is no GPU here, or no TensorRT.
        """
        stamp = read_stamp(plan)
        trt = load_library(stamp["library"])
        gpu = this_gpu()
        if gpu is None or not torch.cuda.is_available():
            raise MissingDependency(f"{plan} needs a GPU, and torch sees none", "serve it where it was built")
        wrong = misfits(stamp, gpu.name, gpu.compute_capability, version_of(trt))
        if wrong:
            raise ModelError(f"{plan}: {'; '.join(wrong)}", "build it again on this machine")
        self._log = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            raise ModelError(f"{plan}: TensorRT does not load it", "build it again on this machine")
        self._profiles: list[Shapes] = stamp["profiles"]
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._types = {trt.DataType.FLOAT: torch.float32, trt.DataType.HALF: torch.float16}
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        self._inputs = [name for name in names if modes[name] == trt.TensorIOMode.INPUT]
        (self._output,) = (name for name in names if modes[name] == trt.TensorIOMode.OUTPUT)
        self._contexts = [self._context(number) for number in range(self._engine.num_optimization_profiles)]

    def _context(self, profile: int) -> Any:
        context = self._engine.create_execution_context()
        if context is None or not context.set_optimization_profile_async(profile, self._stream.cuda_stream):
            raise ModelError(f"TensorRT gives no context for profile {profile}", "free GPU memory")
        return context

    @torch.inference_mode()
    def run(self, inputs: dict[str, Array]) -> Array:
        """Logits (B, C), float32, of int64 inputs (B, T)."""
        feed = {name: inputs[name] for name in self._inputs}
        context = self._contexts[fitting(self._profiles, feed)]
        with torch.cuda.stream(self._stream):
            # Kept until the stream is done: TensorRT knows their addresses only.
            held = {name: torch.from_numpy(np.ascontiguousarray(value)).cuda() for name, value in feed.items()}
            for name, value in held.items():
                context.set_input_shape(name, tuple(value.shape))
                context.set_tensor_address(name, value.data_ptr())
            kind = self._types[self._engine.get_tensor_dtype(self._output)]
            logits = torch.empty(tuple(context.get_tensor_shape(self._output)), dtype=kind, device="cuda")
            context.set_tensor_address(self._output, logits.data_ptr())
            if not context.execute_async_v3(self._stream.cuda_stream):
                raise RuntimeError("TensorRT did not run the plan")
        self._stream.synchronize()
        return np.asarray(logits.float().cpu().numpy())


def open_classifier(plan: Path, fallback: Path, say: Callable[[str], None]) -> Classifier:
    """The plan where it runs; else the ONNX model ``fallback`` on the CPU; ``say`` gets the reason."""
    try:
        return Classifier("engine", Engine(plan).run)
    except (ModelError, MissingDependency) as error:
        say(f"not the plan but the ONNX model {fallback}: {error.message}")
    session = cpu_session(fallback, cpu_limit())
    return Classifier("onnxruntime", lambda inputs: run(session, inputs))


def compare_answers(classifier: Classifier, reference: Path, batches: Sequence[dict[str, Array]]) -> dict[str, Any]:
    """max |Δ logit| and label agreement with the ONNX file ``reference`` on these batches (inputs (B, T) by name)."""
    expected = logits(reference, batches)
    found = apart(np.concatenate([classifier.answer(inputs) for inputs in batches]), expected)
    return {"max_abs_diff": found.max_abs, "label_agreement": found.agreement, "rows": len(expected)}
