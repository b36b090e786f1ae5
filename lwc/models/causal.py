"""Find and load a causal language model: a folder, a hub id, or a package that carries one (safetensors or GGUF)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lwc.core.errors import MissingDependency, ModelError
from lwc.core.store import digest_paths
from lwc.models.checkpoint import check_checkpoint
from lwc.models.families import CAUSAL_LM, Family, family_of
from lwc.models.loaded import check_loaded, reading
from lwc.models.source import PACKAGE, checked_hub_id, resolve_folder
from lwc.models.types import Model, Tokenizer

LLAMA_FAMILY = ("llama", "mistral")
"""Decoders whose blocks take and return one (B, T, D) tensor and whose base model ends in ``norm``."""


@dataclass(frozen=True)
class CausalSource:
    """Where the weights are, and what a measurement depends on: their content and the libraries that read them."""

    name: str
    place: str
    gguf_file: str | None
    digest: str
    libraries: dict[str, str] = field(default_factory=dict)


def _inside(name: str, root: Path, gguf_file: str | None) -> tuple[Path, str | None]:
    """(folder, GGUF file in it or None) of a checkpoint under ``root``."""
    if gguf_file is not None:
        if not (root / gguf_file).is_file():
            raise ModelError(f"{name}: no file {gguf_file!r} under {root}", "fix gguf_file")
        return root, gguf_file
    whole = [path.parent for path in sorted(root.rglob("config.json")) if any(path.parent.glob("*.safetensors"))]
    if whole:
        return min(whole, key=lambda folder: len(folder.parts)), None
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.gguf"))
    if not files and any((root / name).is_file() for name in ("config.json", "adapter_config.json")):
        check_checkpoint(root, task=CAUSAL_LM)
    if len(files) != 1:
        what = f"{len(files)} GGUF files ({', '.join(files)})" if files else "neither safetensors nor GGUF weights"
        raise ModelError(f"{name}: {what} under {root}", "name one with gguf_file" if files else "fix the source")
    return root, files[0]


def _libraries(gguf_file: str | None) -> dict[str, str]:
    found = {"transformers": version("transformers")}
    if gguf_file is not None:
        try:
            found["gguf"] = version("gguf")
        except PackageNotFoundError as error:
            raise MissingDependency("reading GGUF weights needs the package gguf", "pip install gguf") from error
    return found


def locate_causal(source: str, gguf_file: str | None = None) -> CausalSource:
    """The LM a recipe names, with a digest of its content; loads no weights.

    Raises:
        ModelError: there is nothing usable.
        MissingDependency: the package, the GGUF reader or the hub id is not there.
    """
    root = Path(resolve_folder(source))
    if source.startswith(PACKAGE) or root.is_dir():
        folder, file = _inside(source, root, gguf_file)
        weights = (
            [folder / file] if file else sorted(p for p in folder.iterdir() if p.suffix in {".json", ".safetensors"})
        )
        return CausalSource(source, str(folder), file, digest_paths(weights), _libraries(file))
    how = {"gguf_file": gguf_file} if gguf_file else {}
    try:
        commit = AutoConfig.from_pretrained(checked_hub_id(source), **how)._commit_hash
    except (OSError, ValueError) as error:
        raise MissingDependency(
            f"{source}: not a local folder, and not reachable on the hub", "download it and give the folder's path"
        ) from error
    if commit is None:
        raise MissingDependency(f"{source}: the hub names no commit of it", "download it and give the folder's path")
    return CausalSource(source, source, gguf_file, f"{source}@{commit} {gguf_file}", _libraries(gguf_file))


def model_type(source: CausalSource, types: Sequence[str] | None = None) -> str:
    """The model type that the config names; raises `ModelError` where it is none of ``types`` or cannot be read."""
    how = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    try:
        found = str(AutoConfig.from_pretrained(source.place, **how).model_type)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{source.name}: cannot be loaded: {error}", "name a whole causal LM with its tokenizer"
        ) from error
    if types is not None and found not in types:
        raise ModelError(f"{source.name}: model type {found!r} is not of the LLaMA family", f"use {' or '.join(types)}")
    return found


def load_causal(source: CausalSource, types: Sequence[str] | None = None) -> tuple[Model, Family, Tokenizer]:
    """(model in float32 and eval mode with eager attention, family, tokenizer).

    Raises:
        ModelError: as `load_causal_model`, or no tokenizer.
    """
    if source.gguf_file is None and Path(source.place).is_dir():
        check_checkpoint(Path(source.place), task=CAUSAL_LM)
    model, family = load_causal_model(source, types)
    how = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    with reading(source.name):
        tokenizer = AutoTokenizer.from_pretrained(source.place, **how)
    return model, family, tokenizer


def load_causal_model(source: CausalSource, types: Sequence[str] | None = None) -> tuple[Model, Family]:
    """(model in float32 and eval mode with eager attention, family).

    Raises:
        ModelError: not one of these model types (default: any decoder of the family table), or weights missing (scores
            of random weights look like any).
    """
    how: dict[str, Any] = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    if source.gguf_file is None and Path(source.place).is_dir():
        check_checkpoint(Path(source.place), task=CAUSAL_LM, tokenizer=False)
    kind = model_type(source, types)
    with reading(source.name):
        model, info = AutoModelForCausalLM.from_pretrained(
            source.place,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **(how or {"use_safetensors": True}),
        )
    check_loaded(source.name, model, info)
    family = family_of(model)
    if not family.decoder:
        raise ModelError(f"{source.name}: model type {kind!r} is no decoder", "use a causal language model")
    output = model.get_output_embeddings()
    if model.config.tie_word_embeddings and output.weight is not model.get_input_embeddings().weight:
        raise ModelError(
            f"{source.name}: config.json says tie_word_embeddings: true, and the output matrix is not the embeddings",
            "set tie_word_embeddings: false in config.json",
        )
    if getattr(model, "hf_quantizer", None) is not None:
        # Weights read from GGUF are float32 by now, but the model counts as quantized and refuses to be saved.
        del model.hf_quantizer, model.config.quantization_config
        model.is_quantized = False
    return model.eval(), family
