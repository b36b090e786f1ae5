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
from lwc.data.labels import (
    ClassesDiffer,
    check_values,
    label_name,
    label_names,
    label_value,
    listed,
    unused_keys,
)
from lwc.data.own_splits import LEFT_OUT, Labelled, apart, named, split_of, strange_values
from lwc.data.quality import describe, giveaways, leaks
from lwc.data.rows import Bad, Reason, Row, excerpt
from lwc.data.source import notes_of, provenance
from lwc.data.splits import NAMES, assign, kind_of, largest_user, owner
from lwc.recipe import Data
from lwc.recipe.labels import NO_LABEL

TEST_RAW = "test_raw.parquet"
<<<<<<< HEAD
"""Test texts as users send them (id, text), of those rows that cleaning changes. Verification sends these.

Where title and body are both read, the endpoint takes each by itself: all rows, ``title`` and, as ``text``, the body.
"""
=======
"""Test texts as users send them (id, text), of those rows that cleaning changes. Verification sends these."""
_OF_TEST = ("given", "left_out", "used", "cleaned")
>>>>>>> wt-classes
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
        self.kept: list[Labelled] = []
        self.left_out = 0
        self.values: Counter[str] = Counter()  # rows by the value that their label is made from
        self.source: str | None = None  # the split that is read, where each has a source
        self.of_test: Counter[str] = Counter()  # rows of a test split that the data name
        self.strange: Counter[str] = Counter()  # rows by a value of the split column that means nothing
        self.in_no_split = 0
        self._taken = 0
        self._filled: Counter[str] = Counter()  # rows in which a text field is not empty

    def take(self, row: Row) -> Bad | None:
        split = self.source if row.split is None else split_of(row.split, self.data.split.map)
        if row.split is not None and split is None:
            self.strange[row.split] += 1
        self.in_no_split += split == LEFT_OUT
        if split == LEFT_OUT or self.strange:
            return None
        row, whole = row._replace(split=split), split == "test"
        self.of_test["given"] += whole
        self._taken += 1
        self._filled.update(field for field in self.data.text_fields if getattr(row, field))
        raw = raw_text(row, self.data.text_fields)
        if len(raw) > MAX_CHARACTERS:
            return Bad(row.file, row.line, Reason.TOO_LONG, excerpt(raw))
        text = clean(raw)
        if not (text if whole else fold(text)):  # the endpoint answers a text without words too
            return Bad(row.file, row.line, Reason.NO_WORDS if text else Reason.EMPTY_TEXT, excerpt(text))
        name = label_name(row, self.data.labels)
        if self.data.labels.scheme != "none":
            self.values[label_value(row, self.data.labels)] += 1
        if name is None:
            self.left_out += 1
            self.of_test["left_out"] += whole
        else:
            self.kept.append((row, text, name))
            self.of_test["used"] += whole
            self.of_test["cleaned"] += whole and raw != text
        return None

    def check(self) -> None:
        if self.strange:
            raise strange_values(self.strange, str(self.data.columns.split))
        for field in self.data.text_fields:
            if self._taken and not self._filled[field]:
                raise DataError(
                    f"data.text_fields names {field}, which is empty in every row", f"leave {field} out, or map it"
                )


def _read(data: Data, rows: _Rows, quarantine: Path, say: Callable[[str], None]) -> tuple[int, Counter[str]]:
    """Every source; returns how many rows were read, and how many were bad by reason."""
    read, bad = 0, Counter[str]()
    for split, source in data.sources.items():
        rows.source = split if len(data.sources) > 1 else None
        count, reasons = read_good(data.reading(source), rows.take, quarantine, say, more=read > 0)
        if rows.source is not None and not count:
            raise DataError(f"the source of data.{split} has no rows", "name another source")
        if split == "test":  # with those that its reader refused
            rows.of_test["given"] = count
        read, bad = read + count, bad + reasons
    return read, bad


def _without_duplicates(
    rows: list[Labelled], threshold: float, held: Sequence[Labelled] = ()
) -> tuple[list[Labelled], dict[str, int]]:
    """The rows without repeats and without near duplicates of each other and of the ``held`` ones, with counts."""
    folded = [fold(text) for _, text, _ in rows]
    names = sorted({name for _, _, name in rows})
    ids = {name: index for index, name in enumerate(names)}
    repeats, conflicts = exact_duplicates(folded, [ids[name] for _, _, name in rows])
    left = [index for index in range(len(rows)) if index not in repeats and index not in conflicts]
    texts = [*(fold(text) for _, text, _ in held), *(folded[index] for index in left)]
    near = near_duplicates(texts, threshold, len(held)) if threshold < 1 else set()
    kept = [rows[index] for position, index in enumerate(left, start=len(held)) if position not in near]
    counts = {"exact": len(repeats), "conflicting_labels": len(conflicts), "near": len(near)}
    return kept, counts


