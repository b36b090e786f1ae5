"""Files of samples are read as data sources are, or refused with the line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lwc.core.errors import DataError
from lwc.serving.loadtest.samples import read_samples, write_samples
from lwc.tasks.next_item.wire import ItemWire
from lwc.tasks.text_wire import TextWire

SAMPLES = [(1, "Gute Qualität", "a"), (2, 'so "good", yes', "b")]


def delimited(mark: str, ids: bool = True) -> str:
    quoted = "".join(f"{number}{mark}" * ids + f'"{text.replace(chr(34), chr(34) * 2)}"{mark}{label}\n'
                     for number, text, label in SAMPLES)  # fmt: skip
    return f"id{mark}" * ids + f"text{mark}label\n{quoted}"


JSON = [{"id": number, "text": text, "label": label} for number, text, label in SAMPLES]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("s.csv", delimited(",").encode("utf-16")),
        ("S.CSV", delimited(",").encode("utf-8-sig")),
        ("s.csv", delimited(";").encode()),
        ("s.csv", delimited(",", ids=False).encode()),
        ("s.tsv", delimited("\t").encode()),
        ("s.csv.gz", gzip.compress(delimited(",").encode())),
        ("s.jsonl.gz", gzip.compress("\n".join(map(json.dumps, JSON)).encode())),
        ("s.jsonl", ("\ufeff" + "\n".join(map(json.dumps, JSON))).encode()),
        ("s.json", json.dumps(JSON, indent=2).encode()),
        ("s.jsonl", json.dumps([{**row, "id": 9 - row["id"]} for row in JSON][::-1]).encode()),
    ],
    ids=["utf-16", "BOM", "semicolons", "no ids", "tabs", "csv.gz", "jsonl.gz", "BOM jsonl", "array", "array in jsonl"],
)
def test_samples_are_read_as_data_sources_are(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    found = [(sample.question, sample.label) for sample in read_samples(tmp_path / name, TextWire())]
    assert sorted(found) == sorted((text, label) for _, text, label in SAMPLES)
    assert len({sample.id for sample in read_samples(tmp_path / name, TextWire())}) == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("s.csv", b"text,label\nok,a\ncaf\xe9,b\n", r"s\.csv, line 3: invalid UTF-8: byte 0xe9"),
        ("s.csv", b"text,label\nok,a\na,b,c\n", r"s\.csv, line 3: wrong cell count: 3, the header has 2"),
        ("s.jsonl", b'{"text": "caf\xe9", "label": "b"}\n', r"s\.jsonl, line 1: invalid UTF-8"),
        ("s.jsonl", b'{"text": "a", "label": "b"}\n{"text"\n', r"s\.jsonl, line 2: bad JSON"),
        ("s.csv", b"stars,label\na,b\n", r"no column for text: 'text'; it has 'stars', 'label'"),
        ("s.csv", b"text,label,label\na,b,c\n", "2 columns are named 'label'"),
        ("s.parquet", b"PAR1 not really", "a truncated or damaged Parquet file"),
        ("s.parquet", b"text,label\n", "not a Parquet file"),
        ("s.txt", b"ok\ncaf\xe9\n", r"s\.txt, line 2: invalid UTF-8: byte 0xe9"),
        ("s.txt", b"\n \n", "no samples"),
        ("s.csv", b"I was given this for Christmas and I like it\nnot I\n", "no column for text"),
        ("s.xlsx", b"PK\3\4", "a spreadsheet"),
        ("s.csv", b"\x00\x01\xff\xfe" * 40, "the header is not UTF-8"),
    ],
)
def test_samples_that_cannot_be_read_are_named_by_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_samples(tmp_path / name, TextWire())
    assert (caught.value.message + caught.value.hint).isprintable()
    assert "data.source" not in caught.value.hint


def test_texts_need_no_label(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("text\ngreat value\nbroke at once\n")
    samples = read_samples(tmp_path / "s.csv", TextWire())
    assert [(one.id, one.question, one.label) for one in samples] == [
        (1, "great value", None),
        (2, "broke at once", None),
    ]
    assert TextWire().judge([(0, "good"), (1, "bad")], samples) is None


TWO = ["great; value", "broke at once"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("s.csv", 'text\n"great; value"\nbroke at once\n'),
        ("s.csv", 'Review Text;stars\n"great; value";5\nbroke at once;1\n'),
        ("s.tsv", "n\treview_body\nx\tgreat; value\ny\tbroke at once\n"),
        ("s.csv", "Kommentar\ngreat; value\nbroke at once\n"),
        ("s.csv", 'review,text\nno,"great; value"\nno,broke at once\n'),
        ("s.jsonl", '{"reviewText": "great; value"}\n{"reviewText": "broke at once", "overall": 1}\n'),
        ("s.txt", "great; value\n\nbroke at once"),
        ("s.TXT", "\ufeffgreat; value\r\nbroke at once\r\n"),
        ("s.csv", 'id,comment\nA1,"great; value"\nA1,broke at once\n'),
    ],
    ids=[
        "text",
        "semicolons",
        "tabs",
        "only column",
        "text before another",
        "JSON",
        "lines",
        "CRLF lines",
        "other ids",
    ],
)
def test_the_texts_are_found_without_a_column_of_that_name(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_bytes(content.encode())
    said: list[str] = []
    found = read_samples(tmp_path / name, TextWire(), said.append)
    assert [(one.id, one.question, one.label) for one in found] == [(1, TWO[0], None), (2, TWO[1], None)]
    plain = name.lower().endswith(".txt") or content.startswith("text") or ",text" in content
    assert len(said) == (0 if plain else 2 if content.startswith("id,") else 1)


def test_a_column_of_a_parquet_file_is_found_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"stars": [1, 2], "Review": TWO}), tmp_path / "s.parquet")
    assert [one.question for one in read_samples(tmp_path / "s.parquet", TextWire())] == TWO


def test_columns_that_may_all_be_the_text_are_one_error(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("comment,review,stars\na,b,1\n")
    with pytest.raises(DataError, match="text may be any of the columns 'comment', 'review'") as caught:
        read_samples(tmp_path / "s.csv", TextWire())
    assert caught.value.hint == "rename one to text"


def test_titles_are_read_where_the_model_takes_them(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("Headline,body\ngood,it works\n,broke\n")
    titled = read_samples(tmp_path / "s.csv", TextWire(title="title"))
    assert [one.question for one in titled] == [{"title": "good", "text": "it works"}, {"title": "", "text": "broke"}]
    assert [one.question for one in read_samples(tmp_path / "s.csv", TextWire())] == ["it works", "broke"]
    write_samples(titled, tmp_path / "s.parquet")
    assert read_samples(tmp_path / "s.parquet", TextWire(title="title")) == titled
    (tmp_path / "s.txt").write_text("it works\nbroke\n")
    bare = read_samples(tmp_path / "s.txt", TextWire(title="title"))
    assert [one.question for one in bare] == ["it works", "broke"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("s.txt", "B01 B02\nB03\n"),
        ("s.txt", '["B01", "B02"]\nB03\n'),
        ("s.csv", "history\nB01 B02\nB03\n"),
        ("s.csv", "user,items\n1,B01 B02\n2,B03\n"),
        ("s.jsonl", '{"item_ids": ["B01", "B02"]}\n{"item_ids": ["B03"]}\n'),
    ],
)
def test_histories_need_neither_ids_nor_lists(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert [one.question for one in read_samples(tmp_path / name, ItemWire())] == [["B01", "B02"], ["B03"]]


def test_a_list_that_is_none_is_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text('B01\n["B02\n')
    with pytest.raises(DataError, match=r"s\.txt, line 2: history begins with '\[' and is no JSON list"):
        read_samples(tmp_path / "s.txt", ItemWire())
