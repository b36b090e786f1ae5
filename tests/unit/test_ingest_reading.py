"""The fast reader and the careful one read the same rows, whatever the damage."""

from __future__ import annotations

import gzip
import json
import random
import re
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest
from damage import damage, packed, present, record_2023, review_file

from lwc.core.errors import DataError
from lwc.data.containers import Cut, chunks, inflate_carefully
from lwc.data.ingest import parse
from lwc.data.ingest.blocks import blocks
from lwc.data.ingest.parse import Piece, pieces
from lwc.data.rows import Bad, Row
from lwc.data.source import inputs_of
from lwc.data.sources import mcauley, table
from lwc.recipe import Columns, DataSource, McAuleyFile, TableFile

LONE = re.compile("[\ud800-\udfff]")


def rows_of(piece: Piece) -> list[Row | Bad]:
    names = ("file", "line", "body", "title", "rating", "label", "user", "item", "time")
    columns = (getattr(piece, name).to_pylist() for name in names)
    return [*(Row(*values) for values in zip(*columns, strict=True)), *piece.bad]


def fast(source: DataSource, size: int = 4096, piece: int = 1 << 20) -> list[Row | Bad]:
    columns = source.columns if isinstance(source, TableFile) else None
    found = (pieces(block, columns, set(), piece) for one in inputs_of(source) for block in blocks(0, one, size))
    return [row for some in found for one in some for row in rows_of(one)]


def careful(found: Iterable[Row | Bad]) -> list[Row | Bad]:
    """Rows as columns can hold them: a lone surrogate, which cleaning makes a space of, is one already."""
    return [
        one._replace(body=LONE.sub(" ", one.body), title=LONE.sub(" ", one.title)) if isinstance(one, Row) else one
        for one in found
    ]


def by_line(found: list[Row | Bad]) -> list[Row | Bad]:
    return sorted(found, key=lambda one: (one.file, one.line, isinstance(one, Bad), repr(one)))


def test_a_thousand_damaged_files_are_read_as_the_careful_reader_reads_them_and_no_line_is_lost(tmp_path: Path) -> None:
    cut = 0
    for seed in range(1000):
        source = random.Random(seed)
        content = review_file(source, source.randint(1, 40))
        if source.random() < 0.5:
            path = tmp_path / "r.json.gz"
            raw = damage(source, packed(source, content))
        else:
            path = tmp_path / "r.json"
            raw = damage(source, content)
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or (path.suffix == ".gz") != raw.startswith(b"\x1f\x8b"):
            continue  # another format, by its mark: refused with an error of its own
        path.write_bytes(raw)
        reviews, size = McAuleyFile(kind="mcauley", paths=(str(path),)), source.choice((64, 1000, 1 << 20))
        if isinstance(first := next(chunks(path), b""), bytes) and first.startswith((b"\xff\xfe", b"\xfe\xff")):
            with pytest.raises(DataError, match="UTF-16"):
                fast(reviews, size)
            with pytest.raises(DataError, match="UTF-16"):
                list(mcauley.read_file(path))
            continue
        slow, quick = careful(mcauley.read_file(path)), fast(reviews, size, source.choice((100, 3000, 1 << 20)))
        assert by_line(quick) == by_line(slow), seed
        parts = list(chunks(path))
        whole = b"".join(part for part in parts if isinstance(part, bytes))
        broken = [part for part in parts if isinstance(part, Cut)]
        if broken:  # the open line is the place of the cut, and counts once
            whole = whole[: whole.rfind(b"\n") + 1]
            cut += 1
        assert len(quick) == present(whole) + len(broken), seed
    assert cut > 100


