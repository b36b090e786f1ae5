"""Users' files as they come: packed, in other encodings, in folders, and JSON of any shape. Read, or named."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from both import both

from lwc.core.errors import DataError
from lwc.data.rows import Reason
from lwc.recipe import McAuleyFile, TableFile

TEXT = "text,label\ngood café,yes\nbad tea,no\n"
BODIES = ["good café", "bad tea"]


def table(*paths: Path | str, **settings: object) -> TableFile:
    return TableFile.model_validate(
        {"kind": "table", "paths": [str(path) for path in paths], "columns": {"label": "label"}, **settings}
    )


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def zipped(**files: str) -> bytes:
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return found.getvalue()


def tarred(content: bytes) -> bytes:
    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w") as archive:
        info = tarfile.TarInfo("r.csv")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return found.getvalue()


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
    ".zip": lambda raw: zipped(**{"__MACOSX/._r.csv": "", "inner.csv": raw.decode()}),
}


@pytest.mark.parametrize("name", ["r.csv{}", "r.csv"])
@pytest.mark.parametrize("suffix", PACKED)
def test_a_packed_file_is_read_by_its_name_or_its_content(tmp_path: Path, suffix: str, name: str) -> None:
    path = written(tmp_path / name.format(suffix), PACKED[suffix](TEXT.encode()))
    rows, bad = both(table(path))
    assert ([row.body for row in rows], bad) == (BODIES, [])


def test_a_file_packed_twice_and_a_zip_named_after_itself(tmp_path: Path) -> None:
    twice = written(tmp_path / "r.csv.gz", gzip.compress(gzip.compress(TEXT.encode())))
    alone = written(tmp_path / "archive.zip", zipped(**{"r.csv": TEXT}))
    for path in (twice, alone):
        assert [row.body for row in both(table(path))[0]] == BODIES


@pytest.mark.parametrize("suffix", [".bz2", ".xz", ".zst"])
def test_a_packed_file_that_ends_early_says_so(tmp_path: Path, suffix: str) -> None:
    text = "text,label\n" + "".join(f"text {n * 7919 % 100003} {n},yes\n" for n in range(9_000))
    whole = bz2.compress(text.encode(), 1) if suffix == ".bz2" else PACKED[suffix](text.encode())
    path = written(tmp_path / f"r.csv{suffix}", whole[: len(whole) * 9 // 10])
    rows, bad = both(table(path))
    assert len(rows) > 100
    assert bad[-1].reason in (Reason.TRUNCATED, Reason.CORRUPT)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("r.csv", b"<!DOCTYPE html><html>login</html>", "a web page"),
        ("r.csv", zipped(a="1", b="2"), r"a zip with 2 files \(a, b\)"),
        ("r.csv", zipped(**{"[Content_Types].xml": "", "xl/workbook.xml": ""}), "an Excel or Word file"),
        ("r.csv", zipped(a=TEXT)[:-30], "a damaged or truncated zip"),
        ("r.csv.gz", gzip.compress(tarred(TEXT.encode())), "a tar archive"),
        ("r.csv.tar.gz", gzip.compress(tarred(TEXT.encode())), "a tar archive"),
        ("r.csv.gz", gzip.compress(zipped(a=TEXT)), "inside a gzip file"),
        ("r.csv", b"PAR1" + bytes(100), "a Parquet file, not text"),
        ("r.jsonl", b"\x80\x04\x95" + bytes(100), "a Python pickle, which is never loaded"),
        ("r.parquet", b"PAR1 not really", "a truncated or damaged Parquet file"),
        ("r.parquet", TEXT.encode(), "not a Parquet file"),
        ("r.arrow", TEXT.encode(), "not an Arrow file"),
        ("r.csv", b"\x01\x02\xff\xfe\x07" * 50, "the header is not UTF-8"),
        ("r.xlsx", b"PK", "a spreadsheet"),
        ("r.csv", b'{"text": "a", "label": "b"}\n', "JSON, not a text table"),
    ],
)
def test_other_content_is_named_and_never_shown_raw(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        both(table(written(tmp_path / name, content)))
    assert caught.value.hint
    assert (caught.value.message + caught.value.hint).isprintable()
    assert len(caught.value.message) < 400


# --- encodings


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("mark", "codec"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
    ],
)
def test_a_byte_order_mark_says_the_encoding(
    tmp_path: Path, mark: bytes, codec: str, pack: Callable[[bytes], bytes]
) -> None:
    for name, text in (
        ("r.csv", TEXT),
        ("r.jsonl", '{"text": "good café", "label": 1}\n{"text": "bad tea", "label": 2}'),
    ):
        path = written(tmp_path / name, pack(mark + text.encode(codec)))
        rows, bad = both(table(path))
        assert ([row.body for row in rows], [row.line for row in rows][-1] - rows[0].line, bad) == (BODIES, 1, [])


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_named_and_the_hint_works(tmp_path: Path, codec: str) -> None:
    path = written(tmp_path / "r.csv", TEXT.encode(codec))
    with pytest.raises(DataError, match=f"{codec.upper()} text without a byte-order mark") as caught:
        both(table(path))
    assert f"data.source.format.encoding: {codec}" in caught.value.hint
    assert [row.body for row in both(table(path, format={"encoding": codec}))[0]] == BODIES


@pytest.mark.parametrize(("name", "text"), [("r.csv", TEXT), ("r.jsonl", '{"text": "good café", "label": "a"}\n')])
def test_cp1252_is_named_by_its_byte_and_read_as_the_recipe_says(tmp_path: Path, name: str, text: str) -> None:
    path = written(tmp_path / name, text.encode("cp1252"))
    _, bad = both(table(path))
    assert [one.reason for one in bad] == [Reason.NOT_UTF8]
    assert "0xe9" in bad[0].detail
    assert "'é' in cp1252" in bad[0].detail
    assert "good caf" in bad[0].excerpt
    assert both(table(path, format={"encoding": "cp1252"}))[0][0].body == "good café"


def test_text_that_is_not_in_the_named_encoding_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", TEXT.encode("latin-1") + b"a \x81 b,no\n")
    with pytest.raises(DataError, match=r"r\.csv, line 4: not CP1252 text \(bytes 81\)"):
        both(table(path, format={"encoding": "cp1252"}))
    cut = written(tmp_path / "s.csv", codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le") + b"x")
    assert [one.reason for one in both(table(cut))[1]] == [Reason.TRUNCATED]


# --- JSON

ROWS = [{"text": f'text {n} ["{{', "label": "a"} for n in range(5)]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        "  " + json.dumps(ROWS, indent=2),
        json.dumps(ROWS, indent=1).replace("[", "[\n\n", 1),
        "\n".join(json.dumps(row, indent=2) for row in ROWS),
        "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]",
        "[" + ",\n ".join(map(json.dumps, ROWS)) + "]",
    ],
    ids=["one line", "pretty", "blank lines", "pretty objects", "one a line", "one a line, brackets beside"],
)
def test_arrays_and_objects_over_several_lines_are_read(tmp_path: Path, content: str) -> None:
    rows, bad = both(table(written(tmp_path / "r.json", content.encode())))
    assert ([row.body for row in rows], bad) == ([row["text"] for row in ROWS], [])
    for row in rows:  # each row is on the line that is named, or begins there
        assert json.dumps(row.body) in "\n".join(content.split("\n")[row.line - 1 :][:4])
    review = [{"reviewText": row["text"], "overall": 5} for row in ROWS]
    path = written(tmp_path / "m.json", json.dumps(review).encode())
    assert len(both(McAuleyFile(kind="mcauley", paths=(str(path),)))[0]) == 5


def test_nothing_of_an_array_is_lost_in_silence(tmp_path: Path) -> None:
    content = '[{"text": "a", "label": "x"}, 17, {"text": "b" "label"}, {"text": "c", "label": "y"}, {"text": "open'
    rows, bad = both(table(written(tmp_path / "r.json", content.encode())))
    assert [row.body for row in rows] == ["a", "c"]
    assert [one.reason for one in bad] == [Reason.NOT_AN_OBJECT, Reason.BAD_JSON, Reason.TRUNCATED]
    rows, bad = both(table(written(tmp_path / "s.json", b'[["text", "label"], ["a", "x"]]')))
    assert (rows, [one.message for one in bad]) == ([], ["not an object: list"] * 2)


@pytest.mark.parametrize(
    ("content", "said", "hint"),
    [
        (json.dumps({"status": "ok", "data": ROWS}), "the rows in a list under 'data'", "jq -c '.[\"data\"][]'"),
        (json.dumps({"data": ROWS}, indent=2), "the rows in a list under 'data'", "jq -c"),
        (json.dumps({"n": "1", "data": ROWS * 30_000}), "the rows in a list under 'data'", "jq -c"),
        (json.dumps({"text": {"0": "a"}, "label": {"0": "b"}}), "the values of each column", "pandas.read_json"),
        (json.dumps({"text": ["a"] * 300_000, "label": ["b"]}), "the values of each column", "pandas.read_json"),
        ("\n".join(repr(row) for row in ROWS), "Python dictionaries", "ast.literal_eval"),
    ],
    ids=["wrapped", "wrapped, pretty", "wrapped, large", "by column", "by column, large", "Python"],
)
def test_other_shapes_are_named_with_the_command_that_helps(tmp_path: Path, content: str, said: str, hint: str) -> None:
    path = written(tmp_path / "r.json", content.encode())
    for source in (table(path), McAuleyFile(kind="mcauley", paths=(str(path),))):
        with pytest.raises(DataError, match=said) as caught:
            both(source)
        assert hint in caught.value.hint


def test_a_nested_value_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "r.jsonl", b'{"text": {"en": "a", "de": "b"}, "label": "x"}\n' * 3)
    _, bad = both(table(path))
    assert {one.message for one in bad} == {
        "a list or an object where one value is expected: 'text' is an object with 'en', 'de'"
    }
    with pytest.raises(DataError, match=r"a path into 'text' is not read"):
        both(table(path, columns={"body": "text.en"}))


# --- folders and patterns


def test_a_folder_and_a_pattern_stand_for_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "parts"
    (tmp_path / "empty").mkdir()
    (folder / "_temporary").mkdir(parents=True)
    for name in ("part-1.csv", "part-0.csv.gz", ".part-0.csv.crc", "_SUCCESS", "_temporary/x.csv", "README.md"):
        text = TEXT.replace("good", name[:6])
        (folder / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    for home in ("cwd", "data"):
        monkeypatch.chdir(tmp_path if home == "cwd" else "/")
        monkeypatch.setenv("LWC_DATA_DIR", str(tmp_path))
        for name, count in (("parts", 4), ("parts/*.csv", 2), ("parts/part-?.csv*", 4)):
            rows, _ = both(table(name))
            assert len(rows) == count
            assert [row.file for row in rows] == sorted(row.file for row in rows)
    with pytest.raises(DataError, match="no data file matches the pattern"):
        both(table("parts/*.parquet"))
    (folder / "same.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"\.csv and \.jsonl files"):
        both(table("parts"))
    with pytest.raises(DataError, match=r"a folder without .* files \(it has nothing\)"):
        both(table(tmp_path / "empty"))


def test_what_save_to_disk_writes_is_read_and_its_splits_are_named(tmp_path: Path) -> None:
    for split in ("test", "train"):
        (tmp_path / "d" / split).mkdir(parents=True)
        (tmp_path / "d" / split / "state.json").write_text("{}")
        rows = pa.table({"text": ["a", "b"], "label": ["x", "y"]})
        with pa.ipc.new_stream(str(tmp_path / "d" / split / "data-00000-of-00001.arrow"), rows.schema) as sink:
            sink.write_table(rows)
    (tmp_path / "d" / "dataset_dict.json").write_text("{}")
    assert [row.body for row in both(table(tmp_path / "d" / "train"))[0]] == ["a", "b"]
    with pytest.raises(DataError, match="save_to_disk with the splits test, train"):
        both(table(tmp_path / "d"))
