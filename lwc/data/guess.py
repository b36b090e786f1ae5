"""Which column of a table is what, guessed from names and values, for `lwc init`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lwc.core.errors import DataError
from lwc.data.columns import Wanted
from lwc.data.own_splits import split_of
from lwc.data.paths import locate_all
from lwc.data.rows import Bad
from lwc.data.sources.table import WRITTEN_AS_USUAL, columns_of, records

_SAMPLE, _COUNTED = 5_000, 200_000
_MOST_CLASSES = 50
_NAMES = {
    "label": ("label", "labels", "class", "category", "sentiment", "target", "intent", "topic", "polarity", "y"),
    "rating": ("rating", "stars", "star_rating", "overall", "score", "rate", "reviews.rating"),
    "title": ("title", "summary", "headline", "subject", "review_title", "reviews.title"),
    "user": ("user", "user_id", "userid", "reviewerid", "reviewer_id", "customer", "customer_id", "author", "username"),
    "item": ("item", "item_id", "itemid", "asin", "parent_asin", "product_id", "productid", "product", "sku"),
    "time": ("time", "timestamp", "date", "datetime", "unixreviewtime", "review_date", "created_at", "created"),
    "split": ("split", "fold", "subset", "partition"),
}


@dataclass(frozen=True)
class Column:
    """A column of the sample: its values as text, empty ones left out."""

    name: str
    values: Sequence[str]
    rows: int

    @property
    def words(self) -> float:
        """Mean number of words of a value."""
        return sum(len(value.split()) for value in self.values) / max(1, len(self.values))

    @property
    def numbers(self) -> list[float] | None:
        """The values as numbers, None if one is none."""
        try:
            return [float(value) for value in self.values]
        except ValueError:
            return None

    @property
    def filled(self) -> float:
        """Share of rows with a value."""
        return len(self.values) / max(1, self.rows)

    def counts(self) -> Counter[str]:
        """How often each value occurs."""
        return Counter(self.values)


@dataclass(frozen=True)
class Guess:
    """Column names by field of a row, and what the values show."""

    columns: Mapping[str, str]
    found: Mapping[str, Column]
    rows: int
    whole: bool
    """Whether ``rows`` are all rows of the files: counting stops at some point."""
    classes: Sequence[str] = ()
    """Values of the label column, the most frequent first."""
    splits: Sequence[str] = ()
    """Values of the split column."""
    notes: list[str] = field(default_factory=list)

    def words(self, share: float) -> int:
        """Number of words, title and body together, that this share of the texts does not exceed."""
        columns = [self.found[self.columns[name]].values for name in ("title", "body") if name in self.columns]
        lengths = sorted(sum(len(text.split()) for text in texts) for texts in zip(*columns, strict=False))
        return lengths[int(share * (len(lengths) - 1))] if lengths else 0


def guess(paths: Sequence[str]) -> Guess:
    """Look at the first rows of tables that have the same columns, and count their rows.

    Raises:
        DataError: no such file, no table, no rows, or no column of texts and none of users and items.
    """
    columns, seen, rows, whole = _sample(list(locate_all(paths).values()))
    if not rows:
        raise DataError(f"{', '.join(paths)}: no rows", "give a table with a header and rows")
    found = {name: Column(name, values, seen) for name, values in columns.items()}
    chosen = _by_name(found)
    notes: list[str] = []
    free = [one for one in found.values() if one.name not in chosen.values() and one.numbers is None]
    body = max(free, key=lambda one: one.words * one.filled, default=None)
    if body is not None and body.words >= 2:
        chosen["body"] = body.name
    elif "title" in chosen:
        chosen["body"] = chosen.pop("title")
    splits = tuple(found[chosen["split"]].counts()) if "split" in chosen else ()
    strange = [value for value in splits if split_of(value, {}) is None]
    if strange:
        notes.append(f"{chosen.pop('split')}: {strange[0]!r} names no split, so the column is left out")
        splits = ()
    if "rating" in chosen and not _is_stars(found[chosen["rating"]]):
        notes.append(f"{chosen['rating']}: not ratings from 1 to 5")
        del chosen["rating"]
    if "label" not in chosen and "rating" not in chosen:
        label = _unnamed_label(found, chosen)
        if label is not None:
            chosen["rating" if _is_stars(found[label]) else "label"] = label
    if "body" not in chosen and not {"user", "item"} <= chosen.keys():
        raise DataError(
            f"{', '.join(paths)}: no column of texts among {', '.join(found)}",
            "write the recipe by hand, with data.source.columns.body",
        )
    classes: Sequence[str] = ()
    if "label" in chosen:
        classes = [value for value, _ in found[chosen["label"]].counts().most_common()]
    return Guess(chosen, found, rows, whole, classes, splits, notes)


def _sample(paths: Sequence[Path]) -> tuple[dict[str, list[str]], int, int, bool]:
    """Values of the first rows by column, the number of these rows, of all rows, and whether all were counted."""
    columns: dict[str, list[str]] = {}
    rows = 0
    for path in paths:
        # Named, they show how the file is split.
        wanted = Wanted({name: name for name in columns_of(path)}, nested=True)
        for found in records(path, WRITTEN_AS_USUAL, wanted, every=True):
            if isinstance(found, Bad):
                continue
            if rows == _COUNTED:
                return columns, _SAMPLE, rows, False
            rows += 1
            for name, value in found[1].items() if rows <= _SAMPLE else ():
                texts = columns.setdefault(str(name), [])
                text = _text(value)
                if text:
                    texts.append(text)
    return columns, min(rows, _SAMPLE), rows, True


def _text(value: Any) -> str:
    if value is None or isinstance(value, list | dict) or value != value:
        return ""
    return str(value).strip()


def _by_name(found: Mapping[str, Column]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for role, names in _NAMES.items():
        for wanted in names:
            match = next((name for name in found if _plain(name) == _plain(wanted)), None)
            if match is not None and match not in chosen.values() and found[match].values:
                chosen[role] = match
                break
    if "label" in chosen and len(found[chosen["label"]].counts()) > _MOST_CLASSES:
        del chosen["label"]
    return chosen


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _is_stars(column: Column) -> bool:
    numbers = column.numbers
    return numbers is not None and all(1 <= number <= 5 for number in numbers)


def _unnamed_label(found: Mapping[str, Column], chosen: Mapping[str, str]) -> str | None:
    """A column of a few values that repeat, the only one there is."""
    few = [
        one.name
        for one in found.values()
        if one.name not in chosen.values() and one.filled > 0.9 and 2 <= len(one.counts()) <= min(20, one.rows // 5)
    ]
    return few[0] if len(few) == 1 else None
