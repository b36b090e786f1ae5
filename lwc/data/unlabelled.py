"""More text for recovery distillation: the teacher answers, so that no label is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from lwc.core.errors import DataError
from lwc.data.cleaning import clean, fold, near_duplicates
from lwc.data.rows import Bad
from lwc.data.sources.registry import SOURCES
from lwc.recipe import Data, Unlabelled


def more_texts(config: Unlabelled, data: Data, data_dir: Path, seed: int, progress: Callable[[str], None]) -> list[str]:
    """Texts of another source, or of the labelled one's unused rows, that tell nothing about the held-out splits.

    Left out: rows of a user who is in validation or test, copies of any text of the data stage, and near copies
    (``data.near_duplicate_threshold``) of held-out texts. Labels and stars are not read.

    Raises:
        DataError: no text is left.
    """
    held_out: list[str] = []
    known: set[str] = set()
    strangers: set[str] = set()
    for split in ("validation", "test", "train"):
        table = pq.read_table(data_dir / f"{split}.parquet", columns=["text", "user"])
        folded = [fold(text) for text in table["text"].to_pylist()]
        known.update(folded)
        if split != "train":
            held_out += folded
            strangers.update(user for user in table["user"].to_pylist() if user is not None)
    found: dict[str, str] = {}
    for item in SOURCES[config.source.kind].read(config.source, progress):
        if isinstance(item, Bad) or item.user in strangers:
            continue
        parts = [getattr(item, field) for field in data.text_fields]
        text = clean("\n".join(part for part in parts if part))
        key = fold(text)
        if key and key not in known:
            found.setdefault(key, text)
    keys = list(found)
    if config.limit is not None and config.limit < len(keys):
        chosen = np.random.default_rng([seed, 3]).permutation(len(keys))[: config.limit]
        keys = [keys[index] for index in sorted(chosen)]
    threshold = data.near_duplicate_threshold
    near = near_duplicates([*held_out, *keys], threshold) if threshold < 1 else set()
    texts = [found[key] for place, key in enumerate(keys, start=len(held_out)) if place not in near]
    if not texts:
        raise DataError(
            "recover.unlabelled: no text is left that the data stage does not already hold", "name another source"
        )
    return texts
