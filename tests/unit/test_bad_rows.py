"""Too many bad rows: the error shows where and what, its hint works, and the quarantine is where it says."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lwc.core.errors import DataError
from lwc.data.bad_rows import good_rows
from lwc.data.ingest.metadata import build
from lwc.data.ingest.run import ingest
from lwc.data.prepare import prepare
from lwc.data.rows import Reason
from lwc.pipeline.stages import inspect
from lwc.recipe import Data, Recipe, TableFile
from lwc.report.data_warnings import lost_rows


def said(_: str) -> None:
    """No progress."""


def data(path: Path, **settings: Any) -> Data:
    source = {"kind": "table", "paths": [str(path)], "columns": {"body": "text", "rating": "stars"}}
    return Data.model_validate({"source": {**source, **settings.pop("source", {})}, "calibration": 8, **settings})


def csv(path: Path, good: int, *bad: bytes) -> Path:
    lines = [b"text,stars", *bad, *(f"review {n} of {n * 7} words,{n % 2 * 4 + 1}".encode() for n in range(good))]
    path.write_bytes(b"\n".join(lines))
    return path


def small(settings: Data, out: Path) -> dict[str, Any]:
    out.mkdir()
    return prepare(settings, 5, out)


def large(settings: Data, out: Path) -> dict[str, Any]:
    with ThreadPoolExecutor(1) as pool:
        return ingest(settings, 5, out, 1, None, pool)


@pytest.mark.parametrize("read", [small, large])
def test_the_error_shows_the_first_of_each_reason_and_its_hints_work(tmp_path: Path, read: Any) -> None:
    bad = (b"caf\xe9,5", b"na\xefve,5", b"three,cells,5", b"text,eleven", b"\x1b[31m" + b"x" * 300 + b",,1")
    path = csv(tmp_path / "r.csv", 60, *bad)
    with pytest.raises(DataError) as caught:
        read(data(path), tmp_path / "out")
    first, *shown = caught.value.message.splitlines()
    assert first.startswith("5 of 65 rows are bad, more than data.max_bad_rows 5% (invalid UTF-8 2, ")
    assert shown[0] == "  r.csv, line 2: invalid UTF-8: byte 0xe9 at position 4 ('é' in cp1252): caf\ufffd,5"
    assert shown[1] == "  r.csv, line 4: wrong cell count: 3, the header has 2: three,cells,5"
    assert shown[2] == "  r.csv, line 5: rating is not a number: 'eleven': text"
    assert len(shown) == 3, "one for each reason"
    assert all(len(line) < 200 and line.isprintable() for line in shown)
    assert "data.source.format.encoding: cp1252" in caught.value.hint
    quarantine = Path(re.search(r"all bad rows are in (\S+)", caught.value.hint)[1])  # type: ignore[index]
    assert [json.loads(line)["line"] for line in quarantine.read_text().splitlines()] == [2, 3, 4, 5, 6]
    limit = float(re.search(r"data\.max_bad_rows: ([\d.]+)", caught.value.hint)[1])  # type: ignore[index]
    found = read(data(path, max_bad_rows=limit), tmp_path / "again")
    assert (found["rows_used"], found["read_as"]) == (60, [])


@pytest.mark.parametrize("read", [small, large])
def test_all_rows_bad_is_the_error_whatever_the_limit(tmp_path: Path, read: Any) -> None:
    path = csv(tmp_path / "r.csv", 0, *(b"text,no stars" for _ in range(9)))
    with pytest.raises(DataError, match=r"^9 of 9 rows are bad \(rating is not a number 9\)") as caught:
        read(data(path, max_bad_rows=1), tmp_path / "out")
    assert "max_bad_rows" not in caught.value.hint
    assert "data.source.columns.rating" in caught.value.hint


@pytest.mark.parametrize("read", [small, large])
def test_lost_rows_of_a_damaged_parquet_file_count_as_rows(tmp_path: Path, read: Any) -> None:
    for name in ("a", "b"):
        columns = {
            "text": [f"{name} has {n} words" for n in range(90)],
            "stars": [float(n % 2 * 4 + 1) for n in range(90)],
        }
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet", compression="none", use_dictionary=False)
    raw = bytearray((tmp_path / "b.parquet").read_bytes())
    start = pq.ParquetFile(tmp_path / "b.parquet").metadata.row_group(0).column(0).data_page_offset
    raw[start : start + 30] = b"\xff" * 30
    (tmp_path / "b.parquet").write_bytes(raw)
    settings = data(tmp_path / "*.parquet")
    with pytest.raises(DataError, match=r"90 of 180 rows are bad.*\n.*b\.parquet, line 1 and 89 more rows"):
        read(settings, tmp_path / "out")
    found = read(settings.model_copy(update={"max_bad_rows": 0.5}), tmp_path / "again")
    assert (found["rows_read"], found["rows_bad"]) == (180, {Reason.DAMAGED_TABLE: 90})


def test_rows_that_a_file_loses_are_warnings_of_the_verdict() -> None:
    assert list(lost_rows({Reason.NO_RATING: 3, Reason.EMPTY_TEXT: 1})) == []
    cut, damaged, encoded = lost_rows({Reason.TRUNCATED: 1, Reason.DAMAGED_TABLE: 450, Reason.NOT_UTF8: 1200})
    assert "an unknown number" in cut
    assert "450 of its rows are lost" in damaged
    assert "1,200 rows are not UTF-8" in encoded


def test_inspect_keeps_the_bad_rows_that_its_error_names_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    given = {"schema_version": 1, "name": "x", "model": {"kind": "config"}, "target": {"ratio": 2, "of": "blocks"}}
    settings = data(csv(tmp_path / "r.csv", 60, *([b"x,bad"] * 30)))
    recipe = Recipe.model_validate(given).model_copy(update={"data": settings})
    with pytest.raises(DataError) as caught:
        inspect(recipe)
    assert len(Path(caught.value.hint.split("all bad rows are in ")[1]).read_text().splitlines()) == 30
    kept = list((tmp_path / "temporary").glob("lwc-inspect-*"))
    assert len(kept) == 1
    with pytest.raises(DataError, match="no such data file"):
        inspect(recipe.model_copy(update={"data": data(tmp_path / "none.csv")}))
    assert list((tmp_path / "temporary").glob("lwc-inspect-*")) == kept


def test_readers_that_keep_no_quarantine_refuse_bad_rows_too(tmp_path: Path) -> None:
    path = csv(tmp_path / "r.csv", 4, b"caf\xe9,5")
    source = data(path).source
    assert len(list(good_rows(source, 0.2, said))) == 4
    with pytest.raises(DataError, match=r"1 of 5 rows are bad.*\n  r\.csv, line 2: invalid UTF-8"):
        list(good_rows(source, 0.1, said))
    items = tmp_path / "items.jsonl"
    items.write_text('{"title": "no id"}\n' * 3)
    with pytest.raises(DataError, match=r"items\.jsonl, line 1: no parent_asin or asin"):
        build([str(items)], tmp_path / "joined")


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"delimiter": ";;"}, "one character"),
        ({"delimiter": '"'}, "one character"),
        ({"encoding": "cp-1252x"}, "no such encoding"),
        ({"quoting": "sometimes"}, "standard"),
    ],
)
def test_a_format_that_cannot_be_is_a_recipe_error(form: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TableFile.model_validate({"kind": "table", "paths": ["r.csv"], "format": form})


def test_a_source_without_a_format_keeps_its_cache_key() -> None:
    plain = {"kind": "table", "paths": ["r.csv"]}
    assert "format" not in TableFile.model_validate(plain).model_dump(mode="json")
    told = TableFile.model_validate({**plain, "format": {"delimiter": "tab"}})
    assert told.model_dump(mode="json")["format"]["delimiter"] == "\t"
    assert TableFile.model_validate(told.model_dump()) == told