def _write(path: Path, rows: list[Labelled], chosen: Array, labels: Array) -> None:
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


def prepare(
    data: Data,
    seed: int,
    out: Path,
    progress: Callable[[str], None] | None = None,
    head: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write the split files, `TEST_RAW`, ``labels.json``, ``quality.json``, ``quarantine.jsonl`` and ``source.json``.

    Calibration rows are a stratified sample of the train split: the model is trained on them too. Validation and test
    rows that the data name stay there; only the other rows are split, limited and freed of duplicates.

    Args:
        head: names of the outputs of the checkpoint's own head, if that is kept.

    Raises:
        ClassesDiffer: the data have other classes than the recipe names.
        DataError: too many bad rows, a split or a class without rows, or a missing field.
    """
    say = progress or (lambda _: None)
    kept_rows = _Rows(data)
    read, bad = _read(data, kept_rows, out / "quarantine.jsonl", say)
    kept_rows.check()
    check_bad(bad, read, data.max_bad_rows, out / "quarantine.jsonl")
    values = check_values(data, kept_rows.values)
    say("removing duplicates")
    own = named(kept_rows.kept)
    drawn, held, shared = apart(kept_rows.kept) if own else (kept_rows.kept, [], {})
    drawn, duplicates = _without_duplicates(drawn, data.near_duplicate_threshold, held)
    found = len(drawn)
    if data.limit is not None and data.limit < found:
        chosen = np.sort(np.random.default_rng(seed).permutation(found)[: data.limit])
        drawn = [drawn[index] for index in chosen]
    rows = [*drawn, *held]
    names = label_names(data.labels, Counter(name for _, _, name in rows))
    labels = np.array([names.index(name) for _, _, name in rows], dtype=np.int64)
    users, texts = [row.user for row, _, _ in rows], [text for _, text, _ in rows]
    kind, parts = _parts(data, drawn, labels, own, seed)
    parts = np.concatenate([parts, [NAMES.index(str(row.split)) for row, _, _ in held]]).astype(np.int64)
    members = {name: np.flatnonzero(parts == index) for index, name in enumerate(NAMES)}
    some = users[: len(drawn)]
    largest = largest_user(Counter(user for user in some if user is not None), len(some)) if kind == "user" else None
    check_splits(members, labels, names, largest)
    check_calibration(data.calibration, labels[members["train"]])
    members["calibration"] = stratified(members["train"], labels, data.calibration, seed)
    for name, chosen in members.items():
        _write(out / f"{name}.parquet", rows, chosen, labels)
    test = [rows[index] for index in members["test"]]
    write_raw(out, members["test"], [row for row, _, _ in test], data.text_fields, [text for _, text, _ in test])
    write_json(out / "labels.json", names)
    write_json(out / "source.json", provenance(data.sources, data.text_fields))
    quality = {
        "source": data.main.kind,
        "text_fields": list(data.text_fields),
        "read_as": [one for source in data.sources.values() for one in notes_of(data.reading(source))],
        "rows_read": read,
        "rows_bad": dict(bad),
        "rows_left_out_by_label_scheme": kept_rows.left_out,
        "label_values": values,
        "label_map_unused": unused_keys(data.labels, kept_rows.values, head or ()),
        "head": list(head or ()),
        "duplicates": duplicates,
        "rows_beyond_limit": found - len(drawn),
        "rows_used": len(rows),
        "split_by": kind,
        "split_given": ["train", *own] if own else [],
        "rows_in_no_split": kept_rows.in_no_split,
        **({"shared_by_splits": shared} if own else {}),
        **({"test_rows": {one: kept_rows.of_test[one] for one in _OF_TEST}} if "test" in own else {}),
        "rows_without_user": users.count(None),
        "rows_without_time": sum(row.time is None for row, _, _ in rows),
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


def _parts(data: Data, drawn: Sequence[Labelled], labels: Array, own: Sequence[str], seed: int) -> tuple[str, Array]:
    """How rows were split, and the split (N,) of the ``drawn`` ones, from which those of ``own`` are not drawn."""
    if len(own) == 2:
        return "own", np.zeros(len(drawn), dtype=np.int64)
    users, times = [row.user for row, _, _ in drawn], [row.time for row, _, _ in drawn]
    kind = kind_of(data.split, len(drawn), {"user": users.count(None), "time": times.count(None)})
    owners = [owner(row.user, text) for row, text, _ in drawn]
    validation, test = (0.0 if name in own else getattr(data.split, name) for name in NAMES[1:])
    return kind, assign(kind, (validation, test), labels[: len(drawn)].tolist(), owners, times, seed)


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
        raise ClassesDiffer(
            f"{len(lacking):,} of {len(names):,} classes have no train rows: {listed(lacking)}",
            f"{ids}use more data; or, with a label column, merge rare classes with data.labels.map",
            [names[one] for one in np.unique(labels)],
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
