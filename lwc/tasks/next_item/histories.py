"""Who took what, when: interactions from any review source, and the catalogue that item numbers come from."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lwc.core.errors import DataError
from lwc.core.spelling import likeness
from lwc.core.store import read_json, write_json
from lwc.data.bad_rows import check_bad, read_good
from lwc.data.rows import Bad, Reason, Row
from lwc.recipe import Data

UNKNOWN = -1
"""Stands for an item that the catalogue does not have."""


@dataclass(frozen=True)
class Event:
    """A user took an item, in seconds since 1970, and wrote ``text`` about it (empty where nobody asks for it)."""

    user: str
    item: str
    time: int
    text: str = ""


@dataclass(frozen=True)
class Catalogue:
    """The items that can be recommended, the most popular first: item number i is ``items[i]``.

    ``counts`` are the train events of each; those with none, known from their text alone, come last. This order *is*
    the popularity list, and ties of scores are settled by it, offline as in the served graph.
    """

    items: tuple[str, ...]
    counts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.items)

    def numbers(self) -> dict[str, int]:
        """Item id → item number."""
        return {item: number for number, item in enumerate(self.items)}

    def digest(self) -> str:
        """SHA-256 of ids and counts in order: model and catalogue belong together only where it is the same."""
        text = json.dumps([list(self.items), list(self.counts)], ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def write(self, path: Path) -> None:
        """As JSON, with its digest."""
        write_json(path, {"items": list(self.items), "counts": list(self.counts), "sha256": self.digest()})

    @property
    def trained(self) -> int:
        """How many items train has events of; the others are cold."""
        return sum(count > 0 for count in self.counts)

    def with_cold(self, items: Iterable[str]) -> Catalogue:
        """The same with these items after its own, those it has already left out."""
        cold = sorted(set(items) - set(self.items))
        return Catalogue((*self.items, *cold), (*self.counts, *[0] * len(cold)))

    @classmethod
    def read(cls, path: Path) -> Catalogue:
        """What `write` wrote.

        Raises:
            DataError: ids and digest do not belong together.
        """
        content = read_json(path)
        found = cls(tuple(content["items"]), tuple(content["counts"]))
        if found.digest() != content["sha256"]:
            raise DataError(f"{path}: its items are not those that its SHA-256 was taken of", "make it again")
        return found


def catalogue_of(items: Iterable[str], min_count: int) -> Catalogue:
    """The catalogue of these train events: items that occur ``min_count`` times, by count, equal ones by id."""
    counted = sorted(((item, n) for item, n in Counter(items).items() if n >= min_count), key=lambda e: (-e[1], e[0]))
    return Catalogue(tuple(item for item, _ in counted), tuple(n for _, n in counted))


def _tie(event: Event) -> str:
    """Order of events in the same second: neither the file's, which often is that of the ids, nor that of the ids.

    Review files have days, not seconds, and list products by id: in file order "the next item" is the one with the
    next id, which a model learns at once and which tells nothing.
    """
    return hashlib.sha256(f"{event.user}\0{event.item}".encode()).hexdigest()


def histories(events: Iterable[Event], min_history: int) -> tuple[dict[str, list[Event]], dict[str, int]]:
    """Each user's events in time order, every item once (the first time), and what was left out.

    Users with fewer than ``min_history`` items are left out. Users come in order of their names.
    """
    first: dict[tuple[str, str], Event] = {}
    repeats = 0
    for event in events:
        before = first.get((event.user, event.item))
        repeats += before is not None
        if before is None or event.time < before.time:
            first[event.user, event.item] = event
    found: dict[str, list[Event]] = {}
    for event in first.values():
        found.setdefault(event.user, []).append(event)
    kept = {
        user: sorted(mine, key=lambda event: (event.time, _tie(event)))
        for user, mine in sorted(found.items())
        if len(mine) >= min_history
    }
    events_left_out = sum(len(mine) for mine in found.values()) - sum(len(mine) for mine in kept.values())
    return kept, {
        "repeated_events": repeats,
        "users_left_out": len(found) - len(kept),
        "events_of_users_left_out": events_left_out,
    }


def limited(found: Mapping[str, list[Event]], limit: int | None, seed: int) -> dict[str, list[Event]]:
    """Histories of users drawn at random, as many as have at most ``limit`` events together: a history stays whole.

    Raises:
        DataError: not even one history is so short.
    """
    if limit is None:
        return dict(found)
    users = [list(found)[index] for index in np.random.default_rng(seed).permutation(len(found))]
    ends = np.cumsum([len(found[user]) for user in users])
    chosen = set(users[: int(np.searchsorted(ends, limit, side="right"))])
    if found and not chosen:
        raise DataError(
            f"data.limit is {limit} events, and the first history drawn has {ends[0]}",
            f"set data.limit to {ends[0]} or more: histories are taken whole",
        )
    return {user: mine for user, mine in found.items() if user in chosen}


def _event(row: Row, fields: Sequence[str]) -> Event | Bad:
    given = ((row.user, Reason.NO_USER), (row.item, Reason.NO_ITEM), (row.time, Reason.NO_TIME))
    for value, reason in given:
        if value is None:
            return Bad(row.file, row.line, reason)
    return Event(str(row.user), str(row.item), int(row.time or 0), "\n".join(getattr(row, name) for name in fields))


def read_events(
    data: Data, quarantine: Path, progress: Callable[[str], None], texts: bool = False
) -> tuple[list[Event], dict[str, Any]]:
    """Every row of the source that has user, item and time; the others go to ``quarantine`` with the reason.

    Events carry their text (``data.text_fields``) where ``texts`` are asked for.

    Raises:
        DataError: the source has no rows, or more than ``data.max_bad_rows`` of them are bad.
    """
    fields = data.text_fields if texts else ()
    source = data.main.reading({"user", "item", "time", *fields})
    events: list[Event] = []

    def take(row: Row) -> Bad | None:
        found = _event(row, fields)
        if isinstance(found, Bad):
            return found
        events.append(found)
        return None

    read, bad = read_good(source, take, quarantine, progress)
    hint = "task next_item needs user, item and time: map data.source.columns"
    check_bad(bad, read, data.max_bad_rows, quarantine, hint)
    return events, {"rows_read": read, "rows_bad": dict(bad)}


def shared_times(found: Mapping[str, Sequence[Event]]) -> int:
    """How many events are in the same second as another event of their user, so that their order is drawn."""
    moments = Counter((user, event.time) for user, mine in found.items() for event in mine)
    return sum(count for count in moments.values() if count > 1)


def alike(items: Sequence[str]) -> tuple[int, list[str]]:
    """How many ids differ from another only in number form, spacing or invisible characters; the most frequent ones."""
    groups: dict[str, list[str]] = {}
    for item in items:
        groups.setdefault(likeness(item, cased=True), []).append(item)
    several = [group for group in groups.values() if len(group) > 1]
    return sum(map(len, several)), several[0] if several else []


def describe(sequences: Sequence[Sequence[Any]]) -> dict[str, float]:
    """How many sequences there are and how long they are."""
    lengths = sorted(len(one) for one in sequences)
    if not lengths:
        return {"users": 0, "events": 0}
    return {
        "users": len(lengths),
        "events": sum(lengths),
        "length_median": lengths[len(lengths) // 2],
        "length_max": lengths[-1],
    }
