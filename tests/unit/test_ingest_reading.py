"""The fast reader and the careful one read the same rows, whatever the damage."""

from __future__ import annotations

import gzip
import random
import zlib
from pathlib import Path

import pytest
from damage import damage, packed, present, review_file

from lwc.data.ingest.blocks import blocks, inputs
from lwc.data.ingest.inflate import fast_chunks
from lwc.data.ingest.parse import rows_of
from lwc.data.rows import Bad, Row
from lwc.data.sources import mcauley, table
from lwc.data.stream import Cut, chunks
from lwc.errors import DataError
from lwc.recipe import Columns, DataSource, McAuleyFile, TableFile


def fast(source: DataSource, size: int = 4096) -> list[Row | Bad]:
    columns = source.columns if isinstance(source, TableFile) else None
    return [row for one in inputs(source) for block in blocks(one, size) for row in rows_of(block, columns, set())]


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
            continue
        slow, quick = list(mcauley.read_file(path)), fast(reviews, size)
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
        slow, quick = list(chunks(path)), list(fast_chunks(path))
        assert b"".join(p for p in slow if isinstance(p, bytes)) == b"".join(p for p in quick if isinstance(p, bytes))
        assert [p for p in slow if isinstance(p, Cut)] == [p for p in quick if isinstance(p, Cut)]


def test_a_highly_compressed_file_comes_in_small_steps(tmp_path: Path) -> None:
    path = tmp_path / "r.gz"
    path.write_bytes(gzip.compress(b"a" * (1 << 26), 9) + gzip.compress(b"b"))
    parts = [part for part in fast_chunks(path) if isinstance(part, bytes)]
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
    assert found == list(table.read_file(path, source.columns))
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
    first, again = (list(blocks(inputs(source)[0], 5000)) for _ in range(2))
    assert first == again
    assert len(first) > 5
    assert zlib.crc32(b"".join(block.lines for block in first)) == zlib.crc32(content.removeprefix(b"\xef\xbb\xbf"))
    starts = [block.first for block in first]
    assert starts == sorted(set(starts))
