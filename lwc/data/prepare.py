"""The data stage: read, clean, label, remove duplicates, split, report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lwc.core.arrays import Array
from lwc.core.errors import DataError
from lwc.core.spelling import LONE
from lwc.core.store import write_json
from lwc.data.bad_rows import check_bad, read_good
from lwc.data.cleaning import MAX_CHARACTERS, clean, join
from lwc.data.duplicates import exact_duplicates, fold, near_duplicates
from lwc.data.labels import check_values, label_name, label_names, label_value, listed
from lwc.data.quality import describe, giveaways, leaks
from lwc.data.rows import Bad, Reason, Row, excerpt
from lwc.data.source import notes_of, provenance
from lwc.data.splits import NAMES, assign, kind_of, largest_user, owner
from lwc.recipe import Data
from lwc.recipe.data import NO_LABEL

TEST_RAW = "test_raw.parquet"
"""Test texts as users send them (id, text), of those rows that cleaning changes. Verification sends these.

Where title and body are both read, the endpoint takes each by itself: all rows, ``title`` and, as ``text``, the body.
"""
_MORE_ROWS = "use more data, larger data.split shares, or data.split.by: random"


def raw_text(row: Row, fields: Sequence[str]) -> str:
    """A row's fields as the source has them, one below the other; empty ones are skipped.

    Lone surrogates, which UTF-8 cannot encode and cleaning replaces too, become spaces.
    """
    return LONE.sub(" ", join(getattr(row, field) for field in fields))


def takes_title(fields: Sequence[str]) -> bool:
    """Whether the endpoint of a model that was trained on these fields takes a title beside the text."""
    return {"title", "body"} <= set(fields)


def joined_text(row: Row, fields: Sequence[str]) -> str:
    """The clean `raw_text`."""
    return clean(raw_text(row, fields))


class _Rows:
    """Rows with their clean text and label name, and a count of those that the label scheme leaves out."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.kept: list[tuple[Row, str, str]] = []
        self.left_out = 0
        self.values: Counter[str] = Counter()  # rows by the value that their label is made from
        self._taken = 0
        self._filled: Counter[str] = Counter()  # rows in which a text field is not empty

    def take(self, row: Row) -> Bad | None:
        self._taken += 1
        self._filled.update(field for field in self.data.text_fields if getattr(row, field))
        raw = raw_text(row, self.data.text_fields)
        if len(raw) > MAX_CHARACTERS:
            return Bad(row.file, row.line, Reason.TOO_LONG, excerpt(raw))
        text = clean(raw)
        if not fold(text):
            return Bad(row.file, row.line, Reason.NO_WORDS if text else Reason.EMPTY_TEXT, excerpt(text))
        name = label_name(row, self.data.labels)
        if self.data.labels.scheme != "none":
            self.values[label_value(row, self.data.labels)] += 1
        if name is None:
            self.left_out += 1
        else:
            self.kept.append((row, text, name))
        return None

    def check_fields(self) -> None:
        for field in self.data.text_fields:
            if self._taken and not self._filled[field]:
                raise DataError(
                    f"data.text_fields names {field}, which is empty in every row", f"leave {field} out, or map it"
                )


def _without_duplicates(
    rows: list[tuple[Row, str, str]], threshold: float
) -> tuple[list[tuple[Row, str, str]], dict[str, int]]:
    folded = [fold(text) for _, text, _ in rows]
    names = sorted({name for _, _, name in rows})
    ids = {name: index for index, name in enumerate(names)}
    repeats, conflicts = exact_duplicates(folded, [ids[name] for _, _, name in rows])
    left = [index for index in range(len(rows)) if index not in repeats and index not in conflicts]
    near = near_duplicates([folded[index] for index in left], threshold) if threshold < 1 else set()
    kept = [rows[index] for position, index in enumerate(left) if position not in near]
    counts = {"exact": len(repeats), "conflicting_labels": len(conflicts), "near": len(near)}
    return kept, counts


def _write(path: Path, rows: list[tuple[Row, str, str]], chosen: Array, labels: Array) -> None:
    picked = [rows[index] for index in chosen]
    columns = {"id": pa.array(chosen, pa.int64()), "text": pa.array([text for _, text, _ in picked], pa.string())}
    columns["label"] = pa.array(labels[chosen], pa.int64())
    for name, kind in (("user", pa.string()), ("item", pa.string()), ("time", pa.int64())):
        columns[name] = pa.array([getattr(row, name) for row, _, _ in picked], kind)
    pq.write_table(pa.table(columns), path)


def write_raw(out: Path, ids: Array, rows: Sequence[Row], fields: Sequence[str], clean_texts: Sequence[str]) -> None:
    """Write `TEST_RAW` of rows with these ids (N,)."""
    found: dict[str, list[str]] = {"text": [raw_text(row, fields) for row in rows]}
    chosen = [place for place, text in enumerate(found["text"]) if text != clean_texts[place]]
    if takes_title(fields):
        chosen = list(range(len(rows)))
        found = {"text": [raw_text(row, ["body"]) for row in rows], "title": [raw_text(row, ["title"]) for row in rows]}
    table = {name: pa.array([texts[place] for place in chosen], pa.string()) for name, texts in found.items()}
    pq.write_table(pa.table({"id": pa.array(ids[chosen], pa.int64()), **table}), out / TEST_RAW)


