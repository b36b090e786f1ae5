"""Files of samples are read as data sources are, or refused with the line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from lwc.core.errors import DataError
from lwc.serving.loadtest.samples import read_samples
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
        ("s.csv", b"review,label\na,b\n", r"no column for text: 'text'; it has 'review', 'label'"),
        ("s.csv", b"text,label,label\na,b,c\n", "2 columns are named 'label'"),
        ("s.parquet", b"PAR1 not really", "a truncated or damaged Parquet file"),
        ("s.parquet", b"text,label\n", "not a Parquet file"),
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
