"""The labelled texts a load test sends: id, text, label (a name), and the offline prediction (a name) if known."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from lwc.core.errors import DataError


@dataclass(frozen=True)
class Sample:
    """One text with its true label and what the model said offline, both by name; None where not known."""

    id: int
    text: str
    label: str | None
    offline: str | None


def read_samples(path: Path, labelled: bool = True) -> list[Sample]:
    """Read samples from ``.parquet``, ``.jsonl`` or ``.csv``; the column ``offline`` may be absent.

    Without ``labelled`` only ``text`` is read: all that a model without labels can be asked with.

    Raises:
        DataError: no such file, no rows, a missing column, or a row that cannot be sent.
    """
    if not path.is_file():
        raise DataError(f"no samples file at {path}", "give a .parquet, .jsonl or .csv file with id, text and label")
    rows: Iterable[Mapping[str, Any]]
    if path.suffix == ".parquet":
        frame = pd.read_parquet(path)
        rows = [{str(k): v for k, v in row.items()} for row in frame.to_dict(orient="records")]
    elif path.suffix == ".jsonl":
        rows = list(_json_lines(path))
    elif path.suffix == ".csv":
        # As text, so that a review saying "NA" or "1" stays what it is; no offline value is an empty field.
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [{**row, "offline": row.get("offline") or None} for row in csv.DictReader(file)]
    else:
        raise DataError(f"{path}: samples are .parquet, .jsonl or .csv, not {path.suffix!r}")
    if not labelled:
        rows = [{"id": number, "text": row.get("text"), "label": ""} for number, row in enumerate(rows, 1)]
    samples = [_sample(row, f"{path}, row {number}") for number, row in enumerate(rows, 1)]
    if not labelled:
        samples = [replace(sample, label=None) for sample in samples]
    if not samples:
        raise DataError(f"{path}: no samples", "the test split must hold at least one row")
    if len({sample.id for sample in samples}) != len(samples):
        raise DataError(f"{path}: ids are not unique", "each text needs its own id")
    return samples


def write_samples(samples: Iterable[Sample], path: Path) -> None:
    """Write samples as Parquet with columns id, text, label, offline."""
    rows = list(samples)
    pd.DataFrame(
        {
            "id": [sample.id for sample in rows],
            "text": [sample.text for sample in rows],
            "label": [sample.label for sample in rows],
            "offline": [sample.offline for sample in rows],
        }
    ).to_parquet(path, index=False)


def _json_lines(path: Path) -> Iterable[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}:{number}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: not a JSON object")
            yield row


def _sample(row: Mapping[str, Any], where: str) -> Sample:
    for column in ("id", "text", "label"):
        if column not in row:
            raise DataError(f"{where}: no column {column!r}", "samples need id, text and label")
    text, label, offline = row["text"], row["label"], row.get("offline")
    if not isinstance(text, str) or not isinstance(label, str):
        raise DataError(f"{where}: text and label must be strings", "labels are compared by name, not by id")
    if offline is not None and not isinstance(offline, str):
        if not pd.isna(offline):
            raise DataError(f"{where}: offline must be a label's name")
        offline = None
    try:
        text.encode("utf-8")
        number = int(row["id"])
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: the text has a lone surrogate and cannot be sent as UTF-8") from error
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: id {row['id']!r} is not a whole number") from error
    return Sample(number, text, label, offline)
