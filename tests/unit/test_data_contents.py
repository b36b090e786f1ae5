"""Contents that are easily misread: what looks alike and is not, and what differs and is the same."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from both import both

from lwc.core.errors import DataError
from lwc.data.bad_rows import check_bad
from lwc.data.duplicates import fold
from lwc.data.fields import rating_of
from lwc.data.ingest.run import ingest
from lwc.data.paths import locate
from lwc.data.prepare import check_splits, prepare
from lwc.data.rows import Reason
from lwc.data.source import notes_of
from lwc.recipe import Columns, Data, Format, Ingest, TableFile
from lwc.report.data_warnings import data_warnings, lost_rows


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("\u0905\u091a\u094d\u091b\u093e", "\u0905\u091a\u094d\u091b\u0940", False),
        ("\u0915\u0941\u0932", "\u0915\u0947\u0932", False),
        ("\u0e14\u0e35", "\u0e14\u0e37", False),
        ("Good \U0001f44d", "good \U0001f44e", False),
        ("Good\U0001f44d!", "good \U0001f44d\U0001f3fd", True),
        ("\u2764\ufe0f", "\u2764", True),
        ("\u2605\u2605", "\u2605\u2606", False),
        ("It's good\u2122...", "it s GOOD", True),
    ],
)
def test_texts_that_differ_in_a_vowel_sign_or_an_emoji_are_no_duplicates(one: str, other: str, same: bool) -> None:
    assert (fold(one) == fold(other)) == same


WORDS = [f"w{number}" for number in range(97)]


def text(number: int) -> str:
    return " ".join(WORDS[(number * step + step) % 97] for step in range(1, 12)) + f" n{number}"


def lines(path: Path, rows: list[dict[str, Any]], columns: Mapping[str, str], **data: Any) -> Data:
    """Rows with a text of their own as JSON lines."""
    path.write_text("\n".join(json.dumps({"text": text(number), **row}) for number, row in enumerate(rows)))
    source = {"kind": "table", "paths": [str(path)], "columns": {"body": "text", "rating": "stars", **columns}}
    return Data.model_validate({"source": source, "calibration": 20, **data})


def stars(number: int) -> int:
    return 1 if number % 2 else 5


# --- users and items


@pytest.mark.parametrize(
    ("value", "user", "item"),
    [
        ("nan", None, None), ("None", None, None), ("<NA>", None, None), ("NULL", None, None), (math.inf, None, None),
        ("nancy", "nancy", "nancy"), (7.0, "7", "7"), ("7.0", "7", "7.0"), ("7.5", "7.5", "7.5"), ("a+b", "a+b", "a+b"),
        (2**53, "9007199254740992", "9007199254740992"), ("12E4", "12E4", "12E4"),
    ],
)  # fmt: skip
def test_ids_are_none_where_a_word_says_missing_and_users_have_one_number_form(
    tmp_path: Path, value: Any, user: str | None, item: str | None
) -> None:
    columns = {"user": "user", "item": "item"}
    data = lines(tmp_path / "r.jsonl", [{"stars": 5, "user": value, "item": value}] * 20, columns)
    rows, bad = both(data.source)
    assert bad == []
    assert {(row.user, row.item) for row in rows} == {(user, item)}


@pytest.mark.parametrize("value", [float(2**53), 1e300, "9.00719925474099e+15", "1.23457E+11"])
def test_ids_that_lost_digits_are_bad_rows(tmp_path: Path, value: Any) -> None:
    columns = {"user": "user"}
    _, bad = both(lines(tmp_path / "r.jsonl", [{"stars": 5, "user": value}] * 20, columns).source)
    pq.write_table(pa.table({"text": ["a"], "stars": [5], "user": [value]}), tmp_path / "r.parquet")
    _, more = both(
        lines(tmp_path / "r.parquet.jsonl", [], columns).source.model_copy(
            update={"paths": (str(tmp_path / "r.parquet"),)}
        )
    )
    assert {one.reason for one in [*bad, *more]} == {Reason.ROUNDED_ID}
    assert len(bad) == 20


@pytest.mark.parametrize("large", [False, True])
def test_one_user_with_most_rows_is_named(tmp_path: Path, large: bool) -> None:
    users = ["anonymous" if number % 10 < 4 else f"u{number}" for number in range(300)]
    rows = [{"stars": stars(number // 3), "user": user} for number, user in enumerate(users)]
    data = lines(tmp_path / "r.jsonl", rows, {"user": "user"})
    (tmp_path / "out").mkdir()
    if large:
        with ThreadPoolExecutor(1) as pool:
            quality = ingest(data.model_copy(update={"ingest": Ingest()}), 1, tmp_path / "out", 1, pool=pool)
    else:
        quality = prepare(data, 1, tmp_path / "out")
    assert quality["largest_user"] == {"user": "anonymous", "rows": 120}
    assert [one for one in data_warnings(quality, "classification") if "anonymous" in one] != []
    with pytest.raises(DataError, match="'anonymous' has 120 of 300 rows"):
        check_splits({"test": np.zeros(0)}, np.zeros(300), ["a", "b"], quality["largest_user"])


# --- labels


def test_labels_that_stand_for_nothing_or_look_the_same_are_told(tmp_path: Path) -> None:
    names = ["Arts & Crafts", "Arts &amp; Crafts", "nan", "caf\u00e9", "cafe\u0301", "caf\u00e9\u200b"]
    rows = [{"label": names[number % 6]} for number in range(600)]
    data = lines(tmp_path / "r.jsonl", rows, {"label": "label"}, labels={"scheme": "column"})
    source = data.source.model_copy(update={"columns": Columns(body="text", label="label")})
    said = " ".join(data_warnings(prepare(data.model_copy(update={"source": source}), 1, tmp_path), "classification"))
    assert '"Arts & Crafts" (100 rows), "Arts &amp; Crafts" (100 rows) differ only in' in said or (
        '"Arts &amp; Crafts" (100 rows), "Arts & Crafts" (100 rows) differ only in' in said
    )
    assert 'The label "nan" (100 rows)' in said
    assert '"caf\\xe9" (100 rows), "caf\\xe9\\u200b" (100 rows)' in said


# --- times

DAY = 86_400
FIRST_OF_APRIL = 1_680_307_200  # 2023-04-01


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("dates", "days"),
    [
        (["04/01/2023", "04/13/2023"], [0, 12]),
        (["01/04/2023", "13/04/2023"], [0, 12]),
        (["1.4.2023", "02.04.2023"], [0, 1]),
        (["01-04-2023 00:00", "13-04-2023 9:05"], [0, 12]),
    ],
)
def test_the_order_of_dates_is_that_of_the_column(
    tmp_path: Path, dates: list[str], days: list[int], suffix: str
) -> None:
    source = dated(tmp_path / f"r.{suffix}", [dates[0]] * 150 + dates)
    rows, bad = both(source)
    assert bad == []
    assert [(row.time - FIRST_OF_APRIL) // DAY for row in rows if row.time is not None] == [days[0]] * 150 + days
    assert "first, as a number above 12 shows" in "".join(notes_of(source))


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_column_that_does_not_show_its_order_is_refused_unless_the_recipe_gives_it(
    tmp_path: Path, suffix: str
) -> None:
    source = dated(tmp_path / f"r.{suffix}", ["04/01/2023", "05/01/2023"])
    with pytest.raises(DataError, match="'when' has dates such as '04/01/2023'") as caught:
        both(source)
    assert "data.source.format.dates" in caught.value.hint
    given = source.model_copy(update={"format": Format(dates="day_first")})
    assert [row.time for row in both(given)[0]] == [FIRST_OF_APRIL - 87 * DAY, FIRST_OF_APRIL - 86 * DAY]
    other = dated(tmp_path / f"other.{suffix}", ["13/01/2023"])
    several = source.model_copy(update={"paths": (*source.paths, *other.paths)})
    assert len(both(several)[0]) == 3


def test_dates_in_another_order_than_the_column_are_bad_rows(tmp_path: Path) -> None:
    rows, bad = both(dated(tmp_path / "r.csv", ["13/01/2023", "01/13/2023"]))
    assert len(rows) == 1
    assert bad[0].message.endswith("'01/13/2023', which is not day first")


def dated(path: Path, dates: list[str]) -> TableFile:
    columns = {"text": [text(number) for number in range(len(dates))], "when": dates}
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    else:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        table = "\n".join(map(json.dumps, rows)) if path.suffix == ".jsonl" else csv_of(columns)
        path.write_text(table)
    settings = {"kind": "table", "paths": [str(path)], "columns": {"body": "text", "time": "when"}}
    return TableFile.model_validate(settings)


def csv_of(columns: Mapping[str, list[str]]) -> str:
    return "\n".join(",".join(row) for row in [tuple(columns), *zip(*columns.values(), strict=True)])


@pytest.mark.parametrize(
    ("unit", "zone"), [("s", "US/Pacific-New"), ("ms", "+03:00"), ("us", None), ("ns", "Europe/Bern")]
)
def test_a_parquet_time_is_utc_whatever_its_zone_is_called(tmp_path: Path, unit: str, zone: str | None) -> None:
    moments = pa.array([FIRST_OF_APRIL * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]], pa.int64())
    when = moments.view(pa.timestamp(unit)).view(pa.timestamp(unit, zone))
    pq.write_table(pa.table({"text": ["a"], "when": when}), tmp_path / "r.parquet")
    source = TableFile(kind="table", paths=(str(tmp_path / "r.parquet"),), columns=Columns(body="text", time="when"))
    assert [row.time for row in both(source)[0]] == [FIRST_OF_APRIL]


@pytest.mark.parametrize("value", [1_680_307_200_000_000, 1_680_307_200_000, 1_680_307_200, 1_680_307_200_000_000_000])
def test_json_times_of_every_unit_are_seconds(tmp_path: Path, value: int) -> None:
    source = lines(tmp_path / "r.jsonl", [{"stars": 5, "t": value}] * 20, {"time": "t"}).source
    assert {row.time for row in both(source)[0]} == {FIRST_OF_APRIL}


# --- files


def csv_file(path: Path, content: str) -> TableFile:
    path.write_text(content, newline="")
    return TableFile(kind="table", paths=(str(path),), columns=Columns(body="text", label="label"))


LONG = "x" * 300_000


@pytest.mark.parametrize(
    ("content", "bodies", "note"),
    [
        (f'text,page,label\na b,<p>{LONG},x\nc,"<p>{LONG}",y\n', ["a b", "c"], ""),
        ('label, "text"\nx, "a, b"\ny, "c"\n', ["a, b", "c"], "spaces before quotes"),
        ('label,text\nx,"He said, ""hi"""\ny," c"\n', ['He said, "hi"', " c"], ""),
        ("# made by hand\n# twice\ntext,label\na,x\n", ["a"], "the header is on line 3"),
        ("My reviews;;\n\ntext;label;n\na;x;1\n", ["a"], "the header is on line 3"),
        ("te\u200bxt,label\na,x\n", ["a"], ""),
        ('"label","text\u00a0\n"\nx,a\n', ["a"], ""),
    ],
)
def test_a_table_is_read_whatever_surrounds_its_columns(
    tmp_path: Path, content: str, bodies: list[str], note: str
) -> None:
    source = csv_file(tmp_path / "r.csv", content)
    rows, bad = both(source)
    assert ([row.body for row in rows], bad) == (bodies, [])
    assert note in " ".join(notes_of(source))
    assert bool(note) == bool(notes_of(source))