def prepare(data: Data, seed: int, out: Path, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Write the split files, `TEST_RAW`, ``labels.json``, ``quality.json``, ``quarantine.jsonl`` and ``source.json``.

    Calibration rows are a stratified sample of the train split: the model is trained on them too.

    Raises:
        DataError: too many bad rows, a split or a class without rows, or a missing field.
    """
    say = progress or (lambda _: None)
    kept_rows = _Rows(data)
    read, bad = read_good(data.reading(), kept_rows.take, out / "quarantine.jsonl", say)
    kept_rows.check_fields()
    check_bad(bad, read, data.max_bad_rows, out / "quarantine.jsonl")
    values = check_values(data, kept_rows.values)
    say("removing duplicates")
    rows, duplicates = _without_duplicates(kept_rows.kept, data.near_duplicate_threshold)
    found = len(rows)
    if data.limit is not None and data.limit < found:
        chosen = np.sort(np.random.default_rng(seed).permutation(found)[: data.limit])
        rows = [rows[index] for index in chosen]
    names = label_names(data.labels, Counter(name for _, _, name in rows))
    labels = np.array([names.index(name) for _, _, name in rows], dtype=np.int64)
    users, times = [row.user for row, _, _ in rows], [row.time for row, _, _ in rows]
    texts = [text for _, text, _ in rows]
    kind = kind_of(data.split, len(rows), {"user": users.count(None), "time": times.count(None)})
    owners = [owner(row.user, text) for row, text, _ in rows]
    parts = assign(kind, data.split, labels.tolist(), owners, times, seed)
    members = {name: np.flatnonzero(parts == index) for index, name in enumerate(NAMES)}
    largest = largest_user(Counter(user for user in users if user is not None), len(rows)) if kind == "user" else None
    check_splits(members, labels, names, largest)
    check_calibration(data.calibration, labels[members["train"]])
    members["calibration"] = stratified(members["train"], labels, data.calibration, seed)
    for name, chosen in members.items():
        _write(out / f"{name}.parquet", rows, chosen, labels)
    test = [rows[index] for index in members["test"]]
    write_raw(out, members["test"], [row for row, _, _ in test], data.text_fields, [text for _, text, _ in test])
    write_json(out / "labels.json", names)
    write_json(out / "source.json", provenance(data.source, data.text_fields))
    quality = {
        "source": data.source.kind,
        "text_fields": list(data.text_fields),
        "read_as": notes_of(data.reading()),
        "rows_read": read,
        "rows_bad": dict(bad),
        "rows_left_out_by_label_scheme": kept_rows.left_out,
        "label_values": values,
        "duplicates": duplicates,
        "rows_beyond_limit": found - len(rows),
        "rows_used": len(rows),
        "split_by": kind,
        "rows_without_user": users.count(None),
        "rows_without_time": times.count(None),
        "largest_user": largest,
        "label_names": names,
        "splits": {
            name: describe([texts[i] for i in chosen], labels[chosen], names) for name, chosen in members.items()
        },
        "leaks": leaks(texts, users, members),
        "label_tokens": giveaways([texts[i] for i in members["train"]], labels[members["train"]], names),
    }
    write_json(out / "quality.json", quality)
    return quality


def check_splits(members: dict[str, Array], labels: Array, names: list[str], largest: Mapping[str, Any] | None) -> None:
    """Raise `DataError` if a split has no rows, a class no train rows, or a split only one class.

    ``largest`` is the user whose rows may be missing in the empty split.
    """
    for split, chosen in members.items():
        if len(chosen) == 0:
            why = f": the user {largest['user']!r} has {largest['rows']:,} of {len(labels):,} rows" if largest else ""
            raise DataError(f"the {split} split has no rows{why}", _MORE_ROWS)
    if names == [NO_LABEL]:
        return
    if len(names) < 2:
        raise DataError(f"all rows have one label: {names}", "use another label column or scheme")
    present = np.bincount(labels[members["train"]], minlength=len(names))
    lacking = [name for name, count in zip(names, present, strict=True) if count == 0]
    if lacking:
        ids = (
            "map data.source.columns.label to another column if it holds ids; " if len(names) > len(labels) / 10 else ""
        )
        raise DataError(
            f"{len(lacking):,} of {len(names):,} classes have no train rows: {listed(lacking)}",
            f"{ids}use more data; or, with a label column, merge rare classes with data.labels.map",
        )
    for split in ("validation", "test"):
        held = np.unique(labels[members[split]])
        if len(held) < 2:
            raise DataError(
                f"every row of the {split} split is {names[int(held[0])]!r}: quality cannot be measured on it",
                _MORE_ROWS,
            )


def check_calibration(count: int, labels: Array) -> None:
    """Raise `DataError` if there are fewer calibration rows than classes in the labels (N,) of train."""
    classes = len(np.unique(labels))
    if count < classes:
        raise DataError(
            f"data.calibration is {count}, but there are {classes} classes, and each needs a calibration row",
            f"set data.calibration to {classes} or more",
        )


def stratified(train: Array, labels: Array, count: int, seed: int) -> Array:
    """A stratified sample of train rows: classes keep their shares, with at least one row each."""
    random = np.random.default_rng([seed, 1])
    share = min(1.0, count / len(train))
    chosen: list[Array] = []
    for label in np.unique(labels[train]):
        rows = train[labels[train] == label]
        chosen.append(random.permutation(rows)[: max(1, round(share * len(rows)))])
    return np.sort(np.concatenate(chosen))
