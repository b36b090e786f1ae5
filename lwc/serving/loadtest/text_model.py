"""What a served model takes and gives, asked from its server: any Triton model with one text input can be loaded."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

from lwc.core.errors import USAGE, RecipeError, ServingError

SECONDS = 10.0
LABEL, SCORES = "label", "scores"


@dataclass(frozen=True)
class Tensor:
    """An input or output as the server describes it: Triton's datatype, shape with -1 for any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class TextModel:
    """How to ask a model about one text.

    ``shape`` is that of the request's one BYTES element. ``label`` names the output that holds the answer's label and
    ``scores`` that of the scores of all classes; None where the model has none, and answers are not checked then.
    """

    input: str
    shape: tuple[int, ...]
    outputs: tuple[str, ...]
    label: str | None
    scores: str | None


def text_model(
    model: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], label_output: str | None = None
) -> TextModel:
    """Read a model's description; ``label_output`` names its label, by default ``label`` where there is one.

    Raises:
        RecipeError: it does not take one text a request, or has no such label.
    """
    told = ", ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in inputs)
    shape = tuple(abs(size) if size == -1 else size for size in inputs[0].shape) if inputs else ()
    if len(inputs) != 1 or inputs[0].datatype != "BYTES" or not shape or math.prod(shape) != 1:
        raise RecipeError(
            f"{model} takes {told or 'nothing'}: a load test sends one text to one BYTES input",
            "name a model that takes text; of a repository made by lwc it is the one without _tokens",
        )
    kinds = {one.name: one.datatype for one in outputs}
    wanted = label_output or LABEL
    label = wanted if kinds.get(wanted) == "BYTES" else None
    if label_output is not None and label is None:
        raise RecipeError(
            f"{model} has no BYTES output {label_output!r}; it has"
            f" {', '.join(f'{name} {kind}' for name, kind in kinds.items())}",
            "name the output that holds the label, or leave --label-output out to measure latency and errors alone",
        )
    scores = SCORES if label is not None and kinds.get(SCORES) == "FP32" else None
    names = tuple(kinds) if label is None else tuple(name for name in (label, scores) if name is not None)
    return TextModel(inputs[0].name, shape, names, label, scores)


def describe_http(address: str, model: str) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs of a model over HTTP.

    Raises:
        ServingError: the server does not know the model, or what answers is no Triton server.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{address}/v2/models/{model}", timeout=SECONDS) as answer:
            told = json.loads(answer.read())
        inputs, outputs = (
            [Tensor(str(t["name"]), str(t["datatype"]), tuple(int(d) for d in t["shape"])) for t in told[side]]
            for side in ("inputs", "outputs")
        )
    except urllib.error.HTTPError as error:
        raise _unknown(address, model, error.read(500).decode("utf-8", "replace")) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unknown(address, model, f"no Triton server answers there ({error})") from error
    return inputs, outputs


def describe_grpc(address: str, model: str) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs of a model over gRPC; raises as `describe_http` does."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            told = stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=model), timeout=SECONDS)
        except grpc.RpcError as error:
            raise _unknown(address, model, f"{error.code().name}: {error.details()}") from error
    inputs, outputs = (
        [Tensor(t.name, t.datatype, tuple(t.shape)) for t in side] for side in (told.inputs, told.outputs)
    )
    return inputs, outputs


def _unknown(address: str, model: str, words: str) -> ServingError:
    return ServingError(
        f"{model} at {address}: {words}",
        "check the model's name, and that the address is that of this protocol (HTTP 8000, gRPC 8001 by default)",
        USAGE,
    )
