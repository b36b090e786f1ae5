"""A generic ONNX Runtime backend for the embedded Triton, which has no native one.

The server copies this file to ``<backend folder>/onnxruntime/model.py`` and runs it in its own process, so it must not
import anything of lwc. A model with ``backend: "onnxruntime"`` is then served here and in the official image alike.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument

Arrays = dict[str, np.ndarray[Any, Any]]


class TritonPythonModel:
    """Runs ``<model>/<version>/model.onnx`` on the CPU for every model of the onnxruntime backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model with the thread counts of its configuration."""
        config = json.loads(args["model_config"])
        name = config.get("default_model_filename") or "model.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _threads(config, "intra_op_thread_count")
        options.inter_op_num_threads = _threads(config, "inter_op_thread_count")
        path = Path(args["model_repository"]) / args["model_version"] / name
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.batches = int(config.get("max_batch_size", 0)) > 0
        self.inputs = [entry["name"] for entry in config["input"]]
        self.outputs = [entry["name"] for entry in config["output"]]
        _same_names("input", self.inputs, [value.name for value in self.session.get_inputs()], exact=True)
        _same_names("output", self.outputs, [value.name for value in self.session.get_outputs()], exact=False)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request; those of equal shape run as one batch."""
        responses: list[Any] = [None] * len(requests)
        groups: dict[Any, list[tuple[int, Arrays]]] = defaultdict(list)
        for index, request in enumerate(requests):
            try:
                feed = self._feed(request)
            except Exception as error:
                responses[index] = _failure(error)
                continue
            shape = tuple(value.shape[1:] for value in feed.values()) if self.batches else index
            groups[shape].append((index, feed))
        for group in groups.values():
            for (index, _), response in zip(group, self._answer([feed for _, feed in group]), strict=True):
                responses[index] = response
        return responses

    def _feed(self, request: Any) -> Arrays:
        feed: Arrays = {}
        for name in self.inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is None:
                raise ValueError(f"input {name!r} is missing")
            value = tensor.as_numpy()
            if value.dtype == np.object_:
                texts = [item.decode("utf-8") if isinstance(item, bytes) else item for item in value.ravel()]
                value = np.array(texts, dtype=np.object_).reshape(value.shape)
            feed[name] = value
        return feed

    def _answer(self, feeds: list[Arrays]) -> list[Any]:
        try:
            return self._answer_together(feeds)
        except Exception as error:
            # One bad request must not fail the others: each runs, and fails, alone.
            return [_failure(error)] if len(feeds) == 1 else [self._answer([feed])[0] for feed in feeds]

    def _answer_together(self, feeds: list[Arrays]) -> list[Any]:
        if len(feeds) == 1:
            return [self._response(self.session.run(self.outputs, feeds[0]))]
        sizes = [len(feed[self.inputs[0]]) for feed in feeds]
        whole = {name: np.concatenate([feed[name] for feed in feeds]) for name in self.inputs}
        results = self.session.run(self.outputs, whole)
        if any(value.ndim == 0 or len(value) != sum(sizes) for value in results):
            raise ValueError("an output has no batch dimension")
        ends = np.cumsum(sizes)
        return [
            self._response([value[end - size : end] for value in results])
            for size, end in zip(sizes, ends, strict=True)
        ]

    def _response(self, values: list[Any]) -> Any:
        tensors = []
        for name, value in zip(self.outputs, values, strict=True):
            array = np.asarray(value)
            if array.dtype.kind in "OU":
                texts = [str(item).encode("utf-8") for item in array.ravel()]
                array = np.array(texts, dtype=np.object_).reshape(array.shape)
            tensors.append(pb_utils.Tensor(name, np.ascontiguousarray(array) if array.ndim else array))
        return pb_utils.InferenceResponse(output_tensors=tensors)


def _failure(error: Exception) -> Any:
    """The request's fault (400 over HTTP) where a kernel cannot work on its numbers or shapes; else ours.

    The model ran when it was warmed up: ids beyond the vocabulary or inputs of unequal lengths are not its fault.
    """
    theirs = isinstance(error, InvalidArgument | Fail)
    code = pb_utils.TritonError.INVALID_ARG if theirs else pb_utils.TritonError.INTERNAL
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{type(error).__name__}: {error}", code))


def _threads(config: dict[str, Any], key: str) -> int:
    text = config.get("parameters", {}).get(key, {}).get("string_value", "0")
    if not text.strip().isdecimal():
        raise ValueError(f"parameter {key} must be a whole number, zero or more: {text!r}")
    return int(text)


def _same_names(kind: str, config: list[str], model: list[str], exact: bool) -> None:
    unknown = set(config) - set(model)
    missing = set(model) - set(config) if exact else set()
    if unknown or missing:
        raise ValueError(f"the {kind}s in the configuration are {sorted(config)}, those of the model {sorted(model)}")
