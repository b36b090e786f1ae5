"""What every rule works on: the repository, a model of it, and the finding it may report."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

import onnx
from tritonclient.grpc import model_config_pb2 as pb

from lwc.core.errors import ModelError
from lwc.export.onnx_io import load_graph

# An input or output as a configuration declares it.
Tensor: TypeAlias = pb.ModelInput | pb.ModelOutput
Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One fault or oddity of a repository.

    An ``error`` keeps the server from starting or fails requests; a ``warning`` is accepted in silence and likely not
    meant; a ``note`` is worth knowing. ``path`` is relative to the repository, a folder's ends in ``/``, and a line of
    a file follows a colon.
    """

    severity: Severity
    model: str
    path: str
    what: str
    hint: str

    def __post_init__(self) -> None:
        # Names of files need not be UTF-8, and no terminal takes what Python makes of one that is not.
        for field in ("model", "path", "what", "hint"):
            object.__setattr__(self, field, getattr(self, field).encode("utf-8", "backslashreplace").decode())

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass(frozen=True)
class Machine:
    """Where the repository is to be served; None means unknown, and nothing is judged by it."""

    gpus: int | None = None
    gpu: str | None = None
    compute_capability: str | None = None
    tensorrt: str | None = None
    auto_complete: bool | None = None
    """Whether the server derives what configurations leave out. Servers that lwc starts do not."""

    @property
    def incomplete(self) -> Severity:
        """Severity of a configuration that needs auto-complete."""
        return "error" if self.auto_complete is False else "warning"


DERIVED = "only a server with auto-complete serves it, which `lwc serve` and deploy/ switch off"
BACKEND_FILES = {"onnxruntime": "model.onnx", "python": "model.py", "tensorrt": "model.plan"}
# Older configurations name a platform, which fixes the backend.
PLATFORMS = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "pytorch_libtorch": "pytorch",
    "libtorch": "pytorch",
    "torch_aoti": "pytorch",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
}
# Bytes of an initializer that is kept: axes, shapes and thresholds are far below.
_SMALL = 4096
# Parameter of a Python model that names its packed environment.
ENVIRONMENT = "EXECUTION_ENV_PATH"
# Folders of a model that are no versions and that Triton knows.
KNOWN_FOLDERS = ("warmup", "initial_state", "configs")


@dataclass(frozen=True)
class Model:
    """A folder of the repository with a configuration that parses."""

    folder: Path
    config: pb.ModelConfig
    reported: Path | None = None
    """The file that findings are about where they name no other: ``config.pbtxt`` unless set by `at`."""

    def at(self, path: Path) -> Model:
        return replace(self, reported=path)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def is_ensemble(self) -> bool:
        return self.config.platform == "ensemble" or bool(self.config.HasField("ensemble_scheduling"))

    @property
    def backend(self) -> str:
        """As the configuration says, else as Triton guesses from the files; empty where neither tells."""
        if self.is_ensemble:
            return "ensemble"
        stated = str(self.config.backend or self.config.platform)
        if stated:
            return PLATFORMS.get(stated, stated)
        for backend, file in BACKEND_FILES.items():
            if self.config.default_model_filename == file or any(self.folder.glob(f"*/{file}")):
                return backend
        return ""

    @property
    def file_name(self) -> str | None:
        """Name of the model file in a version folder; None for a backend whose files are not known here."""
        return self.config.default_model_filename or BACKEND_FILES.get(self.backend)

    def parameter(self, name: str) -> str | None:
        """A parameter's text, None where the configuration does not have it."""
        return str(self.config.parameters[name].string_value) if name in self.config.parameters else None

    @cached_property
    def graphs(self) -> dict[Path, onnx.ModelProto | ModelError]:
        """ONNX files of the served versions, without their weights, or why one cannot be read."""
        name, found = self.file_name, dict[Path, onnx.ModelProto | ModelError]()
        if self.backend != "onnxruntime" or name is None or escapes(name):
            return found
        for version in self.served.values():
            # A model with external data may be a folder of that name.
            path = version / name / "model.onnx" if (version / name).is_dir() else version / name
            if path.is_file():
                try:
                    found[path] = _without_weights(load_graph(path))
                except ModelError as error:
                    found[path] = error
        return found

    @property
    def graph(self) -> onnx.GraphProto | None:
        """The graph of the latest served version, None where there is none to read."""
        latest = list(self.graphs.values())[-1:]
        return latest[0].graph if latest and isinstance(latest[0], onnx.ModelProto) else None

    @property
    def versions(self) -> dict[int, Path]:
        """Folders that Triton takes for versions, rising; see :func:`version_number`."""
        found: dict[int, Path] = {}
        for path in sorted(self.folder.iterdir()):
            number = version_number(path.name) if path.is_dir() and path.name not in KNOWN_FOLDERS else None
            if number is not None:
                # The folder with the plain number is the one that is opened, whichever gave the number.
                found[number] = self.folder / str(number)
        return dict(sorted(found.items()))

    @property
    def served(self) -> dict[int, Path]:
        """The versions that the version policy selects: the latest one where there is no policy."""
        versions, policy = self.versions, self.config.version_policy
        choice = policy.WhichOneof("policy_choice")
        if choice == "all":
            return versions
        if choice == "specific":
            return {number: path for number, path in versions.items() if number in policy.specific.versions}
        count = policy.latest.num_versions if choice == "latest" else 1
        return dict(list(versions.items())[-count:]) if count > 0 else {}

    def path(self, path: Path | None = None) -> str:
        """``path`` or the file reported on, relative to the repository; a folder ends in a slash."""
        path = path or self.reported or self.folder / "config.pbtxt"
        return path.relative_to(self.folder.parent).as_posix() + ("/" if path.is_dir() else "")

    def error(self, what: str, hint: str, path: Path | None = None) -> Finding:
        return Finding("error", self.name, self.path(path), what, hint)

    def warning(self, what: str, hint: str, path: Path | None = None) -> Finding:
        return Finding("warning", self.name, self.path(path), what, hint)

    def note(self, what: str, hint: str, path: Path | None = None) -> Finding:
        return Finding("note", self.name, self.path(path), what, hint)


@dataclass(frozen=True)
class Repository:
    """A repository and where it is to be served.

    Args:
        models: every model whose configuration parses, by name.
        machine: what is not known of it is not judged.
    """

    folder: Path
    models: Mapping[str, Model]
    machine: Machine


def escapes(name: str) -> bool:
    """Whether a file name of a configuration leads out of the folder it is looked up in."""
    return "\0" in name or Path(name).is_absolute() or os.path.normpath(name).startswith("..")


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same without the numbers of large initializers: several graphs are kept at a time."""
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > _SMALL:
            tensor.ClearField("raw_data")
    return onnx.ModelProto.FromString(model.SerializeToString())


def version_number(name: str) -> int | None:
    """The version that Triton reads from a folder's name, None where it ignores the folder.

    Triton converts as C does, so that digits followed by anything count: it takes ``2_backup`` for version 2, and then
    opens ``2``. Names with leading zeros are ignored.
    """
    if len(name) > 1 and name.startswith("0"):
        return None
    match = re.match(r"\s*[+-]?[0-9]+", name)
    return int(match.group()) if match else None


def type_name(data_type: int) -> str:
    """``TYPE_INT64`` for its number in a configuration."""
    return str(pb.DataType.Name(data_type))