def test_a_text_over_many_lines_is_no_unclosed_quote_and_an_unclosed_quote_loses_one_row(tmp_path: Path) -> None:
    page = "a line of a page\n" * 12_000
    assert len(both(csv_file(tmp_path / "r.csv", f'text,label\n"{page}",x\nb,y\n'))[0]) == 2
    many = "".join(f"review {number} {'of many ' * 15},x\n" for number in range(3_000))
    rows, bad = both(csv_file(tmp_path / "s.csv", f'text,label\n"open,x\n{many}'))
    assert (len(rows), [one.message for one in bad]) == (
        3_000, ["bad CSV quoting: a quote that is not closed within 262,144 characters"],
    )  # fmt: skip


def test_headers_among_the_rows_of_joined_files_are_counted_and_are_no_bad_rows(tmp_path: Path) -> None:
    part = "text,label\n" + "".join(f"{text(number)},{'xy'[number % 2]}\n" for number in range(8))
    source = csv_file(tmp_path / "r.csv", "\ufeff".join([part] * 3))
    rows, bad = both(source)
    assert (len(rows), [(one.line, one.reason) for one in bad]) == (
        24, [(10, Reason.HEADER_AGAIN), (19, Reason.HEADER_AGAIN)],
    )  # fmt: skip
    (tmp_path / "bad.jsonl").touch()
    check_bad(Counter({Reason.HEADER_AGAIN.value: 2}), 26, 0.05, tmp_path / "bad.jsonl")
    assert list(lost_rows({Reason.HEADER_AGAIN: 2})) == [
        "2 lines repeat the header of their file, as joined files do, and were left out."
    ]