def test_isal_gives_the_very_bytes_of_zlib_before_and_after_damage(tmp_path: Path) -> None:
    path = tmp_path / "r.gz"
    for seed in range(300):
        source = random.Random(seed)
        whole = packed(source, source.randbytes(2000) + b"a" * source.randint(0, 300_000))
        raw = damage(source, whole)
        path.write_bytes(b"\x1f\x8b" + raw[2:])
        with path.open("rb") as file:
            slow, quick = list(inflate_carefully(file)), list(chunks(path))
        assert b"".join(p for p in slow if isinstance(p, bytes)) == b"".join(p for p in quick if isinstance(p, bytes))
        assert [p for p in slow if isinstance(p, Cut)] == [p for p in quick if isinstance(p, Cut)]


def test_a_highly_compressed_file_comes_in_small_steps(tmp_path: Path) -> None:
    path = tmp_path / "r.gz"
    path.write_bytes(gzip.compress(b"a" * (1 << 26), 9) + gzip.compress(b"b"))
    parts = [part for part in chunks(path) if isinstance(part, bytes)]
    assert sum(map(len, parts)) == (1 << 26) + 1
    assert max(map(len, parts)) <= 1 << 22


def test_a_line_over_16_mib_is_quarantined_and_the_next_ones_are_read(tmp_path: Path) -> None:
    good = b'{"rating": 5, "text": "good"}\n'
    path = tmp_path / "r.jsonl"
    path.write_bytes(good + b'{"text": "' + b"x" * (1 << 24) + b'"}\n' + good)
    for size in (1 << 16, 1 << 25):
        found = by_line(fast(McAuleyFile(kind="mcauley", paths=(str(path),)), size))
        assert [type(one) for one in found] == [Row, Bad, Row]
        assert [one.line for one in found] == [1, 2, 3]


def test_csv_with_embedded_newlines_bom_and_crlf_comes_through_the_reader_of_tables(tmp_path: Path) -> None:
    path = tmp_path / "r.csv.gz"
    path.write_bytes(gzip.compress(b'\xef\xbb\xbftext,stars\r\n"two\r\nlines",5\r\nplain,4\r\n"open,1\r\nlast,2\r\n'))
    source = TableFile(kind="table", paths=(str(path),), columns=Columns(body="text", rating="stars"))
    found = fast(source, 1)
    assert by_line(found) == by_line(list(table.read_file(path, source.columns)))
    assert [one.body for one in found if isinstance(one, Row)] == ["two\nlines", "plain", "last"]
    assert sum(isinstance(one, Bad) for one in found) == 1


def test_json_lines_of_a_table_are_mapped_as_before(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"t": "one", "s": 4}\n{"t": "two", "s": "5"}\n{"t": "three"}\n{"s": 1, "s": 2, "t": "x"}\n')
    for columns in (Columns(body="t", rating="s"), Columns(body="t", label="s"), Columns(body="t")):
        found = fast(TableFile(kind="table", paths=(str(path),), columns=columns))
        assert by_line(found) == by_line(list(table.read_file(path, columns)))


def test_blocks_depend_on_the_file_and_the_size_alone(tmp_path: Path) -> None:
    content = review_file(random.Random(4), 400)
    path = tmp_path / "r.json.gz"
    path.write_bytes(gzip.compress(content))
    source = McAuleyFile(kind="mcauley", paths=(str(path),))
    first, again = (list(blocks(0, inputs_of(source)[0], 5000)) for _ in range(2))
    assert first == again
    assert len(first) > 5
    assert zlib.crc32(b"".join(block.lines for block in first)) == zlib.crc32(content.removeprefix(b"\xef\xbb\xbf"))
    starts = [block.first for block in first]
    assert starts == sorted(set(starts))


def plain_lines(count: int) -> list[str]:
    source = random.Random(count)
    return [record_2023(source, number) for number in range(count)]


