"""Look a model repository over before a server does: each fault named with both sides, all in one go.

For any repository, also one that lwc did not write: what Triton refuses, and what it accepts in silence. No server, no
GPU and no network is needed. What it says of folders, versions, names, warm-up and ensembles was tried on Triton 2.51
without its auto-complete; what it says of TensorRT plans was not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lwc.core.errors import MissingDependency, ModelError, RecipeError
from lwc.export.stamp import these_gpus
from lwc.export.tensorrt import load_library, version_of
from lwc.serving.checks.backend import check_backend
from lwc.serving.checks.config_file import CONFIG, read_model
from lwc.serving.checks.ensemble import check_cycles, check_ensemble
from lwc.serving.checks.fronts import check_fronts
from lwc.serving.checks.graph import check_graphs
from lwc.serving.checks.labels import check_labels
from lwc.serving.checks.layout import check_layout, check_links, check_private
from lwc.serving.checks.model import ENVIRONMENT, SEVERITIES, Finding, Machine, Model, Repository
from lwc.serving.checks.plan import check_plans
from lwc.serving.checks.python import check_python
from lwc.serving.checks.runtime import check_runtime
from lwc.serving.checks.settings import check_settings
from lwc.serving.checks.start import LOAD_SECONDS, Started, start_models
from lwc.serving.checks.warm_up import check_warm_up


@dataclass(frozen=True)
class Rule:
    """What one check looks at, in words, and the backend of the models it is for; None for all."""

    about: str
    check: Callable[[Model, Repository], Iterator[Finding]]
    backend: str | None = None

    def fits(self, model: Model) -> bool:
        return self.backend in (None, model.backend)


RULES = (
    Rule("names, folders and files", check_layout),
    Rule("platform and backend", check_backend),
    Rule("the configuration", check_settings),
    Rule("label files", check_labels),
    Rule("warm-up", check_warm_up),
    Rule("ONNX graphs and their data files", check_graphs, "onnxruntime"),
    Rule("opsets and operators of ONNX Runtime", check_runtime, "onnxruntime"),
    Rule("syntax, class and imports of Python models", check_python, "python"),
    Rule("what lwc's own models call", check_fronts, "python"),
    Rule("stamps of TensorRT plans", check_plans, "tensorrt"),
    Rule("steps of ensembles", check_ensemble, "ensemble"),
)
# What no rule looks at, by backend: only a server shows it.
_UNCHECKED = {
    "onnxruntime": "whether ONNX Runtime loads the graph",
    "python": "whether the Python code runs",
    "tensorrt": "whether the plan loads",
}


# What even a server that loaded the model has not shown.
_REQUESTS = "answers to requests"


@dataclass(frozen=True)
class Inspection:
    """What was found, and what it covers.

    Args:
        models: names of the models that were checked.
        checked: what they were checked against.
        not_checked: what was not, with the models it concerns.
        started: what the embedded server said of each model; empty where it was not asked.
    """

    findings: Sequence[Finding]
    models: Sequence[str]
    checked: Sequence[str]
    not_checked: Mapping[str, Sequence[str]]
    started: Sequence[Started] = ()

    @property
    def sound(self) -> bool:
        """No error, and no model that the server did not load."""
        failed = any(one.state == "FAILED" for one in self.started)
        return not failed and all(finding.severity != "error" for finding in self.findings)


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


def examine(
    folder: Path, machine: Machine | None = None, start: bool = False, seconds: float = LOAD_SECONDS
) -> Inspection:
    """Everything to say about the repository ``folder``: errors first, then by model and file.

    Args:
        machine: where it is to be served; what is not known of it is not judged.
        start: load every model into the embedded server too, which runs the code of Python models.
        seconds: how long a model may take to load.

    Raises:
        RecipeError: ``folder`` is no folder.
        MissingDependency: ``start``, and the embedded server is not installed.
    """
    if not folder.is_dir():
        raise RecipeError(f"{folder}: no such folder", "give a Triton model repository")
    if (folder / CONFIG).is_file() and not any(folder.glob(f"*/{CONFIG}")):
        raise RecipeError(f"{folder}: a model, not a repository", f"give its folder, {folder.resolve().parent}")
    inside = sorted(path.parents[1].name for path in folder.glob(f"*/*/{CONFIG}"))
    if inside and not any(folder.glob(f"*/{CONFIG}")):
        raise RecipeError(f"{folder}: a folder of repositories, not a repository", f"give one, {folder / inside[0]}")
    repository, findings = _read(folder, machine or Machine())
    models = repository.models
    for model in models.values():
        for rule in RULES:
            if rule.fits(model):
                findings += _apply(rule, model, repository)
    findings += [*check_cycles(models), *check_private(repository)]
    # A file that cannot be read is in the way of several rules.
    findings = sorted(dict.fromkeys(findings), key=lambda one: (SEVERITIES.index(one.severity), one.model, one.path))
    checked = [rule.about for rule in RULES if any(rule.fits(model) for model in models.values())]
    started = start_models(folder, models, seconds) if start else []
    tried = {one.model for one in started if one.state != "NOT TRIED"}
    left = _unchecked({name: model for name, model in models.items() if name not in tried})
    unread = sorted({finding.model for finding in findings if finding.model not in ("", *models)})
    if unread:
        left["anything else"] = unread
    if models:
        left[_REQUESTS] = list(models)
    return Inspection(findings, list(models), checked, left, started)


def inspect_repository(folder: Path, machine: Machine | None = None) -> Sequence[Finding]:
    """The findings of `examine`, empty where the repository is sound."""
    return examine(folder, machine).findings


def check_repository(folder: Path, machine: Machine | None = None) -> list[str]:
    """Lines about what a server that lwc starts accepts in ``folder`` and likely is not meant; empty where all is well.

    Raises:
        ModelError: something that would keep the server from starting or fail requests, all faults together.
    """
    findings = inspect_repository(folder, replace(machine or Machine(), auto_complete=False))
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise ModelError(
            f"model repository {folder}:\n" + "\n".join(f"  {finding} ({finding.hint})" for finding in errors),
            "package the model again, or repair the files that are named",
        )
    return [str(finding) for finding in findings]


def _read(folder: Path, machine: Machine) -> tuple[Repository, list[Finding]]:
    """The models of a repository, and what keeps folders from being one."""
    models: dict[str, Model] = {}
    findings: list[Finding] = []
    places = sorted(path for path in folder.iterdir() if path.is_dir() or path.is_symlink())
    for place in places:
        links = list(check_links(folder, place.name))
        findings += links
        if place.is_dir():
            try:
                read = read_model(place, machine)
            except OSError as error:
                read = _unreadable(folder, place.name, error)
            if isinstance(read, Finding):
                findings.append(read)
            else:
                models[place.name] = read
        elif not links:
            findings.append(Finding("error", place.name, place.name, "a link to nothing", "remove it"))
    if not places:
        findings.append(Finding("error", "", "./", "no model in it", "give the folder whose folders are the models"))
    return Repository(folder, models, machine), findings


def _apply(rule: Rule, model: Model, repository: Repository) -> Iterator[Finding]:
    try:
        yield from rule.check(model, repository)
    except OSError as error:
        yield _unreadable(repository.folder, model.name, error)


def _unreadable(folder: Path, model: str, error: OSError) -> Finding:
    path = Path(str(error.filename or folder / model))
    where = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
    return Finding("error", model, where, f"cannot be read: {error.strerror or error}", "let the server's user read it")


def _unchecked(models: Mapping[str, Model]) -> dict[str, list[str]]:
    """What no rule looked at, and in which models."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, model in models.items():
        if not model.is_ensemble and model.backend:
            found[_UNCHECKED.get(model.backend, f"the files of backend {model.backend!r}")].append(name)
        if model.parameter(ENVIRONMENT):
            found[f"the packages in {ENVIRONMENT}"].append(name)
    return dict(found)
