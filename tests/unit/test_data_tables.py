"""Tables as programs write them: delimiters, quotes, headers, ragged rows, damaged and nested Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from both import both

from lwc.core.errors import DataError
from lwc.data.rows import Reason
from lwc.data.source import notes_of
from lwc.recipe import TableFile


def table(path: Path, content: str = "", columns: dict[str, str] | None = None, **form: Any) -> TableFile:
    if content:
        path.write_bytes(content.encode())
    columns = columns if columns is not None else {"body": "text", "rating": "stars"}
    return TableFile.model_validate({"kind": "table", "paths": [str(path)], "columns": columns, "format": form})


# --- quotes

LITERAL = 'stars\ttext\n5\t"Love it, works\n1\tBroke after a day\n1\tThe screen is only 5"\n4\t"Great" tea\n'


def test_quotes_in_a_tsv_are_text(tmp_path: Path) -> None:
    source = table(tmp_path / "r.tsv", LITERAL)
    rows, bad = both(source)
    assert bad == []
    assert [row.body for row in rows] == [
        '"Love it, works', "Broke after a day", 'The screen is only 5"', '"Great" tea',
    ]  # fmt: skip
    assert notes_of(source) == []


@pytest.mark.parametrize(
    ("content", "bodies"),
    [
        ('text\tstars\n"two\nlines"\t5\nplain\t4\n', ["two\nlines", "plain"]),
        ('text\tstars\n"a\ttab"\t5\nplain\t4\n', ["a\ttab", "plain"]),
        ('text\tstars\n"he said ""hi"""\t5\nplain\t4\n', ['he said "hi"', "plain"]),
        ('"text"\t"stars"\n"a"\t"5"\n"b"\t"4"\n', ["a", "b"]),
        ('stars\ttext\n5\t"first\nsecond"\n4\tplain\n', ["first\nsecond", "plain"]),
    ],
    ids=["line break", "tab", "doubled", "quoted header", "line break at the end"],
)
def test_a_tsv_that_is_clearly_quoted_is_read_so_and_this_is_said(
    tmp_path: Path, content: str, bodies: list[str]
) -> None:
    source = table(tmp_path / "r.tsv", content)
    rows, bad = both(source)
    assert ([row.body for row in rows], bad) == (bodies, [])
    assert notes_of(source) == [f"{tmp_path}/r.tsv: quoting is standard, as the beginning shows."]


def test_the_recipe_decides_about_quotes(tmp_path: Path) -> None:
    rows, _ = both(table(tmp_path / "r.tsv", LITERAL, quoting="standard"))
    assert rows[0].body == "Love it, works\n1\tBroke after a day\n1\tThe screen is only 5"
    rows, bad = both(table(tmp_path / "r.csv", 'text,stars\n"a" b,5\n', quoting="none"))
    assert ([row.body for row in rows], bad) == (['"a" b'], [])


def test_a_quote_never_joins_lines_that_are_rows_without_a_word(tmp_path: Path) -> None:
    rows, bad = both(
        table(tmp_path / "r.csv", LITERAL.replace(", ", " ").replace("\t", ",").replace('"Great"', "Great"))
    )
    assert [row.line for row in rows] == [3, 4, 5]
    assert [(one.line, one.reason) for one in bad] == [(2, Reason.BAD_QUOTING)]
    assert "a quote joins lines 2 to 4" in bad[0].detail
    text = 'stars,text\n5,"good, yes\nsecond, third"\n4,plain\n'  # as many commas, but no second rating
    assert [row.body for row in both(table(tmp_path / "s.csv", text))[0]] == ["good, yes\nsecond, third", "plain"]


def test_late_quotes_in_a_quoted_tsv_are_bad_rows_not_one_long_row(tmp_path: Path) -> None:
    first = "".join(f'"row ""{n}"" {"x" * 90}"\t5\n' for n in range(12_000))
    rows, bad = both(table(tmp_path / "r.tsv", "text\tstars\n" + first + '"open\t4\nnext\t3\nlast"\t2\n'))
    assert len(rows) + len(bad) == 12_003
    assert len(bad) == 1


