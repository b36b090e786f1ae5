"""Made-up shops whose next item is known, for tests of the recommender."""

from __future__ import annotations

import csv
import random
from pathlib import Path

from lwc.recipe import Recipe

ITEMS = 20


def item(number: int) -> str:
    return f"I{number % ITEMS:03d}ü"


def write_chain(path: Path, users: int = 150, length: int = 8, seed: int = 0) -> None:
    """Everybody buys item i + 1 after item i, each from a start of one's own: popularity knows nothing of it."""
    draw = random.Random(seed)
    rows = []
    for user in range(users):
        start = draw.randrange(ITEMS)
        rows += [(f"u{user}", item(start + step), 1_000_000_000 + user + step * 86_400) for step in range(length)]
    draw.shuffle(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time", "text"])
        writer.writerows([*row, "a text"] for row in rows)


def recipe(path: Path, **changes: object) -> Recipe:
    """A small recipe over `write_chain`."""
    columns = {"body": "text", "user": "user", "item": "item", "time": "time"}
    content: dict[str, object] = {
        "schema_version": 1,
        "name": "shop",
        "data": {"source": {"kind": "table", "paths": [str(path)], "columns": columns}, "calibration": 40},
        "task": {"kind": "next_item", "top_k": 12},
        "model": {"kind": "config", "blocks": 3, "hidden": 16, "heads": 2, "dropout": 0.0, "max_length": 8},
        "train": {"epochs": 8, "batch_size": 16, "learning_rate": 1e-2, "patience": 8, "precision": "fp32"},
        "recover": {"epochs": 2, "batch_size": 16, "learning_rate": 3e-3, "precision": "fp32"},
        "target": {"ratio": 1.5, "of": "blocks"},
        "evaluate": {"bootstrap": 200},
        "export": {"latency_repeats": 3, "latency_shapes": [{"batch": 1, "length": 8}]},
        "package": {"max_batch_size": 8, "intra_op_threads": 1},
        "verify": {"users": 2, "seconds": 3, "warmup_seconds": 0.5, "min_requests": 20},
    }
    return Recipe.model_validate({**content, **changes})
