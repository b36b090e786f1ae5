"""Look a model repository over before a server does: each fault named with both sides, all in one go.

For any repository, also one that lwc did not write: what Triton refuses, and what it accepts in silence. No server, no
GPU and no network is needed. What it says of folders, versions, warm-up and ensembles was tried on Triton 2.51 without
its auto-complete; what it says of TensorRT plans was not.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from lwc.core.errors import MissingDependency, ModelError, RecipeError
from lwc.export.stamp import these_gpus
from lwc.export.tensorrt import load_library, version_of
from lwc.serving.checks.ensemble import check_cycles, check_ensemble
from lwc.serving.checks.graph import check_graphs
from lwc.serving.checks.layout import check_layout, check_links
from lwc.serving.checks.model import SEVERITIES, Finding, Machine, Model
from lwc.serving.checks.plan import check_plans
from lwc.serving.checks.settings import check_settings
from lwc.serving.triton.config import parse


def this_machine() -> Machine:
    """The GPU and the TensorRT that plans would meet here; no GPU where there is none.

    Raises:
        MissingDependency: the driver does not answer, or GPUs of several kinds are here and none is chosen.
    """
    gpus = these_gpus()
    if not gpus:
        return Machine(gpus=0)
    try:
        tensorrt = version_of(load_library("tensorrt"))
    except MissingDependency:
        tensorrt = None  # a server in a container has its own, which is not known here
    return Machine(len(gpus), gpus[0].name, gpus[0].compute_capability, tensorrt)


def inspect_repository(folder: Path, machine: Machine | None = None) -> list[Finding]:
    """Everything to say about the repository ``folder``: errors first, then by model and file; empty where it is sound.

    Args:
        machine: where it is to be served; what is not known of it is not judged.

    Raises:
        RecipeError: ``folder`` is no folder.
    """
    if not folder.is_dir():
        raise RecipeError(f"{folder}: no such folder", "give a Triton model repository")
    machine = machine or Machine()
    findings: list[Finding] = []
    models: dict[str, Model] = {}
    places = sorted(path for path in folder.iterdir() if path.is_dir() or path.is_symlink())
    for place in places:
        findings += check_links(folder, place.name)
        if place.is_dir():
            read = _read(place)
            if isinstance(read, Finding):
                findings.append(read)
            else:
                models[place.name] = read
    if not places:
        findings.append(Finding("error", "", "./", "no model in it", "give the folder whose folders are the models"))
    for model in models.values():
        findings += _check_model(model, models, machine)
    findings += check_cycles(models)
    return sorted(findings, key=lambda finding: (SEVERITIES.index(finding.severity), finding.model, finding.path))


def check_repository(folder: Path, machine: Machine | None = None) -> list[str]:
    """Lines about what Triton accepts in ``folder`` and likely is not meant; empty where nothing is out of place.

    Raises:
        ModelError: something that would keep the server from starting or fail requests, all faults together.
    """
    findings = inspect_repository(folder, machine)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise ModelError(
            f"model repository {folder}:\n" + "\n".join(f"  {finding} ({finding.hint})" for finding in errors),
            "package the model again, or repair the files that are named",
        )
    return [str(finding) for finding in findings]


def _check_model(model: Model, models: dict[str, Model], machine: Machine) -> Iterator[Finding]:
    config = model.config
    if config.name not in ("", model.name):
        yield model.error(f"its name is {config.name!r}, the folder's is {model.name!r}", "make both equal")
    # The text models that lwc writes call another model from their code.
    token_model = config.parameters["token_model"].string_value if "token_model" in config.parameters else ""
    if token_model and not (model.folder.parent / token_model).is_dir():
        yield model.error(f"calls {token_model!r}, which is not in the repository", "add that model")
    yield from check_layout(model)
    yield from check_settings(model, machine)
    yield from check_graphs(model)
    yield from check_plans(model, machine)
    yield from check_ensemble(model, models)


def _read(folder: Path) -> Model | Finding:
    """The model, or what keeps its configuration from being read."""
    path = folder / "config.pbtxt"
    where = f"{folder.name}/config.pbtxt"
    if not path.is_file():
        # Triton passes over stray folders inside a model but not beside one: it does not start.
        what = "no config.pbtxt, so it is no model"
        return Finding("error", folder.name, f"{folder.name}/", what, "remove it, or write its config.pbtxt")
    try:
        return Model(folder, parse(path.read_text(encoding="utf-8")))
    except UnicodeDecodeError as error:
        return Finding("error", folder.name, where, f"not UTF-8: {error}", "save it as UTF-8")
    except text_format.ParseError as error:
        line = error.GetLine()
        what = re.sub(r"^\d+:\d+ : ", "", str(error))
        return Finding("error", folder.name, where + (f":{line}" if line else ""), what, _advice(what))


def _advice(what: str) -> str:
    """What to do about a message of the protobuf parser."""
    unknown = re.search(r'Message type "inference\.([\w.]+)" has no field named "(\w+)"', what)
    if unknown:
        message = pb.DESCRIPTOR.pool.FindMessageTypeByName(f"inference.{unknown[1]}")
        near = difflib.get_close_matches(unknown[2], message.fields_by_name, n=1)
        return f"did you mean {near[0]}?" if near else "remove it (a newer tritonclient may know it)"
    if "another member of oneof" in what:
        return "keep one of the two"
    return "write it as Triton's model_config.proto has it"
