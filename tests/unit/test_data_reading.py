"""Reading review files, damaged ones included: every line becomes a row or stands in the quarantine."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from lwc.core.errors import DataError
from lwc.data.rows import Bad, Reason, Row
from lwc.data.sources import mcauley, table
from lwc.recipe import Columns

COLUMNS = Columns(body="text", rating="stars")


def record(number: int, **changes: Any) -> str:
    """A 2014 line."""
    found: dict[str, Any] = {
        "reviewerID": f"u{number}", "asin": "a", "reviewText": f"text {number}", "summary": "s", "overall": 5.0,
        "unixReviewTime": 1_400_000_000 + number,
    }  # fmt: skip
    return json.dumps({**found, **changes})


def read(path: Path, content: bytes) -> tuple[list[Row], list[Bad]]:
    path.write_bytes(content)
    found = list(mcauley.read_file(path) if "json" in path.name else table.read_file(path, COLUMNS))
    return [i for i in found if isinstance(i, Row)], [i for i in found if isinstance(i, Bad)]


GOOD = [record(number) for number in range(300)]


def test_a_gzip_that_ends_early_keeps_the_rows_before_the_cut(tmp_path: Path) -> None:
    whole = gzip.compress("\n".join(GOOD).encode())
    rows, bad = read(tmp_path / "r.json.gz", whole[: len(whole) // 2])
    assert len(rows) > 50
    assert [row.body for row in rows] == [f"text {number}" for number in range(len(rows))]
    assert len(bad) == 1
    assert bad[0].reason is Reason.TRUNCATED_GZIP
    assert bad[0].line == len(rows) + 1


def test_all_members_of_a_gzip_are_read(tmp_path: Path) -> None:
    parts = [gzip.compress(("\n".join(GOOD[at : at + 100]) + "\n").encode()) for at in (0, 100, 200)]
    rows, bad = read(tmp_path / "r.json.gz", b"".join(parts) + b"\0" * 512)
    assert (len(rows), bad) == (300, [])


def test_a_flipped_bit_in_a_gzip_is_reported_not_raised(tmp_path: Path) -> None:
    content = bytearray(gzip.compress("\n".join(GOOD).encode()))
    content[len(content) // 2] ^= 0xFF
    rows, bad = read(tmp_path / "r.json.gz", bytes(content))
    assert rows
    assert any("gzip" in one.reason for one in bad)
    csv = bytearray(gzip.compress(("text,stars\n" + "\n".join(f"t{n},5" for n in range(3000))).encode()))
    csv[len(csv) // 2] ^= 0xFF
    rows, bad = read(tmp_path / "r.csv.gz", bytes(csv))
    assert any("gzip" in one.reason for one in bad)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{bad", "bad JSON"),
        (b"[" * 100_000, "bad JSON"),
        (b"null", "not an object"),
        (b'{"overall": 5, "reviewText": "\xff"}', "invalid UTF-8"),
        (record(1, overall=float("nan")).encode(), "rating is NaN"),
        (record(1, overall=9).encode(), "outside 1 to 5"),
        (record(1, overall=10**400).encode(), "outside 1 to 5"),
        (record(1, overall=True).encode(), "not a number"),
        (record(1, overall=None).encode(), "no rating"),
    ],
)
def test_a_bad_line_is_quarantined_with_its_number(tmp_path: Path, line: bytes, reason: str) -> None:
    rows, bad = read(tmp_path / "r.json", GOOD[0].encode() + b"\n" + line + b"\n" + GOOD[1].encode())
    assert len(rows) == 2
    assert [one.line for one in bad] == [2]
    assert reason in bad[0].message


def test_array_style_and_byte_order_mark(tmp_path: Path) -> None:
    rows, bad = read(tmp_path / "r.json", b"\xef\xbb\xbf[" + ",\n".join(GOOD).encode() + b"]\n")
    assert (len(rows), bad) == (300, [])


def test_2023_fields_and_milliseconds(tmp_path: Path) -> None:
    new = {"rating": 4.0, "title": "t", "text": "b", "user_id": "u", "asin": "x", "parent_asin": "p"}
    rows, _ = read(tmp_path / "r.jsonl", json.dumps({**new, "timestamp": 1_588_687_728_923}).encode())
    assert (rows[0].time, rows[0].item, rows[0].body) == (1_588_687_728, "p", "b")


def test_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Git LFS pointer"):
        read(tmp_path / "r.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_row_count_with_breaks_in_quotes(tmp_path: Path, end: str, mark: bytes) -> None:
    lines = ["text,stars", *(f'"line one{end}line ""two"" {n}",5' for n in range(40)), "plain,1"]
    rows, bad = read(tmp_path / "r.csv", mark + end.join(lines).encode())
    assert (len(rows), bad) == (41, [])


def test_a_bare_carriage_return_inside_a_row_is_white_space(tmp_path: Path) -> None:
    rows, bad = read(tmp_path / "r.csv", b"text,stars\none\rtwo,5\nthree,1\n")
    assert ([row.body for row in rows], bad) == (["one two", "three"], [])


def test_a_quote_that_never_closes_costs_one_row(tmp_path: Path) -> None:
    lines = ["text,stars", *(f"text {n},5" for n in range(50)), '"never closed,5', *(f"more {n},1" for n in range(50))]
    rows, bad = read(tmp_path / "r.csv", "\n".join(lines).encode())
    assert len(rows) == 100
    assert [one.line for one in bad] == [52]


def test_a_missing_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path / "r.csv", b"texts,stars\na,5\n")
    assert "'texts'" in caught.value.message + caught.value.hint


def test_parquet_dates_are_times(tmp_path: Path) -> None:
    import datetime

    import pyarrow as pa
    import pyarrow.parquet as pq

    when = datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC)
    pq.write_table(pa.table({"text": ["a"], "stars": [5.0], "when": [when]}), tmp_path / "r.parquet")
    rows = list(table.read_file(tmp_path / "r.parquet", Columns(body="text", rating="stars", time="when")))
    assert isinstance(rows[0], Row)
    assert rows[0].time == int(when.timestamp())
