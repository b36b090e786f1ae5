"""What is sound before a test damages it. Not a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Commands = list[list[str]]
SMALL: dict[str, Any] = {
    "schema_version": 1, "name": "small", "seed": 3,
    "data": {
        "source": {"kind": "table", "paths": ["rows.csv"], "columns": {"body": "text", "label": "label"}},
        "labels": {"scheme": "column"}, "calibration": 16,
    },
    "model": {"kind": "config", "blocks": 4, "hidden": 16, "heads": 2, "vocab_size": 200, "max_length": 16},
    "train": {"epochs": 0.2}, "recover": {"epochs": 0.2},
    "target": {"ratio": 2, "of": "blocks"},
    "export": {"latency_shapes": [{"batch": 1, "length": 16}]},
}  # fmt: skip


@dataclass(frozen=True)
class Sound:
    """What is made once and then damaged: never changed in place.

    Args:
        recipes: the recipes of this project.
        checkpoints: folders of saved models, by the task of a recipe.
        repositories: Triton repositories.
        runs: a folder with finished runs.
        data: a folder with ``rows.csv`` and the data stages of `SMALL` in ``runs``.
    """

    recipes: list[Path]
    checkpoints: Mapping[str, Path]
    repositories: list[Path]
    runs: Path
    data: Path
