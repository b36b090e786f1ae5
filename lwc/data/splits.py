"""Disjoint splits: by user, by time, or random and stratified; and reading them back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    """Read ``train``, ``validation``, ``calibration`` or ``test`` from a data stage's folder."""
    table = pq.read_table(folder / f"{name}.parquet", columns=["id", "text", "label"])
    return Examples(
        table["id"].to_numpy().astype(np.int64), table["text"].to_pylist(), table["label"].to_numpy().astype(np.int64)
    )


def load_labels(folder: Path) -> list[str]:
    """Class names; a label id is a position in this list."""
    return [str(name) for name in read_json(folder / "labels.json")]


def choose(settings: Split, users: Sequence[str | None], times: Sequence[int | None]) -> str:
    """The kind of split, see `kind_of`."""
    without = {"user": sum(user is None for user in users), "time": sum(time is None for time in times)}
    return kind_of(settings, len(users), without)


def kind_of(settings: Split, rows: int, without: Mapping[str, int]) -> str:
    """What the recipe names, or for ``auto``: user where any row has one, else time where all have, else random.

    ``without`` counts the rows that have no user and no time. One nameless row must not put the users of all others
    on both sides of a split: `owner` says where it goes.

    Raises:
        DataError: the recipe names a field that rows lack.
    """
    if settings.by == "auto":
        return "user" if without["user"] < rows else "time" if without["time"] == 0 else "random"
    if without.get(settings.by):
        raise DataError(
            f"data.split.by is {settings.by}, but {without[settings.by]:,} of {rows:,} rows have no {settings.by}",
            "use by: auto, which takes each row without a user as a user of its own, or by: random",
        )
    return settings.by


def owner(user: str | None, text: str) -> str:
    """Who a row is split by: its user, or itself where it has none. No two rows have one text, so none is shared."""
    return user if user is not None else f"\0{text}"


def positions_of(seed: int, owners: Sequence[str]) -> Array:
    """Where owners (N,) stand between 0 and 1: a hash of seed and name, so that it needs no memory of other owners."""
    salt, sha256 = f"{seed}\0".encode(), hashlib.sha256
    digests = b"".join([sha256(salt + one.encode()).digest() for one in owners])
    return np.frombuffer(digests, dtype=">u8")[::4] / 2.0**64


def assign(
    kind: str,
    settings: Split,
    labels: Sequence[int],
    owners: Sequence[str],
    times: Sequence[int | None],
    seed: int,
) -> Array:
    """Split of each row (N,) as 0 train, 1 validation, 2 test.

    ``user``: the hash of an `owner` decides, so that all rows of a user land together whatever else is in the data.
    ``time``: oldest rows train, newest test; rows of one moment stay together. ``random``: stratified by label.
    """
    count = len(labels)
    first, second = 1 - settings.validation - settings.test, 1 - settings.test
    if kind == "user":
        positions = positions_of(seed, owners)
    elif kind == "time":
        moments = np.array([int(time) if time is not None else 0 for time in times])
        ordered = np.sort(moments)
        # The share of rows that are older: equal moments share a value.
        positions = np.searchsorted(ordered, moments, side="left") / count
    else:
        positions = np.empty(count)
        random = np.random.default_rng(seed)
        for label in np.unique(labels):
            rows = np.flatnonzero(np.asarray(labels) == label)
            positions[random.permutation(rows)] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.where(positions < first, 0, np.where(positions < second, 1, 2))
