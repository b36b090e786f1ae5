"""Class names of rows: how stars and label values become classes, and what is refused as no classes at all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from lwc.core.errors import DataError
from lwc.core.spelling import likeness, number_name
from lwc.data.rows import Row
from lwc.recipe import Data, Labels
from lwc.recipe.labels import NO_LABEL, STAR_NAMES


def label_name(row: Row, labels: Labels) -> str | None:
    """A row's class name; None if the scheme leaves the row out (more than 2 and fewer than 4 stars in binary).

    Thresholds apply to the stars as given. Five classes are the nearest whole stars, and half stars round up.

    Raises:
        DataError: the source has no stars, or no label column.
    """
    scheme = labels.scheme
    if scheme == "none":
        return NO_LABEL
    if scheme == "column":
        if row.label is None:
            raise DataError(f"{row.file}: labels.scheme is column, but the source has no label column",
                            "map data.source.columns.label, or use a star scheme")  # fmt: skip
        return labels.name(row.label)
    if row.rating is None:
        hint = "use labels: {scheme: column}" if row.label is not None else "map data.source.columns.rating"
        raise DataError(f"{row.file}: labels.scheme is {scheme}, but the source has no star ratings", hint)
    found = star_name(row.rating, scheme)
    return None if found is None else labels.name(found)


def star_name(stars: float, scheme: str) -> str | None:
    """The class of a number of stars under a star scheme, before `data.labels.map`; see `label_name`."""
    if scheme == "five_class":
        return str(math.floor(stars + 0.5))
    if 2 < stars < 4:
        return "neutral" if scheme == "three_class" else None
    return "positive" if stars >= 4 else "negative"


def label_value(row: Row, labels: Labels) -> str:
    """The value that a labelled row's label is made from, as text."""
    return row.label or "" if labels.scheme == "column" else number_name(row.rating or 0)


class ClassesDiffer(DataError):
    """The classes that the data contain, ``found``, are not those that were named."""

    def __init__(self, message: str, hint: str, found: Iterable[str]) -> None:
        super().__init__(message, hint)
        self.found = sorted(found)


def label_names(labels: Labels, found: Counter[str]) -> list[str]:
    """Class names in the order of their ids.

    Raises:
        ClassesDiffer: the data contain a class that the recipe does not name.
    """
    known = labels.known()
    if labels.scheme != "column" and known is not None:
        return list(known)
    names = list(known) if known is not None else sorted(found)
    unnamed = sorted(set(found) - set(names))
    if unnamed:
        raise ClassesDiffer(
            f"labels {listed(unnamed)} occur in the data but not in data.labels.names",
            "add them, map them to a name with data.labels.map, or leave names out",
            found,
        )
    return names


def unused_keys(labels: Labels, values: Collection[str], head: Collection[str] = ()) -> list[str]:
    """Names in ``data.labels.map`` that neither a row nor an output of the checkpoint's ``head`` has.

    ``values`` are those that the labels of the rows are made from.
    """
    if labels.scheme == "column":
        there = {likeness(one) for one in values}
    else:
        there = {likeness(star_name(float(one), labels.scheme) or "") for one in values}
    there |= {likeness(one) for one in head}
    return [one for one in labels.map if likeness(one) not in there] if values else []


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names in quotes; of many, the first few and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more


_FEW = 10  # a class with fewer rows may be missing from a split


def check_values(data: Data, values: Counter[str]) -> list[dict[str, Any]]:
    """The values of rows, and the class that each becomes: ``label``, None for those that the scheme leaves out.

    Raises:
        DataError: almost every row has a label of its own, or no row has the stars of a class.
    """
    scheme = data.labels.scheme
    of_stars = {one: one if scheme == "column" else star_name(float(one), scheme) for one in values}
    made = {one: None if name is None else data.labels.name(name) for one, name in of_stars.items()}
    found, total = set(made.values()), values.total()
    if scheme == "column" and total >= _FEW and 2 * len(found) > total:
        column = data.columns.label or "label"
        raise DataError(
            f"the label column {column!r} has {len(found):,} different values in {total:,} rows:"
            " it holds ids or measurements, not classes",
            "map data.source.columns.label to the column of the class; round numbers to a few values first",
        )
    empty = [name for name in STAR_NAMES.get(scheme, ()) if name not in of_stars.values()]
    if empty and values:
        stars = ", ".join(f"{value} ({values[value]:,} rows)" for value in sorted(values, key=float)[:10])
        raise DataError(
            f"labels.scheme is {scheme}, and no row has the stars of {listed(empty)}; the source's stars are {stars}",
            _fitting(data, values),
        )
    return [{"value": value, "label": made[value], "rows": rows} for value, rows in values.most_common()]


def _fitting(data: Data, values: Counter[str]) -> str:
    """What to do where the stars of a source leave a class of its scheme empty."""
    for scheme, names in STAR_NAMES.items():
        rows = Counter[str]()
        for value, count in values.items():
            rows[star_name(float(value), scheme) or ""] += count
        if all(rows[name] >= _FEW for name in names):
            return f"use data.labels.scheme: {scheme}, whose classes all have rows"
    if data.columns.rating is not None and len(values) > 1:
        column = data.columns.rating
        return (
            "no star scheme fits these stars; for a class for each of them, use data.labels.scheme: column and"
            f" data.source.columns.label: {column}"
        )
    return "no star scheme fits these stars: use a source with more different ones"
