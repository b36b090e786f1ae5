"""What a model has to beat: popularity, recent popularity, and item-kNN."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse

from lwc.core.arrays import Array
from lwc.core.errors import MissingDependency
from lwc.tasks.next_item.splits import Train

DAY = 86_400


def popularity(train: Train, items: int, rows: int) -> Array:
    """Train counts of every item, the same for all users: (rows, V)."""
    counts = np.bincount(np.concatenate([np.asarray(row, dtype=np.int64) for row in train.items]), minlength=items)
    return np.tile(counts.astype(np.float64), (rows, 1))


def recent_popularity(train: Train, items: int, times: Array, days: int) -> Array:
    """Train counts in the ``days`` before each question was asked (N,), nothing after it: (N, V)."""
    numbers = np.concatenate([np.asarray(row, dtype=np.int64) for row in train.items])
    moments = np.concatenate([np.asarray(row, dtype=np.int64) for row in train.times])
    order = np.argsort(moments, kind="stable")
    numbers, moments = numbers[order], moments[order]
    starts = np.searchsorted(moments, times - days * DAY, side="left")
    ends = np.searchsorted(moments, times, side="left")
    return np.stack(
        [
            np.bincount(numbers[start:end], minlength=items).astype(np.float64)
            for start, end in zip(starts, ends, strict=True)
        ]
    )


def _matrix(histories: Sequence[Sequence[int]], items: int) -> Any:
    rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    columns = np.concatenate([np.asarray(history, dtype=np.int64) for history in histories])
    values = np.ones(len(columns), dtype=np.float64)
    return scipy.sparse.csr_matrix((values, (rows, columns)), shape=(len(histories), items))


def item_knn(train: Train, items: int, histories: Sequence[Sequence[int]], neighbours: int) -> Array:
    """Item-to-item nearest neighbours by cosine over users (the package ``implicit``): (N, V).

    A user's score of an item is the sum of its similarities to the items of the user's history. Items without any
    similarity are equal, and ranked by popularity like all equal scores here: a stronger floor than leaving them out.

    Raises:
        MissingDependency: ``implicit`` is not installed.
    """
    try:
        nearest = importlib.import_module("implicit.nearest_neighbours")
    except ImportError as error:
        raise MissingDependency(
            "the item-kNN floor needs the package implicit", "pip install 'lwc[recommender]'"
        ) from error
    model = nearest.CosineRecommender(K=min(neighbours, items), num_threads=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Method expects CSR input")  # of what implicit passes to itself
        model.fit(_matrix(train.items, items), show_progress=False)
    return np.asarray((_matrix(histories, items) @ model.similarity).todense())