@pytest.mark.parametrize("count", [1, 40])
def test_backslashes_that_escape_quotes_are_understood(tmp_path: Path, count: int) -> None:
    lines = [r'"the \"best\", really",5'] * count + ['"path C:\\temp ""x""",4'] + ["plain,3"] * 5
    source = table(tmp_path / "r.csv", "text,stars\n" + "\n".join(lines))
    rows, bad = both(source)
    assert bad == []
    assert {row.body for row in rows} == {'the "best", really', 'path C:\\temp "x"', "plain"}
    assert notes_of(source) == [f"{tmp_path}/r.csv: quoting is backslash, as the beginning shows."]
    _, bad = both(table(tmp_path / "r.csv", quoting="standard"))
    assert {one.reason for one in bad} <= {Reason.BAD_QUOTING, Reason.CELL_COUNT}
    assert len(bad) == count
    assert r"\"best\"" in bad[0].excerpt


def test_a_backslash_at_the_end_of_a_field_escapes_nothing(tmp_path: Path) -> None:
    rows, bad = both(table(tmp_path / "r.csv", 'text,stars\n"a path, C:\\",5\n"b ""c""",4\n'))
    assert ([row.body for row in rows], bad) == (["a path, C:\\", 'b "c"'], [])


# --- delimiters and headers


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_another_delimiter_is_seen_in_the_header_and_said(tmp_path: Path, mark: str, name: str) -> None:
    content = f'"text"{mark}"stars"\r\ngood, yes{mark}5\r\n"a{mark}b"{mark}4\r\n'
    source = table(tmp_path / "r.csv", content)
    rows, bad = both(source)
    bodies = ["good, yes", f"a{mark}b"]
    assert ([row.body for row in rows], bad) == (bodies, [])
    assert f"{tmp_path}/r.csv: fields are separated by {name}, as the header shows." in notes_of(source)
    given = "tab" if mark == "\t" else mark
    assert [row.body for row in both(table(tmp_path / "r.csv", delimiter=given))[0]] == bodies


@pytest.mark.parametrize(
    ("header", "settings", "told"),
    [
        ("texts;stars", {}, False),  # some columns are there: the header is split right
        ("texts;starz", {}, True),
        ("text;stars", {"delimiter": ","}, True),
    ],
)
def test_a_header_without_the_columns_names_the_delimiter_it_shows(
    tmp_path: Path, header: str, settings: dict[str, str], told: bool
) -> None:
    with pytest.raises(DataError, match="no column for") as caught:
        both(table(tmp_path / "r.csv", f"{header}\na;5\n", **settings))
    said = "if fields are separated by semicolons, set data.source.format.delimiter: ';'"
    assert (said in caught.value.hint) is told


@pytest.mark.parametrize("mark", [",", ";"])
def test_a_sep_line_is_not_a_header(tmp_path: Path, mark: str) -> None:
    rows, bad = both(table(tmp_path / "r.csv", f"sep={mark}\r\ntext{mark}stars\r\na{mark}5\r\n"))
    assert ([(row.body, row.line) for row in rows], bad) == ([("a", 3)], [])


def test_any_suffix_is_read_with_a_delimiter(tmp_path: Path) -> None:
    rows, _ = both(table(tmp_path / "reviews.txt", "text~stars\na~5\n", delimiter="~"))
    assert rows[0].body == "a"


HEADLESS = f'"5","Title","{"a long review " * 10}"\n"1","Other","bad"\n'


@pytest.mark.parametrize(
    "columns",
    [
        {"body": "text", "rating": "stars"},
        {"body": "2", "rating": "0"},
        {"body": "a long review " * 9 + "a long review", "rating": "5"},
        {"body": "body", "rating": "5"},
    ],
    ids=["names", "from 0", "by value", "one by value"],
)
def test_a_first_line_that_is_a_row_is_named_and_the_hint_works(tmp_path: Path, columns: dict[str, str]) -> None:
    path = tmp_path / "r.csv"
    with pytest.raises(DataError, match="the first line looks like a row, not a header: 5,Title,a long") as caught:
        both(table(path, HEADLESS, columns))
    assert "data.source.format.header: false" in caught.value.hint
    assert len(caught.value.message) < 300
    with pytest.raises(DataError, match="no column for rating: '0'") as caught:
        both(table(path, columns={"body": "2", "rating": "0"}, header=False))
    assert "named by number, '1' to '3'" in caught.value.hint
    rows, bad = both(table(path, columns={"body": "3", "rating": "1", "title": "2"}, header=False))
    assert ([(row.line, row.rating, row.title) for row in rows], bad) == ([(1, 5.0, "Title"), (2, 1.0, "Other")], [])


def test_a_header_of_numbers_is_one_if_its_columns_are_mapped(tmp_path: Path) -> None:
    rows, _ = both(table(tmp_path / "r.csv", "0,1\na,5\n", {"body": "0", "rating": "1"}))
    assert [row.body for row in rows] == ["a"]


