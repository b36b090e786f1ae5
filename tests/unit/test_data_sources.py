"""Sources: each published format by its values, and each way a source can be missing, by its error."""

from __future__ import annotations

import gzip
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lwc.core.errors import DataError, MissingDependency
from lwc.data.fields import seconds_of
from lwc.data.prepare import prepare
from lwc.data.rows import Bad, Reason, Row
from lwc.data.source import read_rows
from lwc.data.sources import amazon_2023, mcauley, table
from lwc.recipe import Amazon2023, Columns, Data, HubDataset

COLUMNS = Columns(body="text", rating="stars")
OLD = {"reviewerID": "u", "asin": "a", "reviewText": "body", "summary": "title", "overall": 5.0}
NEW = {"user_id": "u", "asin": "a", "parent_asin": "p", "text": "body", "title": "title", "rating": 4.0}


def quiet(_: str) -> None:
    """No progress."""


def read(path: Path, content: bytes, columns: Columns = COLUMNS) -> list[Row | Bad]:
    path.write_bytes(content)
    return list(mcauley.read_file(path) if "json" in path.name else table.read_file(path, columns))


# --- McAuley files


@pytest.mark.parametrize(
    ("record", "item", "rating", "time"),
    [
        ({**OLD, "unixReviewTime": 1_393_545_600, "helpful": [0, 0]}, "a", 5.0, 1_393_545_600),
        ({**OLD, "unixReviewTime": 1_518_000_000, "verified": True, "style": {"Color:": " Red"}}, "a", 5.0, 1518000000),
        ({**NEW, "timestamp": 1_588_687_728_923}, "p", 4.0, 1_588_687_728),
        ({**NEW, "timestamp": 1_588_687_728}, "p", 4.0, 1_588_687_728),
    ],
    ids=["2014", "2018", "2023 milliseconds", "2023 seconds"],
)
def test_the_fields_of_each_release(tmp_path: Path, record: Any, item: str, rating: float, time: int) -> None:
    found = read(tmp_path / "r.json", json.dumps(record).encode())
    assert found == [
        Row("r.json", 1, body="body", title="title", rating=rating, user="u", item=item, time=time),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"overall": 5, "overall": 1, "reviewText": "a"}', "a key is given twice"),
        (json.dumps({**OLD, "overall": 7}).encode(), "rating is outside 1 to 5"),
        (json.dumps({**OLD, "overall": "good" * 1000}).encode(), "rating is not a number"),
        (b'{"overall": ' + b"1" * 6000 + b"}", "a number has too many digits: over 4,300"),
        (json.dumps({**OLD, "unixReviewTime": 1e300}).encode(), "time is out of range"),
        (json.dumps({**OLD, "unixReviewTime": float("inf")}).encode(), "time is neither"),
        (b'{"overall": 5, "reviewText": ' + b"[" * 90_000 + b"]" * 90_000 + b"}", "bad JSON: nested too deep"),
        (b'{"a":' * 90_000 + b"1" + b"}" * 90_000, "bad JSON: nested too deep"),
    ],
)
def test_the_quarantine_says_file_line_and_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    good = json.dumps(OLD).encode()
    found = read(tmp_path / "r.json", b"\n\n".join([good, line, good]))
    assert [item.line for item in found] == [1, 3, 5]
    bad = found[1]
    assert isinstance(bad, Bad)
    assert bad.file == "r.json"
    assert bad.message.startswith(reason)
    assert bad.reason in Reason
    assert len(bad.message) < 150
    assert 0 < len(bad.excerpt) <= 120


def test_ids_with_lone_surrogates_can_be_stored(tmp_path: Path) -> None:
    row = read(tmp_path / "r.json", json.dumps({**OLD, "reviewerID": "\ud800x", "asin": "\udfff"}).encode())[0]
    assert isinstance(row, Row)
    assert (row.user, row.item) == ("?x", "?")


def test_a_list_is_no_review_text(tmp_path: Path) -> None:
    row = read(tmp_path / "r.json", json.dumps({**OLD, "reviewText": ["a"], "summary": {"b": 1}}).encode())[0]
    assert isinstance(row, Row)
    assert (row.body, row.title) == ("", "")


