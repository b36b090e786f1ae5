"""More text for recovery distillation. The teacher labels it, so that it needs no labels of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from lwc.core.errors import DataError
from lwc.data.bad_rows import good_rows
from lwc.data.duplicates import fold, near_duplicates
from lwc.data.prepare import joined_text
from lwc.recipe import Data, Unlabelled


def more_texts(config: Unlabelled, data: Data, data_dir: Path, seed: int, progress: Callable[[str], None]) -> list[str]:
    """Texts of another source, or unused rows of the labelled one, that reveal nothing of the held-out splits.

    Left out are rows of users in validation or test, duplicates of any text of the data stage, and near duplicates
    (``data.near_duplicate_threshold``) of held-out texts. Labels and stars are ignored.

    Raises:
        DataError: no text is left, or too many rows are bad.
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
    for item in good_rows(config.source.reading({*data.text_fields, "user"}), data.max_bad_rows, progress):
        if item.user in strangers:
            continue
        text = joined_text(item, data.text_fields)
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
        raise DataError("recover.unlabelled: every text is a duplicate or of a held-out user", "name another source")
    return texts
