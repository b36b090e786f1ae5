"""What every check works on: a model of the repository, and the finding it may report."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from tritonclient.grpc import model_config_pb2 as pb

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

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass(frozen=True)
class Machine:
    """Where the repository is to be served; None means unknown, and nothing is judged by it."""

    gpus: int | None = None
    gpu: str | None = None
    compute_capability: str | None = None
    tensorrt: str | None = None


BACKEND_FILES = {"onnxruntime": "model.onnx", "python": "model.py", "tensorrt": "model.plan"}
# Older configurations name a platform, which fixes the backend.
_PLATFORMS = {"onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt", "pytorch_libtorch": "pytorch"}
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
        stated = self.config.backend or _PLATFORMS.get(self.config.platform, self.config.platform)
        if stated:
            return str(stated)
        for backend, file in BACKEND_FILES.items():
            if self.config.default_model_filename == file or any(self.folder.glob(f"*/{file}")):
                return backend
        return ""

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