def test_plain_lines_are_read_by_arrow_and_an_odd_one_costs_only_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, one_by_one = parse.parse, []
    monkeypatch.setattr(parse, "parse", lambda raw, *rest: one_by_one.append(raw) or real(raw, *rest))
    path = tmp_path / "r.jsonl"
    for end in ("\n", "\r\n"):
        path.write_bytes(end.join(plain_lines(1000)).encode())
        assert len(fast(McAuleyFile(kind="mcauley", paths=(str(path),)), 1 << 20)) == 1000
        assert one_by_one == []
    odd = plain_lines(1000)
    odd[500] = '{"rating": "4", "text": "a rating as text"}'
    path.write_text("\n".join(odd))
    found = fast(McAuleyFile(kind="mcauley", paths=(str(path),)), 1 << 20)
    assert found == careful(mcauley.read_file(path))
    assert 1 <= len(one_by_one) <= 17


@pytest.mark.parametrize(
    "odd",
    [
        '{"rating": 4, "text": "a"}{"rating": 5, "text": "b"}\n{"rating": 4,\n"text": "c"}',  # as many objects as lines
        '{"rating": 4, "text": "a", "x": {"y": 1}\n, "z": 2}',
        '{"rating": 4, "text": "a", "x": {"y": 1, "y": 1}}',
        '{"rating": 4, "text": "a", "x": 1, "\\u0078": 2}',
        '{"rating": 4, "text": "a", "x": Inf}',
        '{"rating": 4, "text": "a", "x": [1,\t-Inf]}',
        '{"rating": 4, "text": "a", "x": Infinity}',
        '{"rating": 4, "text": "a", "x": ' + "[" * 50_000 + "]" * 50_000 + "}",
        '{"rating": 4, "text": "a", "user_id": " u ", "asin": ""}',
        '{"rating": 4, "text": "a", "user_id": "  ", "parent_asin": null, "asin": "\u00a0x"}',
        '{"overall": 4, "reviewText": "the other release"}',
        '{"rating": 4, "text": "a", "timestamp": -1500000000001}',
        '{"rating": 4, "text": "a", "timestamp": 99999999999999999}',
        '{"rating": 4, "text": "a\u0000b"}',
        '\ufeff{"rating": 4, "text": "a mark in the middle"}',
        '{"rating": 4, "text": "a"} \n',
    ],
)
def test_what_arrow_would_take_for_something_else_is_read_with_care(tmp_path: Path, odd: str) -> None:
    path = tmp_path / "r.jsonl"
    lines = plain_lines(60)
    path.write_text("\n".join([*lines[:30], odd, *lines[30:]]))
    found = fast(McAuleyFile(kind="mcauley", paths=(str(path),)), 1 << 20)
    assert by_line(found) == by_line(careful(mcauley.read_file(path)))
    assert len(found) >= 60


def test_bytes_that_are_no_utf8_are_quarantined_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    lines = [line.encode() for line in plain_lines(60)]
    lines[7] = b'{"rating": 4, "text": "a", "other": "\xff"}'
    path.write_bytes(b"\n".join(lines))
    found = fast(McAuleyFile(kind="mcauley", paths=(str(path),)), 1 << 20)
    assert [(one.line, one.reason) for one in found if isinstance(one, Bad)] == [(8, "invalid UTF-8")]
    assert len(found) == 60


def test_json_lines_of_a_table_go_through_arrow_too_and_tell_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(json.dumps({"t": f"text {n}", "s": n % 5 + 1, "extra": n}) for n in range(100)))
    columns = Columns(body="t", rating="s")
    source = TableFile(kind="table", paths=(str(path),), columns=columns)
    seen: set[str] = set()
    (piece,) = pieces(next(blocks(0, inputs_of(source)[0], 1 << 20)), columns, seen)
    assert by_line(rows_of(piece)) == by_line(list(table.read_file(path, columns)))
    assert seen == {"t", "s", "extra"}
    absent: set[str] = set()
    list(pieces(next(blocks(0, inputs_of(source)[0], 1 << 20)), Columns(body="t", title="none"), absent))
    assert absent == {"t", "s", "extra"}
