"""Folders, files and links of a model: what is missing, what Triton passes over, what leads out of the repository."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from lwc.export.onnx_io import is_lfs_pointer
from lwc.serving.checks.model import (
    BACKEND_FILES,
    ENVIRONMENT,
    KNOWN_FOLDERS,
    Finding,
    Model,
    Repository,
    escapes,
    version_number,
)

# Names that reach Triton unchanged in a URL, and that the Python backend can pass on: it starts its processes through a
# shell, and does not quote.
NAME = re.compile(r"[A-Za-z0-9._-]+")
_HIGHEST_VERSION = 2**63 - 1
# User and group of the container, see `lwc.serving.triton.server.docker_command`.
USER = 1000
# What editors, notebooks and people leave behind; Python's own __pycache__ is not meant.
_LEFTOVER = re.compile(r"\..+|te?mp|.*~|.*[._-](bak|backup|old|orig|copy|swp|tmp)|.*\.ipynb", re.IGNORECASE)


def check_layout(model: Model, repository: Repository) -> Iterator[Finding]:
    """Name, versions, model files and stray entries of one model."""
    del repository
    yield from _name(model)
    yield from _strays(model)
    yield from _versions(model)
    yield from _model_files(model)


def _name(model: Model) -> Iterator[Finding]:
    if model.config.name not in ("", model.name):
        yield model.error(f"its name is {model.config.name!r}, the folder's is {model.name!r}", "make both equal")
    if not NAME.fullmatch(model.name):
        odd = "".join(sorted(set(re.sub(NAME, "", model.name))))
        yield model.error(
            f"its name has {odd!r}: HTTP clients encode it, which Triton does not undo, and its Python backend passes"
            " names to a shell",
            "use letters, digits, '.', '_' and '-'",
            model.folder,
        )
    elif model.name.startswith("."):
        yield model.warning("its name starts with a dot: most tools do not show it", "rename it", model.folder)


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
    # A folder where a file should be is reported with what names the file.
    named = {entry.label_filename for entry in model.config.output} | {*Path(model.parameter(ENVIRONMENT) or "").parts}
    if name in KNOWN_FOLDERS or name == "__pycache__" or name in named:
        return
    number = version_number(name)
    if number is not None and number > _HIGHEST_VERSION:
        yield model.error(
            f"version above {_HIGHEST_VERSION}: Triton ends when it reads it", "number versions from 1", path
        )
    elif number is None:
        what = "leading zeros make it no version" if name.startswith("0") else f"no version of {model.name}"
        yield model.warning(f"ignored: {what}", "remove it, or name it with the number alone", path)
    elif number < 0:
        served = model.error if number in model.served else model.warning
        yield served(f"Triton reads its name as version {number}", "number versions from 1", path)
    elif name == str(number):
        return
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
    file = model.file_name
    if file is None:
        return
    if escapes(file):
        yield model.error(f"default_model_filename {file!r} leads out of the version folder", "name a file in it")
        return
    for version in model.served.values():
        path = version / file
        if path.is_file():
            if backend != "onnxruntime" and is_lfs_pointer(path):
                yield model.error("a Git LFS pointer, not a model", "run `git lfs pull`", path)
            elif not path.stat().st_size and backend == "tensorrt":
                yield model.error("empty", "copy the model again", path)
        elif path.is_dir():
            if backend != "onnxruntime":
                yield model.error("a folder, not a file", "put the model file there", path)
            elif not (path / "model.onnx").is_file():
                yield model.error("no such file", "put the model there", path / "model.onnx")
        # A folder that is not there was told with the name that Triton misreads.
        elif version.is_dir():
            others = sorted(one.name for one in version.iterdir() if one.suffix == Path(file).suffix)
            hint = f"rename {others[0]}, or set default_model_filename" if others else "put the model there"
            yield model.error("no such file", hint, path)


def check_private(repository: Repository) -> Iterator[Finding]:
    """What only its owner may read, told once: a copy made under umask 077, say."""
    models = [model.folder for model in repository.models.values()]
    private = sorted(path for model in models for path in (model, *model.rglob("*")) if not _readable(path))
    if private:
        first = private[0].relative_to(repository.folder).as_posix() + ("/" if private[0].is_dir() else "")
        more = f", nor are {len(private) - 1} more files and folders" if len(private) > 1 else ""
        yield Finding(
            "warning",
            first.partition("/")[0],
            first,
            f"not readable for user {USER}, which the container of `lwc serve --docker` and deploy/ runs as{more}",
            f"chmod -R a+rX {shlex.quote(str(repository.folder))}",
        )


def _readable(path: Path) -> bool:
    """Whether the user of the container may read a file, or a folder and what it lists; links are judged by theirs."""
    if path.is_symlink():
        return True
    found = path.stat()
    shift = 6 if found.st_uid == USER else 3 if found.st_gid == USER else 0
    wanted = 0o5 if path.is_dir() else 0o4
    return (found.st_mode >> shift) & wanted == wanted


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
