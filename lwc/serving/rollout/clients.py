"""Whether another model can answer the clients of the live version, and how both are asked about samples."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from lwc.core.errors import RecipeError
from lwc.serving.loadtest.endpoint import fitting_wire
from lwc.serving.rollout.versions import Place, load_state, read_configs
from lwc.tasks.endpoint import Tensor
from lwc.tasks.text_wire import TextWire

_ELSEWHERE = "deploy it under another name: --as NAME"


def check_clients(place: Place, new: pb.ModelConfig, repository: Path) -> None:
    """Raise `RecipeError` where ``new`` from ``repository`` would not answer requests that ``place.model`` answers now.

    It must take what the live version takes, and answer with all that it answers with. It may take more that is
    optional, and answer with more. The number of classes may change.
    """
    for path in place.folder.glob(".lwc-rollout-*.json"):
        other = Place(place.folder, path.name[13:-5])
        if any(place.model in version.models for version in load_state(other).versions):
            raise RecipeError(f"{place.front}: {place.model} is a part of {other.model}", _ELSEWHERE)
    live = read_configs(place.folder).get(place.model)
    if live is None:
        return
    inputs, outputs = ({one.name: one for one in side} for side in (new.input, new.output))
    faults = [
        f"it takes {_told(one)}, the new one {_told(inputs.get(one.name))}"
        for one in live.input
        if _told(one) != _told(inputs.get(one.name))
    ]
    faults += [
        f"it answers with {one.name} {_kind(one)}, the new one with {', '.join(outputs)}"
        for one in live.output
        if one.name not in outputs or _kind(outputs[one.name]) != _kind(one)
    ]
    required = {one.name for one in live.input if not one.optional}
    faults += [
        f"it can be asked without {one.name}, the new one cannot"
        for one in new.input
        if not one.optional and one.name not in required and live.input
    ]
    if faults:
        raise RecipeError(
            f"{repository} cannot replace {place.model} in {place.folder}, whose clients would be refused:\n  "
            + "\n  ".join(faults),
            _ELSEWHERE,
        )


def text_wire(config: pb.ModelConfig, model: str) -> TextWire:
    """How a model with this configuration is asked about a text.

    Raises:
        RecipeError: it takes no text, or answers without a label.
    """
    wire = fitting_wire(model, _tensors(config.input), _tensors(config.output))
    if not isinstance(wire, TextWire) or wire.label is None:
        raise RecipeError(
            f"{model} does not answer a text with a label, so that --samples cannot be judged",
            "leave --samples out, and load-test the model after the deployment",
        )
    return wire


def _tensors(side: Iterable[pb.ModelInput | pb.ModelOutput]) -> list[Tensor]:
    """As a server describes them: the batch is the first dimension."""
    return [Tensor(one.name, _kind(one), (-1, *one.dims)) for one in side]


def _kind(tensor: pb.ModelInput | pb.ModelOutput) -> str:
    name = str(pb.DataType.Name(tensor.data_type)).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def _told(tensor: pb.ModelInput | None) -> str:
    return "does not" if tensor is None else f"{tensor.name} {_kind(tensor)} {list(tensor.dims)}"
