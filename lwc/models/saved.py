"""A checkpoint's folder as its files describe it: config, headers of the weights. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

from lwc.core.errors import ModelError
from lwc.core.store import LFS_POINTER
from lwc.models.families import Family, family_named

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_EMBEDDINGS = ("word_embeddings.weight", "tok_embeddings.weight", "embed_tokens.weight", "wte.weight")
HEAD_OUTPUTS = ("classifier.weight", "classifier.out_proj.weight", "score.weight")
"""The last layer of a sequence classifier's head, in every family of the table."""
CLASSIFIER_SUFFIX = "ForSequenceClassification"
"""End of the class name of every sequence classifier of transformers."""


class Weight(NamedTuple):
    """A tensor as its file's header declares it."""

    file: str
    dtype: str
    shape: tuple[int, ...]


class Fault(NamedTuple):
    """What is wrong, and what to do."""

    message: str
    hint: str


@dataclass(frozen=True)
class Saved:
    """A checkpoint's folder, and what it is meant for."""

    folder: Path
    task: str

    def has(self, name: str) -> bool:
        """Whether the folder contains this file."""
        return (self.folder / name).is_file()

    def read(self, name: str) -> dict[str, Any]:
        """A JSON object, {} where there is no such file."""
        path = self.folder / name
        if not path.is_file():
            return {}
        try:
            found = json.loads(path.read_bytes())
        except ValueError as error:
            raise ModelError(f"{path}: not JSON: {error}", "copy the file again") from error
        if not isinstance(found, dict):
            raise ModelError(f"{path}: a JSON {type(found).__name__}, not an object", "copy the file again")
        return found

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json`` as written."""
        return self.read("config.json")

    @cached_property
    def family(self) -> Family:
        """The row of the config's model type."""
        return family_named(str(self.config["model_type"]))

    @cached_property
    def weights(self) -> dict[str, Weight]:
        """Every tensor by name, from the headers of the files that transformers would read."""
        if self.has(WEIGHTS):
            return self._header(WEIGHTS)
        placed = self.read(INDEX).get("weight_map")
        if not isinstance(placed, dict) or not placed:
            raise ModelError(f"{self.folder / INDEX}: no weight_map", "copy the file again")
        shards = sorted(set(map(str, placed.values())))
        absent = [shard for shard in shards if not self.has(shard)]
        if absent:
            raise ModelError(
                f"{self.folder / INDEX}: {len(absent)} of {len(shards)} files are missing: {', '.join(absent)}",
                "copy the whole folder",
            )
        found = {name: weight for shard in shards for name, weight in self._header(shard).items()}
        lost = sorted(set(placed) - set(found))
        if lost:
            raise ModelError(
                f"{self.folder / INDEX}: {len(lost)} of {len(placed)} weights are in none of its files, e.g. {lost[0]}",
                "copy the whole folder",
            )
        return found

    def _header(self, name: str) -> dict[str, Weight]:
        path = self.folder / name
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ModelError(f"{path}: a Git LFS pointer, not weights", "run `git lfs pull`")
        size = path.stat().st_size
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                tensors = dict(json.loads(file.read(length) if length < size else b""))
            tensors.pop("__metadata__", None)
            found = {
                key: Weight(name, str(one["dtype"]), tuple(map(index, one["shape"]))) for key, one in tensors.items()
            }
            end = 8 + length + max((index(one["data_offsets"][1]) for one in tensors.values()), default=0)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path}: {size:,} bytes without a safetensors header", "copy the file again") from error
        if end != size:
            raise ModelError(f"{path}: {size:,} bytes, its header describes {end:,}", "copy the file again")
        return found

    @cached_property
    def blocks(self) -> dict[str, set[int]]:
        """Numbers of the blocks that have weights, by what stands before the path of the family's block list."""
        path = re.compile(rf"(?:(.*)\.)?{re.escape(self.family.blocks)}\.(\d+)\.")
        found: dict[str, set[int]] = {}
        for match in filter(None, map(path.match, self.weights)):
            found.setdefault(match[1] or "", set()).add(int(match[2]))
        return found

    @cached_property
    def embeddings(self) -> tuple[str, Weight] | None:
        """The table of token vectors."""
        return self.named(_EMBEDDINGS)

    def named(self, ends: tuple[str, ...]) -> tuple[str, Weight] | None:
        """The first weight whose name has one of these ends."""
        return next(((name, one) for name, one in self.weights.items() if name.endswith(ends)), None)

    @cached_property
    def head(self) -> tuple[str, int] | None:
        """(name, outputs) of a trained classification head; None without one."""
        return next(((name, self.weights[name].shape[0]) for name in HEAD_OUTPUTS if name in self.weights), None)


def sizes(shape: Sequence[int]) -> str:
    """A shape in words."""
    return " × ".join(map(str, shape))
