"""Texts and labels as people have them: lists, columns, or tables such as a `datasets.Dataset`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from transformers import PreTrainedModel

from lwc.api.models import Kind
from lwc.core.arrays import Array
from lwc.core.errors import DataError
from lwc.core.spelling import is_number
from lwc.data.cleaning import clean
from lwc.models.batches import encode, slices
from lwc.models.head_labels import described, match_labels, unnamed
from lwc.tasks.task import Rows

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

    from lwc.models.types import Tokenizer

Texts: TypeAlias = "Iterable[str] | Dataset | pd.DataFrame"
"""Texts; or a table with a column ``text``, or with one column of strings only."""
Labels: TypeAlias = "Iterable[str | int | float] | str"
"""One label a text: a class by name or id, or the number of a regression; or the name of the table's label column."""
_TEXT = "text"


@dataclass(frozen=True)
class Given:
    """Cleaned texts with their labels as given; ``names`` are the class names that ids of a table's labels stand for.

    Labels are None where none were given.
    """

    texts: list[str]
    labels: list[Any] | None = None
    names: Sequence[str] | None = None


def read(texts: Texts, labels: Labels | None = None) -> Given:
    """Texts, cleaned as the served endpoint cleans them, and their labels.

    Raises:
        DataError: there are none, one is no text or empty, or there are other numbers of texts and labels.
    """
    if isinstance(texts, str):
        raise DataError("texts is one text, not a list", "pass [text]")
    names: Sequence[str] | None = None
    table: Any = texts
    columns = getattr(table, "column_names", None)
    if columns is None:
        columns = getattr(table, "columns", None)
    if isinstance(columns, Mapping) or isinstance(texts, Mapping):
        raise DataError("texts is a dictionary of splits, not one of them", "pass dataset['train']")
    if columns is not None:
        if isinstance(labels, str):
            names = getattr((getattr(table, "features", None) or {}).get(labels), "names", None)
            labels = _column(table, list(columns), labels)
        texts = _column(table, list(columns), _text_column(table, list(columns)))
    elif isinstance(labels, str):
        raise DataError(f"labels is the column {labels!r}, and texts is no table", "pass a list of labels")
    found = [_cleaned(text, place) for place, text in enumerate(texts)]
    if not found:
        raise DataError("no texts", "pass at least one")
    if labels is None:
        return Given(found)
    listed = list(labels)
    if len(listed) != len(found):
        raise DataError(f"{len(listed)} labels for {len(found)} texts", "give every text one label")
    return Given(found, listed, names)


def _text_column(table: Any, columns: list[str]) -> str:
    if _TEXT in columns:
        return _TEXT
    strings = [name for name in columns if len(table) and isinstance(next(iter(table[name])), str)]
    if len(strings) != 1:
        raise DataError(
            f"the table has no column {_TEXT!r}; its columns are {', '.join(map(str, columns))}",
            "pass the column of the texts: table['…']",
        )
    return strings[0]


def _column(table: Any, columns: list[str], name: str) -> Iterable[Any]:
    if name not in columns:
        raise DataError(f"no column {name!r}; the columns are {', '.join(map(str, columns))}", "name one of these")
    return cast(Iterable[Any], table[name])


def _cleaned(text: object, place: int) -> str:
    if not isinstance(text, str):
        raise DataError(f"text {place} is a {type(text).__name__}, not a string", "pass strings only")
    found = clean(text)
    if not found:
        raise DataError(f"text {place} is empty" + (" but for tags and spaces" if text.strip() else ""), "leave it out")
    return found


def targets_of(given: Given, model: PreTrainedModel, kind: Kind) -> Array | None:
    """Class ids (N,) or numbers (N,) that the labels stand for; None without labels.

    Raises:
        DataError: a label is none of the model's classes, or no number; or a language model is given labels.
    """
    if given.labels is None:
        return None
    if kind == "causal_lm":
        raise DataError("labels for a language model: its tokens are its labels", "leave labels out")
    if kind == "regression":
        return np.array([_number(label, place) for place, label in enumerate(given.labels)], dtype=np.float32)
    own = [str(model.config.id2label[index]) for index in range(model.config.num_labels)]
    names, order = given.names, list(range(len(own)))
    if names is not None:
        match = match_labels(own, names)
        if match.order is not None:
            order = match.order
        elif not unnamed(own) or len(names) != len(own):
            raise DataError(
                f"the table's classes are {described(names)}, the model's {described(own)}",
                "pass the labels as a list of the model's ids or names",
            )
    ids = {name: index for index, name in enumerate(own)}
    ids |= {folded: index for name, index in ids.items() if (folded := name.casefold()) not in ids}
    if match_labels(own, [str(index) for index in range(len(own))]).order is not None:  # LABEL_1 is also called 1
        ids |= {str(index): index for index in range(len(own))}

    def id_of(label: object, place: int) -> int:
        if isinstance(label, str):
            found = ids.get(label, ids.get(label.strip().casefold()))
            if found is not None:
                return found
        elif isinstance(label, Real | np.bool_) and float(label).is_integer() and 0 <= float(label) < len(order):
            return order[int(float(label))]
        raise DataError(
            f"label {place} is {label!r}; the model's classes are {described(own)}",
            f"use these names, or the ids 0 to {len(own) - 1}",
        )

    return np.array([id_of(label, place) for place, label in enumerate(given.labels)], dtype=np.int64)


def _number(label: object, place: int) -> float:
    if isinstance(label, Real) and np.isfinite(float(label)):
        return float(label)
    if isinstance(label, str) and is_number(label.strip()):
        return float(label)
    raise DataError(f"label {place} is {label!r}, and the model gives numbers", "pass numbers")


def rows_of(texts: Sequence[str], targets: Array | None, tokenizer: Tokenizer, kind: Kind) -> Rows:
    """Token rows, cut at the tokenizer's length, with what is learnt from them.

    A language model reads one stream of tokens in slices. Rows of a classifier without targets have label 0, which
    whoever gets them must not read.
    """
    length = tokenizer.model_max_length
    if kind == "causal_lm":
        return Rows(slices(tokenizer, texts, length), None)
    nothing = np.zeros(len(texts), dtype=np.float32 if kind == "regression" else np.int64)
    return Rows(encode(tokenizer, texts, length), nothing if targets is None else targets)
