"""Disjoint splits by user, by time, or at random and stratified; and how to load them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from lwc.core.arrays import Array
from lwc.core.errors import DataError
from lwc.core.store import read_json
from lwc.recipe import Split

NAMES = ("train", "validation", "test")


@dataclass(frozen=True)
class Examples:
    """Rows of a split: ids (N,), texts, label ids (N,)."""

    ids: Array
    texts: list[str]
    labels: Array

    def __len__(self) -> int:
        return len(self.texts)


def load_split(folder: Path, name: str) -> Examples:
    """Load ``train``, ``validation``, ``calibration`` or ``test`` from the folder of a data stage."""
    table = pq.read_table(folder / f"{name}.parquet", columns=["id", "text", "label"])
    return Examples(
        table["id"].to_numpy().astype(np.int64), table["text"].to_pylist(), table["label"].to_numpy().astype(np.int64)
    )


def load_labels(folder: Path) -> list[str]:
    """The class names; a label id is a position in this list."""
    return [str(name) for name in read_json(folder / "labels.json")]


def kind_of(settings: Split, rows: int, without: Mapping[str, int]) -> str:
    """The recipe's kind of split. ``auto`` is user if any row has one, else time if all rows have one, else random.

    A few rows without a user do not prevent a split by user: see `owner`.

    Args:
        without: number of rows without a ``user`` and without a ``time``.

    Raises:
        DataError: the recipe names a field that rows lack.
    """
    if settings.by == "auto":
        return "user" if without["user"] < rows else "time" if without["time"] == 0 else "random"
    if without.get(settings.by):
        raise DataError(
            f"data.split.by is {settings.by}, but {without[settings.by]:,} of {rows:,} rows have no {settings.by}",
            "use by: auto, in which each row without a user counts as a user of its own, or by: random",
        )
    return settings.by


def owner(user: str | None, text: str) -> str:
    """What decides the split of a row: its user, or its text if it has none. No two rows have the same text."""
    return user if user is not None else f"\0{text}"


MOST_OF_ONE_USER = 0.1
"""A user with a larger share of the rows makes splits by user uneven."""


def largest_user(rows_of: Counter[str], rows: int) -> dict[str, Any] | None:
    """The user with most of the rows, if it has more than `MOST_OF_ONE_USER` of them."""
    user, most = max(rows_of.items(), key=lambda one: (one[1], one[0]), default=("", 0))
    return {"user": user, "rows": most} if most > MOST_OF_ONE_USER * rows else None


def positions_of(seed: int, owners: Sequence[str]) -> Array:
    """A number from 0 to 1 for each owner (N,): a hash of seed and name, whatever other owners there are."""
    salt, sha256 = f"{seed}\0".encode(), hashlib.sha256
    digests = b"".join([sha256(salt + one.encode()).digest() for one in owners])
    return np.frombuffer(digests, dtype=">u8")[::4] / 2.0**64


def assign(
    kind: str,
    shares: tuple[float, float],
    labels: Sequence[int],
    owners: Sequence[str],
    times: Sequence[int | None],
    seed: int,
) -> Array:
    """The split of each row (N,): 0 train, 1 validation, 2 test.

    Args:
        shares: of validation and test; 0 draws none.
        kind: ``user`` keeps all rows of an `owner` together, by a hash. ``time`` puts the oldest rows into train, the
            newest into test, and rows of the same moment together. ``random`` is stratified by label.
    """
    count = len(labels)
    first, second = 1 - sum(shares), 1 - shares[1]
    if kind == "user":
        positions = positions_of(seed, owners)
    elif kind == "time":
        moments = np.array([int(time) if time is not None else 0 for time in times])
        ordered = np.sort(moments)
        # The share of older rows, which is the same for equal moments.
        positions = np.searchsorted(ordered, moments, side="left") / count
    else:
        positions = np.empty(count)
        random = np.random.default_rng(seed)
        for label in np.unique(labels):
            rows = np.flatnonzero(np.asarray(labels) == label)
            positions[random.permutation(rows)] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.where(positions < first, 0, np.where(positions < second, 1, 2))
