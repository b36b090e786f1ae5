"""Folders, files and links of a model: what is missing, what Triton passes over, what leads out of the repository."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from lwc.serving.checks.model import BACKEND_FILES, KNOWN_FOLDERS, Finding, Model, version_number

# What editors, notebooks and people leave behind; Python's own __pycache__ is not meant.
_LEFTOVER = re.compile(r"\..+|te?mp|.*~|.*[._-](bak|backup|old|orig|copy|swp|tmp)|.*\.ipynb", re.IGNORECASE)


def check_layout(model: Model) -> Iterator[Finding]:
    """Versions, model files, stray entries and links of one model."""
    yield from _strays(model)
    yield from _versions(model)
    yield from _model_files(model)


def _strays(model: Model) -> Iterator[Finding]:
    for path in sorted(model.folder.iterdir()):
        if path.is_dir():
            yield from _stray_folder(model, path)
        elif path.name in BACKEND_FILES.values():
            yield model.warning(
                f"ignored: it stands beside the version folders of {model.name}", "move it into 1/", path
            )
        elif _LEFTOVER.fullmatch(path.name):
            yield model.warning(f"ignored: no file of {model.name}", "remove it", path)
    for version in model.versions.values():
        for path in sorted(version.iterdir()) if version.is_dir() else ():
            if _LEFTOVER.fullmatch(path.name):
                yield model.warning(f"ignored: no part of {model.name}", "remove it", path)


def _stray_folder(model: Model, path: Path) -> Iterator[Finding]:
    name = path.name
    if name in KNOWN_FOLDERS or name == "__pycache__" or (name.isdecimal() and str(int(name)) == name):
        return
    number = version_number(name)
    if number is None:
        what = "leading zeros make it no version" if name.isdecimal() else f"no version of {model.name}"
        yield model.warning(f"ignored: {what}", "remove it, or name it with the number alone", path)
    elif number < 0:
        yield model.warning(f"Triton reads its name as version {number}", "number versions from 1", path)
    elif not (model.folder / str(number)).is_dir():
        yield model.error(
            f"Triton reads its name as version {number} and then opens {number}/, which is not there",
            "move it out of the model folder",
            path,
        )
    else:
        yield model.warning(
            f"ignored: Triton reads its name as version {number}, which is {number}/", "move it away", path
        )


def _versions(model: Model) -> Iterator[Finding]:
    versions, served, policy = model.versions, model.served, model.config.version_policy
    if not versions:
        hint = "make an empty folder 1/" if model.is_ensemble else "put the model into 1/"
        yield model.error("no version folder such as 1/", hint, model.folder)
        return
    listed = sorted(versions)
    if not served:
        wanted = f"specific {list(policy.specific.versions)}" if policy.HasField("specific") else "latest 0"
        yield model.error(
            f"the version policy selects none: {wanted}, there are {listed}", "select a version that is there"
        )
        return
    for number in policy.specific.versions:
        if number not in versions:
            yield model.warning(
                f"the version policy selects {number}, there are {listed}", "add the version or drop it from the policy"
            )
    for number, path in versions.items():
        if number >= 0 and number not in served and path.is_dir():  # a negative one is told by its name
            yield model.note(
                f"version {number} is not served: the version policy selects {sorted(served)}", "remove it", path
            )


def _model_files(model: Model) -> Iterator[Finding]:
    backend = model.backend
    if model.is_ensemble:
        return
    if not backend:
        yield model.error("no backend, and no model file that tells it", 'add `backend: "onnxruntime"` or another')
        return
    file = model_file_name(model)
    if file is None:
        known = ", ".join(BACKEND_FILES)
        yield model.note(f"the model files of backend {backend!r} are not checked", f"checked are those of {known}")
        return
    if escapes(file):
        yield model.error(f"default_model_filename {file!r} leads out of the version folder", "name a file in it")
        return
    for version in model.served.values():
        # A folder that is not there was told with the name that Triton misreads.
        if version.is_dir() and not (version / file).exists():
            others = sorted(path.name for path in version.glob(f"*{Path(file).suffix}"))
            hint = f"rename {others[0]}, or set default_model_filename" if others else "put the model there"
            yield model.error("no such file", hint, version / file)


def model_file_name(model: Model) -> str | None:
    """Name of the model file in a version folder; None for a backend that is not known here."""
    return model.config.default_model_filename or BACKEND_FILES.get(model.backend)


def escapes(name: str) -> bool:
    """Whether a file name of a configuration leads out of the folder it is looked up in."""
    return Path(name).is_absolute() or os.path.normpath(name).startswith("..")


def check_links(folder: Path, model: str) -> Iterator[Finding]:
    """Links under ``folder/model`` that leave the repository ``folder``, the model's own folder included.

    A container that mounts the repository alone does not have their targets, and a path out of the repository is how
    files of the host are read.
    """
    root = folder.resolve()
    top = folder / model
    for link in (path for path in (top, *top.rglob("*")) if path.is_symlink()):
        target = Path(os.path.realpath(link))
        if not target.is_relative_to(root):
            path = link.relative_to(folder).as_posix()
            what = f"a link that leaves the repository, to {target}"
            yield Finding("error", model, path, what, "copy the target into the repository")