def test_array_with_brackets_on_their_own_lines(tmp_path: Path) -> None:
    lines = ["[", json.dumps(OLD) + ",", json.dumps({**OLD, "helpful": [1, 2]}) + " ,", json.dumps(OLD), "]"]
    found = read(tmp_path / "r.json", "\n".join(lines).encode())
    assert [(type(item), item.line) for item in found] == [(Row, 2), (Row, 3), (Row, 4)]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("2020-01-02", 1_577_923_200),
        ("01 2, 2020", 1_577_923_200),
        (-5, -5),
        ("2020-01-02 00:00:00 UTC", 1_577_923_200),
        ("2020-01-02T00:00:00Z", 1_577_923_200),
        (1_577_923_200_000, 1_577_923_200),
        ("1577923200000000", 1_577_923_200),
        (1_577_923_200_000_000_000, 1_577_923_200),
        ("1577923200999999999", 1_577_923_200),
        ("0000-00-00 00:00:00", None),
        ("0000-00-00", None),
        ("NaT", None),
        ("NULL", None),
    ],
)
def test_times(value: Any, seconds: int | None) -> None:
    assert seconds_of(value) == seconds


# --- tables


@pytest.mark.parametrize("name", ["r.csv", "r.tsv", "r.csv.gz", "r.tsv.gz", "r.CSV"])
def test_delimited_tables(tmp_path: Path, name: str) -> None:
    text = '\ufefftext,stars\n"a, ""b""\nc",5\nd,1\ne\nf,2,g\n,3\nh,x\n'
    if "tsv" in name:
        text = text.replace("a, ", "a; ").replace(",", "\t").replace("a; ", "a, ")
    raw = text.encode()
    found = read(tmp_path / name, gzip.compress(raw) if name.endswith(".gz") else raw)
    rows = [(item.line, item.body, item.rating) for item in found if isinstance(item, Row)]
    assert rows == [(2, 'a, "b"\nc', 5.0), (4, "d", 1.0), (7, "", 3.0)]
    bad = [(item.line, item.message) for item in found if isinstance(item, Bad)]
    assert bad == [
        (5, "wrong cell count: 1, the header has 2"),
        (6, "wrong cell count: 3, the header has 2"),
        (8, "rating is not a number: 'x'"),
    ]


def test_a_truncated_table_keeps_the_rows_before_the_cut(tmp_path: Path) -> None:
    whole = gzip.compress(("text,stars\n" + "".join(f"text {n * n},5\n" for n in range(3000))).encode())
    found = read(tmp_path / "r.csv.gz", whole[: len(whole) // 2])
    rows = [item.body for item in found if isinstance(item, Row)]
    assert len(rows) > 500
    assert rows == [f"text {n * n}" for n in range(len(rows))]
    assert isinstance(found[-1], Bad)
    assert found[-1].reason is Reason.TRUNCATED_GZIP


def test_a_missing_column_gets_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"body: 'text' \(did you mean 'texts'\?\)"):
        read(tmp_path / "r.csv", b"texts,stars\na,5\n")
    pq.write_table(pa.table({"text": ["a"], "star": [5]}), tmp_path / "r.parquet")
    with pytest.raises(DataError, match=r"rating: 'stars' \(did you mean 'star'\?\)"):
        list(table.read_file(tmp_path / "r.parquet", COLUMNS))


def parquet(path: Path, **columns: Any) -> list[Row | Bad]:
    pq.write_table(pa.table(columns), path)
    return list(table.read_file(path, COLUMNS))


def test_parquet_values(tmp_path: Path) -> None:
    found = parquet(tmp_path / "r.parquet", text=["a", "b", "c", None], stars=[5.0, float("nan"), None, 1.0], x=[0] * 4)
    assert [item.reason if isinstance(item, Bad) else item.body for item in found] == [
        "a", "rating is NaN", "no rating", "",
    ]  # fmt: skip
    assert [item.line for item in found] == [1, 2, 3, 4]


def test_parquet_text_as_bytes_and_invalid_utf8(tmp_path: Path) -> None:
    raw = pa.array([b"caf\xc3\xa9", b"\xff\xfe", b"ok"], pa.binary())
    for column in (raw, raw.view(pa.string())):
        found = parquet(tmp_path / "r.parquet", text=column, stars=[5, 5, 5])
        assert [item.reason if isinstance(item, Bad) else item.body for item in found] == [
            "caf\u00e9", "invalid UTF-8", "ok",
        ]  # fmt: skip


def test_damaged_parquet_is_reported_not_raised(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    parquet(path, text=[f"t{n} word" for n in range(5000)], stars=[5.0] * 5000)
    whole = bytearray(path.read_bytes())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="a truncated or damaged Parquet file"):
        list(table.read_file(path, COLUMNS))
    for index in range(200, 1200):
        whole[index] ^= 0x5A
    path.write_bytes(whole)
    found = list(table.read_file(path, COLUMNS))
    assert isinstance(found[-1], Bad)
    assert (found[-1].reason, found[-1].rows) == (Reason.DAMAGED_TABLE, 5000)


@pytest.mark.parametrize("name", ["r.jsonl", "r.json", "r.jsonl.gz"])
def test_json_lines_through_a_column_map(tmp_path: Path, name: str) -> None:
    raw = b'{"text": "a", "stars": 5}\n{"stars": "4"}\n[1]\n{"text": "b"}\n{"text": "c", "stars": 1\n'
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    found = list(table.read_file(tmp_path / name, COLUMNS))
    assert [(item.line, item.body, item.rating) for item in found if isinstance(item, Row)] == [
        (1, "a", 5.0), (2, "", 4.0),
    ]  # fmt: skip
    assert [(item.line, item.reason) for item in found if isinstance(item, Bad)] == [
        (3, Reason.NOT_AN_OBJECT), (4, Reason.NO_RATING), (5, Reason.BAD_JSON),
    ]  # fmt: skip


def test_a_column_that_no_json_line_has_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"texts": "a", "stars": 5}\n')
    with pytest.raises(DataError, match=r"body: 'text' \(did you mean 'texts'\?\)"):
        list(table.read_file(tmp_path / "r.jsonl", COLUMNS))


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    for name in ("r.xlsx", "r", "r.gz"):
        with pytest.raises(DataError, match="not a table format"):
            read(tmp_path / name, b"x")


