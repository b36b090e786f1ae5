"""Texts and labels in a file, for the commands that work without a recipe."""

from __future__ import annotations

from pathlib import Path

from lwc.core.errors import DataError
from lwc.core.spelling import number_name
from lwc.data.bad_rows import refused
from lwc.data.columns import Wanted
from lwc.data.paths import format_of
from lwc.data.rows import Bad
from lwc.data.sources.table import WRITTEN_AS_USUAL, columns_of, records
from lwc.serving.loadtest.samples import chosen_columns, questions_of
from lwc.tasks.text_wire import TEXT, TextWire


def read_texts(path: Path, column: str | None = None, labels: str | None = None) -> tuple[list[str], list[str] | None]:
    """Texts, and their labels if a column is named: of any table that a recipe reads, or a .txt with one text a line.

    Rows without a text are left out.

    Args:
        path: the file; its suffix says how to read it.
        column: the column of the texts; by default one with a usual name such as ``text``, or the only one.
        labels: the column of the labels.

    Raises:
        DataError: no such file, no texts, no such column, a row that cannot be read, or one without a label.
    """
    if not path.is_file():
        raise DataError(f"no file at {path}", "give a .csv, .tsv, .jsonl, .parquet or .txt file")
    if format_of(path) == ".txt":
        if column is not None or labels is not None:
            raise DataError(f"{path}: a text file has no columns", "leave the column out, or give a table")
        found = [str(row[TEXT]) for _, row in questions_of(path, TextWire())]
        return _some(path, found), None
    if column is None:
        present = [name for name in columns_of(path) if name != labels]
        chosen = chosen_columns(path, present, TextWire())
        if not chosen:
            raise DataError(
                f"{path}: which column has the texts? It has {', '.join(present)}", "name it with --text-column"
            )
        column = chosen[TEXT]
    fields = {TEXT: column, **({"labels": labels} if labels is not None else {})}
    texts: list[str] = []
    names: list[str] = []
    for row in records(path, WRITTEN_AS_USUAL, Wanted(fields, hint="name an existing column", options=None)):
        if isinstance(row, Bad):
            raise refused(row, path)
        line, record = row
        text = record.get(column)
        if not isinstance(text, str) or not text.strip():
            continue
        texts.append(text)
        if labels is not None:
            names.append(_label(record.get(labels), path, line))
    return _some(path, texts), names if labels is not None else None


def _label(value: object, path: Path, line: int) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        return number_name(value)
    if value is None or value != value or not str(value).strip():
        raise DataError(f"{path}, line {line}: no label", "give every text its label, or leave --labels out")
    return str(value)


def _some(path: Path, texts: list[str]) -> list[str]:
    if not texts:
        raise DataError(f"{path}: no texts", "the file must contain at least one text")
    return texts