def test_a_carriage_return_in_a_row_of_too_many_cells_is_named(tmp_path: Path) -> None:
    _, bad = both(csv_file(tmp_path / "r.csv", "text,label\na,x\nb,y\rc,x\n"))
    assert "carriage return" in bad[0].detail


def test_columns_that_only_look_like_those_of_the_recipe_are_shown_by_their_characters(tmp_path: Path) -> None:
    pq.write_table(pa.table({"re\u0301sume\u0301": ["a"]}), tmp_path / "r.parquet")
    columns = Columns(body="r\u00e9sum\u00e9")
    with pytest.raises(DataError, match=r"it has 're\\u0301sume\\u0301', which only looks like 'r\\xe9sum\\xe9'"):
        both(TableFile(kind="table", paths=(str(tmp_path / "r.parquet"),), columns=columns))


@pytest.mark.parametrize(("path", "told"), [("s3://a/b.csv", "only local files"), ("$DATA/b.csv", "not expanded")])
def test_urls_and_variables_are_no_paths(path: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        locate(path)


@pytest.mark.parametrize("name", ["r.csv.gz", "r.jsonl.gz"])
def test_bytes_after_the_end_of_a_gzip_file_lose_nothing(tmp_path: Path, name: str) -> None:
    content = b"text,label\na,x\nb,y" if "csv" in name else b'{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}'
    (tmp_path / name).write_bytes(gzip.compress(content) + b"-----END OF MESSAGE-----")
    rows, bad = both(TableFile(kind="table", paths=(str(tmp_path / name),), columns=Columns(label="label")))
    assert ([row.body for row in rows], [(one.reason, one.rows) for one in bad]) == (
        ["a", "b"], [(Reason.AFTER_GZIP, 0)],
    )  # fmt: skip
    (said,) = lost_rows({Reason.AFTER_GZIP: 0})
    assert "ignored" in said


@pytest.mark.parametrize(("written", "stars"), [("4,5", 4.5), (" 3,0 ", 3.0), ("5", 5.0), (4.5, 4.5)])
def test_stars_may_have_a_decimal_comma(written: object, stars: float) -> None:
    assert rating_of(written) == stars