# --- what must be fetched


def test_an_unknown_category_gets_the_nearest_name() -> None:
    with pytest.raises(DataError) as caught:
        list(amazon_2023.read(Amazon2023(kind="amazon-2023", category="All_Buty"), quiet))
    assert "All_Beauty" in caught.value.hint


def test_no_network_names_the_folder_to_fill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("LWC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("LWC_DATA_DIR", raising=False)
    with pytest.raises(MissingDependency) as caught:
        list(amazon_2023.read(Amazon2023(kind="amazon-2023", category="All_Beauty"), quiet))
    assert "LWC_DATA_DIR" in caught.value.hint


def test_a_category_in_the_data_folder_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", None)
    monkeypatch.setenv("LWC_DATA_DIR", str(tmp_path))
    (tmp_path / "All_Beauty.jsonl.gz").write_bytes(gzip.compress(json.dumps(NEW).encode()))
    found = list(amazon_2023.read(Amazon2023(kind="amazon-2023", category="All_Beauty"), quiet))
    assert [item.line for item in found if isinstance(item, Row)] == [1]


def test_a_cached_category_that_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LWC_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("LWC_DATA_DIR", raising=False)
    file = tmp_path / "amazon-2023" / "All_Beauty.jsonl.gz"
    file.parent.mkdir()
    file.write_bytes(gzip.compress(json.dumps(NEW).encode()))
    assert amazon_2023.fetch("All_Beauty", quiet) == file
    file.write_bytes(gzip.compress(json.dumps(OLD).encode()))
    with pytest.raises(DataError, match="not the file that was pinned"):
        amazon_2023.fetch("All_Beauty", quiet)


def test_a_hub_source_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependency) as caught:
        list(read_rows(HubDataset(kind="hub", id="a/b"), quiet))
    assert "lwc[hub]" in caught.value.hint


# --- real files


@pytest.mark.parametrize(
    ("name", "source", "read_rows", "bad"),
    [
        ("2023-software-jsonl/reviews.jsonl.gz", {"kind": "mcauley"}, 1000, {}),
        ("2014-5core-cellphones-truncated-json/Cell_Phones_and_Accessories_5.json.gz", {"kind": "mcauley"}, 4777, None),
        (
            "2018-electronics-software-sample-csv/electronics.csv.gz",
            {"kind": "table", "columns": {"body": "reviewText", "rating": "overall", "user": "reviewerID"}},
            3050,
            None,
        ),
        (
            "amazon-alexa-tsv/amazon_alexa.tsv.gz",
            {"kind": "table", "columns": {"body": "verified_reviews", "rating": "rating"}},
            3150,
            {"empty text": 79},
        ),
    ],
)
def test_real_files_are_accounted_for(
    reviews_dir: Path, tmp_path: Path, name: str, source: dict[str, Any], read_rows: int, bad: Any
) -> None:
    if not (reviews_dir / name).is_file():
        pytest.skip(f"{name} is not in LWC_DATA_DIR")
    found = prepare(Data.model_validate({"source": {**source, "paths": [name]}}), 3, tmp_path)
    refused = sum(found["rows_bad"].values())
    gone = refused + found["rows_left_out_by_label_scheme"] + sum(found["duplicates"].values())
    assert found["rows_read"] == read_rows == gone + found["rows_used"]
    assert all(pair["texts"] == 0 for pair in found["leaks"].values())
    if bad is not None:
        assert found["rows_bad"] == bad
    assert len((tmp_path / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()) == refused
