"""Item vectors from text: where they start, and how items that nobody has taken yet get one.

Warm items start at their text's vector and are trained from there. A cold item is never trained; its vector is what a
ridge regression from text vectors to *trained* vectors says of its text (Barkan et al. 2019, CB2CF). All of it ends in
the one table of item vectors, so that the checkpoint stays a stock model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import RidgeCV

from lwc.core.arrays import Array
from lwc.core.errors import DataError
from lwc.data.bad_rows import good_rows
from lwc.recipe import TableFile
from lwc.tasks.next_item.histories import Event

# GPT-2 starts its item vectors with this standard deviation: text vectors are brought to it.
START_STD = 0.02
_RIDGES = tuple(float(ridge) for ridge in np.logspace(-2, 4, 13))


def item_texts(
    train: Mapping[str, Iterable[Event]], metadata: TableFile | None, progress: Callable[[str], None]
) -> dict[str, str]:
    """The text of each item that has any: its metadata, then its train reviews (never those of held-out events)."""
    texts: dict[str, list[str]] = {}
    if metadata is not None:
        for row in good_rows(metadata.reading({"item", "title", "body"}), 1, progress):
            if row.item is not None:
                texts.setdefault(row.item, []).extend(text for text in (row.title, row.body) if text)
    for events in train.values():
        for event in events:
            if event.text:
                texts.setdefault(event.item, []).append(event.text)
    return {item: "\n".join(parts) for item, parts in texts.items() if parts}


def write_texts(texts: Sequence[str], path: Path) -> None:
    """Texts in the order of the catalogue."""
    pq.write_table(pa.table({"text": pa.array(list(texts), pa.string())}), path)


def read_texts(path: Path) -> list[str]:
    """What `write_texts` wrote."""
    found: list[str] = pq.read_table(path).column("text").to_pylist()
    return found


def text_vectors(texts: Sequence[str], width: int, seed: int) -> Array:
    """Vectors (V, width) of texts: TF-IDF, truncated SVD, every column scaled to `START_STD`; zeros for no text.

    Raises:
        DataError: the texts share too few words for so many dimensions.
    """
    try:
        words = TfidfVectorizer(sublinear_tf=True, min_df=2, max_features=50_000, stop_words="english")
        weighted = words.fit_transform(texts)
    except ValueError as error:
        raise DataError(f"the item texts cannot be used: {error}", "name other text, or leave task.text out") from error
    if weighted.shape[1] <= width:
        raise DataError(
            f"the item texts share {weighted.shape[1]} words, too few for vectors of {width}",
            "lower model.hidden, or leave task.text out",
        )
    found = TruncatedSVD(width, random_state=seed).fit_transform(weighted)
    return np.asarray(START_STD * found / np.maximum(found.std(axis=0), 1e-12), dtype=np.float32)


def cold_vectors(text: Array, trained: Array) -> Array:
    """Vectors (V − W, D) of the cold items, from the text (V, D) of all and the trained vectors (W, D) of the first W.

    The strength of the ridge is chosen by leave-one-out on the warm items.
    """
    warm = len(trained)
    model = RidgeCV(alphas=_RIDGES).fit(text[:warm] / START_STD, trained)
    return np.asarray(model.predict(text[warm:] / START_STD), dtype=np.float32)