@pytest.mark.parametrize("header", ["text,stars,text", "text,stars,stars "])
def test_a_column_name_given_twice_is_refused_where_it_is_read(tmp_path: Path, header: str) -> None:
    with pytest.raises(DataError, match=r"2 columns are named .(text|stars)."):
        both(table(tmp_path / "r.csv", f"{header}\na,5,4\n"))
    rows, _ = both(table(tmp_path / "r.csv", "text,stars,x,x\na,5,1,2\n"))
    assert rows[0].body == "a"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('"text","stars"\n"1","a",5\n"2","b",4\n', "the first column has no name; it numbers the rows"),
        ("text,stars\na,5,\nb,4,\n", "every row ends in a delimiter more than the header"),
    ],
    ids=["row names", "trailing comma"],
)
def test_a_header_one_cell_short(tmp_path: Path, content: str, said: str) -> None:
    source = table(tmp_path / "r.csv", content)
    rows, bad = both(source)
    assert ([(row.body, row.rating) for row in rows], bad) == ([("a", 5.0), ("b", 4.0)], [])
    assert notes_of(source) == [f"{tmp_path}/r.csv: {said}."]
    (tmp_path / "s.csv").write_text(content)
    several = source.model_copy(update={"paths": (f"{tmp_path}/*.csv",)})
    assert notes_of(several) == [f"{tmp_path}/r.csv and 1 more: {said}."]


def test_a_comma_in_every_text_is_not_taken_for_row_names(tmp_path: Path) -> None:
    rows, bad = both(table(tmp_path / "r.csv", "text,stars\ngood, yes,5\nbad, no,1\n"))
    assert rows == []
    assert [one.message for one in bad] == ["wrong cell count: 3, the header has 2"] * 2
    assert bad[0].excerpt.strip() == "good, yes,5"


# --- Parquet


def parquet(path: Path, rows: int, group: int) -> bytearray:
    texts, stars = [f"{path.stem} review {n}" for n in range(rows)], [float(n % 5 + 1) for n in range(rows)]
    pq.write_table(pa.table({"text": texts, "stars": stars}), path, row_group_size=group, compression="none")
    return bytearray(path.read_bytes())


def test_the_rows_that_damage_loses_are_counted_from_the_footer(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    raw = parquet(path, 900, 300)
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    start = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
    raw[start : start + 40] = b"\xff" * 40
    path.write_bytes(raw)
    rows, bad = both(table(path))
    assert [row.line for row in rows] == [*range(1, 301), *range(601, 901)]
    assert [(one.line, one.rows, one.reason) for one in bad] == [(301, 300, Reason.DAMAGED_TABLE)]
    assert "row group 2" in bad[0].detail


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.array([["a"], ["b"]]), r"column 'text' is a list<.*string>, not one value a row"),
        (pa.array([{"en": "a"}, {"en": "b"}]), r"column 'text' is a struct<en: string>"),
        (pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())), r"column 'text' is a map<"),
    ],
)
def test_a_nested_column_is_named_with_its_type(tmp_path: Path, column: pa.Array, said: str) -> None:
    path = tmp_path / "r.parquet"
    pq.write_table(pa.table({"text": column, "stars": [5.0, 1.0]}), path)
    with pytest.raises(DataError, match=said):
        both(table(path))
    with pytest.raises(DataError, match="a path into 'text' is not read"):
        both(table(path, columns={"body": "text.en"}))


def test_a_parquet_column_given_twice_is_refused(tmp_path: Path) -> None:
    found = pa.Table.from_arrays([pa.array(["a"]), pa.array([5.0]), pa.array(["b"])], names=["text", "stars", "text"])
    pq.write_table(found, tmp_path / "r.parquet")
    with pytest.raises(DataError, match="2 columns are named 'text'"):
        both(table(tmp_path / "r.parquet"))


def test_times_with_nanoseconds_and_decimals_are_read(tmp_path: Path) -> None:
    columns = {
        "text": ["a"],
        "stars": pa.array([4], pa.int64()).cast(pa.decimal128(21, 1)),
        "when": pa.array([1_400_000_000_123_456_789], pa.timestamp("ns")),
    }
    pq.write_table(pa.table(columns), tmp_path / "r.parquet")
    rows, _ = both(table(tmp_path / "r.parquet", columns={"body": "text", "rating": "stars", "time": "when"}))
    assert (rows[0].rating, rows[0].time) == (4.0, 1_400_000_000)
