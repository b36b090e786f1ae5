"""Splits that the data name, by a source for each or by a column. No row is moved from one of them to another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lwc.core.errors import DataError
from lwc.core.spelling import likeness
from lwc.data.duplicates import fold
from lwc.data.rows import Row
from lwc.data.splits import NAMES

Labelled = tuple[Row, str, str]
"""A row with its clean text and its class."""

LEFT_OUT = "none"
"""What `data.split.map` calls rows that are in no split."""
_SPELLINGS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing"),
}
_MEANING = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings}


def split_of(value: str, meaning: Mapping[str, str]) -> str | None:
    """The split that a value of a split column means, `LEFT_OUT`, or None; ``meaning`` is ``data.split.map``."""
    own = {likeness(one): name for one, name in meaning.items()}
    return own.get(likeness(value)) or _MEANING.get(likeness(value))


def strange_values(rows: Counter[str], column: str) -> DataError:
    """The error about values of a split column that mean nothing, with how many rows have each."""
    shown = ", ".join(f"{value!r} ({count:,} rows)" for value, count in rows.most_common(5))
    pairs = ", ".join(f"{value}: …" for value, _ in rows.most_common(5))
    return DataError(
        f"the split column {column!r} has values that name no split: {shown}",
        f"say what they mean, train, validation, test or none: data.split.map: {{{pairs}}}",
    )


def apart(rows: Sequence[Labelled]) -> tuple[list[Labelled], list[Labelled], dict[str, int]]:
    """The train rows, the rows of validation and test, and how many texts these share.

    The test split stays whole. A text of test is left out of validation and train, one of validation out of train:
    otherwise the compressed model would be trained on what it is tested on.

    Raises:
        DataError: no row is of train.
    """
    of = {name: [one for one in rows if one[0].split == name] for name in NAMES}
    if not of["train"]:
        raise DataError("no row is of the train split", "name the rows to train on: data.train, or the split column")
    texts = {name: [fold(text) for _, text, _ in found] for name, found in of.items()}
    distinct = {name: set(found) - {""} for name, found in texts.items()}
    held = {"train": distinct["validation"] | distinct["test"], "validation": distinct["test"]}
    kept = {
        name: [one for one, text in zip(of[name], texts[name], strict=True) if text not in held[name]]
        for name in ("train", "validation")
    }

    def common(one: str, other: str) -> int:
        return sum(text in distinct[other] for text in texts[one])

    counts = {
        "test_in_train": common("test", "train"),
        "test_in_validation": common("test", "validation"),
        "validation_in_train": common("validation", "train"),
        "train_left_out": len(of["train"]) - len(kept["train"]),
        "validation_left_out": len(of["validation"]) - len(kept["validation"]),
    }
    return kept["train"], [*kept["validation"], *of["test"]], counts


def named(rows: Iterable[Labelled]) -> tuple[str, ...]:
    """Which of validation and test the data name."""
    there = {row.split for row, _, _ in rows}
    return tuple(name for name in NAMES[1:] if name in there)


def split_words(quality: Mapping[str, Any]) -> str:
    """How the rows were split, from ``quality.json``: ``split by user``, ``test as given, validation at random``."""
    kind, given = str(quality["split_by"]), quality.get("split_given") or []
    drawn = "at random" if kind == "random" else f"by {kind}"
    if not given:
        return f"split {drawn}"
    if len(given) == len(NAMES):
        return "split as the data say"
    (other,) = set(NAMES) - set(given)
    return f"{' and '.join(given)} as the data say, {other} drawn {drawn} from train"
