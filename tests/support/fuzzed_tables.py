"""Tables of every format, damaged in bytes, cells, headers, encodings, containers and types. Not a test."""

from __future__ import annotations

import csv
import io
import json
import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import damage
import mutate
import pyarrow as pa
import pyarrow.parquet as pq

WORDS = {"bad": "broken awful refund never again", "good": "love great works fine daily"}
ROWS = [
    {
        "text": f"{list(WORDS.values())[n % 2]} item{n} and part{n}", "label": list(WORDS)[n % 2],
        "title": f"title {n}",
        "stars": str(1 + n % 5), "user": f"u{n % 20}", "item": f"i{n % 7}", "time": str(1_500_000_000 + n * 86_400),
    }
    for n in range(60)
]  # fmt: skip
FIELDS = {
    "body": "text",
    "title": "title",
    "rating": "stars",
    "label": "label",
    "user": "user",
    "item": "item",
    "time": "time",
}
_CELLS = (
    "5", "4.0", "five", "NaN", "1e400", "-1", "6", "0", "true", "01 13, 2014", "2020-01-01", "2020-13-45", "9" * 400,
    "1700000000000",
    "-99999999999999", "1e30", "<br />" * 50, "&amp;#0;", "&#x110000;", "\u0000", "1,5", "1e-400", "٣", "½", "²",
    "0001-01-01",
    "9999-12-31T23:59:59+14:00", "12:30", "P1D", "1e18", "[1, 2]", "{}", "\ufffd", "\u2028", "'", '""', '\\"',
)  # fmt: skip


def write_table(
    source: random.Random, place: Path, rows: list[dict[str, str]] | None = None
) -> tuple[Path, dict[str, Any]]:
    """A file and the column map of a recipe for it."""
    table: list[dict[str, Any]] = [dict(row) for row in rows or ROWS]
    for _ in range(source.choice((0, 1, 3, 30))):
        row = source.choice(table)
        row[source.choice(list(row))] = source.choice((*_CELLS, mutate.odd(source)))
    if source.random() < 0.1:
        table = table[: source.choice((0, 1, 2, 5))]
    names = list((rows or ROWS)[0])
    columns = {
        field: name for field, name in FIELDS.items() if source.random() < 0.4 or field in ("body", "label", "rating")
    }
    if source.random() < 0.15:
        columns[source.choice(list(columns))] = source.choice((*names, *mutate.ODD_TEXTS[:30], "Text", "nope"))
    write = source.choice((_delimited, _delimited, _json, _json, _columnar, _columnar, _reviews))
    name, content = write(source, names, table)
    path = place / name
    if source.random() < 0.35:
        content = mutate.raw(source, content, 4)
    if source.random() < 0.15:
        return mutate.packed(source, path, content), columns
    if source.random() < 0.1:
        path = path.with_suffix(
            source.choice((".csv", ".parquet", ".json", ".tar", ".xlsx", ".txt", "", ".arrow", ".gz", ".jsonl.zst"))
        )
    path.write_bytes(content)
    return path, columns


def _headers(source: random.Random, names: list[str]) -> list[str]:
    found = list(names)
    at = source.randrange(len(found))
    kind = source.randrange(12)
    if kind == 0:
        found[at] = source.choice(mutate.ODD_TEXTS)
    elif kind == 1:
        found[at] = found[0]
    elif kind == 2:
        found[at] = f" {found[at].upper()} "
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _delimited(source: random.Random, names: list[str], table: list[dict[str, Any]]) -> tuple[str, bytes]:
    mark = source.choice((",", ",", ",", "\t", ";", "|", " ", "\x01"))
    text = io.StringIO()
    quoting = source.choice((csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    writer = csv.writer(text, delimiter=mark, quoting=quoting, lineterminator=source.choice(("\n", "\n", "\r\n", "\r")))
    if source.random() < 0.95:
        writer.writerow(_headers(source, names))
    for row in table:
        cells = [_text(row[name]) for name in names]
        if source.random() < 0.02:
            cells = source.choice((cells[:-1], [*cells, "more"], []))
        writer.writerow(cells)
    encoding = source.choice(("utf-8",) * 6 + ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "utf-7"))
    name = source.choice(
        ("t.csv", "t.csv", "T.CSV", "t.tsv", "t.txt", "t.\x1b[31m.csv", "[bold].csv", "-t.csv", "t*.csv")
    )
    return name, text.getvalue().encode(encoding, "surrogatepass" if encoding.startswith("utf-8") else "replace")


def _json(source: random.Random, names: list[str], table: list[dict[str, Any]]) -> tuple[str, bytes]:
    value: Any = table
    if source.random() < 0.6:
        value = mutate.tree(source, table, 6)
    if source.random() < 0.2:
        value = source.choice(
            ({"data": value}, {name: [row[name] for row in table] for name in names}, value and value[0], [value])
        )
    many = value if isinstance(value, list) else [value]
    shape = source.randrange(4)
    if shape == 0:
        text = json.dumps(value, indent=source.choice((None, 1)))
    elif shape == 1:
        text = "[\n" + ",\n".join(json.dumps(one) for one in many) + source.choice(("\n]", ",\n]", "", "]]", "\n]\n{}"))
    else:
        text = source.choice(("\n", "\n", "\r\n", "\n\n", "", ",\n")).join(
            json.dumps(one, ensure_ascii=source.random() < 0.7) for one in many
        )
    if source.random() < 0.2:
        lines = text.split("\n")
        lines.insert(
            source.randrange(len(lines) + 1),
            source.choice((*damage.ODD, "[" * 100_000, '{"a":' * 5000, "1" * 5000, "//")),
        )
        text = "\n".join(lines)
    encoding = source.choice(("utf-8",) * 5 + ("utf-8-sig", "utf-16", "utf-32", "cp1252"))
    return source.choice(("t.jsonl", "t.json", "t.ndjson")), text.encode(
        encoding, "surrogatepass" if "utf" in encoding else "replace"
    )


_MOMENT = datetime(2020, 1, 2, 3, 4, 5)
_TYPED: tuple[tuple[pa.DataType, Any], ...] = (
    (pa.binary(), b"\xff\xfe text"), (pa.large_string(), "large"), (pa.list_(pa.string()), ["a"]), (pa.struct([("a",
    pa.int8())]), {"a": 1}),
    (pa.map_(pa.string(), pa.int8()), [("a", 1)]), (pa.decimal128(38, 10), Decimal("4.5")), (pa.timestamp("ns"),
    _MOMENT),
    (pa.timestamp("s", "America/New_York"), _MOMENT), (pa.timestamp("us", "+14:00"), _MOMENT), (pa.timestamp("s"),
    10**15), (pa.date32(), date(2020, 1, 1)),
    (pa.date64(), date(2020, 1, 1)), (pa.time64("us"), _MOMENT.time()), (pa.duration("ns"), timedelta(days=1)),
    (pa.uint64(), 2**64 - 1),
    (pa.int64(), -(2**63)), (pa.float32(), float("nan")), (pa.float64(), float("inf")), (pa.bool_(), True), (pa.null(),
    None), (pa.int8(), 4),
    (pa.dictionary(pa.int8(), pa.string()), "good"), (pa.month_day_nano_interval(), (1, 2, 3)), (pa.string_view(),
    "a view"),
    (pa.timestamp("us", "UTC"), datetime(9999, 12, 31, tzinfo=UTC)), (pa.binary(3), b"abc"), (pa.timestamp("ms",
    "No/Where"), 10**12),
    (pa.time32("s"), _MOMENT.time()), (pa.list_(pa.float32(), 2), [1.0, 2.0]), (pa.decimal256(70, 2), Decimal("4")),
)  # fmt: skip


def _columnar(source: random.Random, names: list[str], table: list[dict[str, Any]]) -> tuple[str, bytes]:
    made = pa.table(
        {name: pa.array([_text(row[name]).encode("utf-8", "replace").decode() for row in table]) for name in names}
    )
    for _ in range(source.choice((0, 1, 1, 3))):
        kind, value = source.choice(_TYPED)
        values = [None if source.random() < 0.1 else value for _ in table]
        try:
            made = made.set_column(source.randrange(len(names)), source.choice(names), pa.array(values, kind))
        except (pa.ArrowException, TypeError):
            continue
    if source.random() < 0.1:
        made = made.rename_columns(
            _headers(source, [name if name.isprintable() else "x" for name in made.column_names])
        )
    sink = io.BytesIO()
    try:
        if source.random() < 0.6:
            codec = source.choice(("snappy", "zstd", "none", "gzip", "brotli"))
            pq.write_table(
                made,
                sink,
                row_group_size=source.choice((10, 60)),
                compression=codec,
                write_page_checksum=source.random() < 0.5,
            )
            return "t.parquet", sink.getvalue()
        options = pa.ipc.IpcWriteOptions(compression=source.choice((None, "zstd", "lz4")))
        open_ = source.choice((pa.ipc.new_file, pa.ipc.new_stream))
        with open_(sink, made.schema, options=options) as writer:
            writer.write_table(made, max_chunksize=source.choice((10, 60)))
    except (pa.ArrowException, UnicodeEncodeError):
        return "t.parquet", sink.getvalue() or b"PAR1"
    return source.choice(("t.arrow", "t.feather")), sink.getvalue()


def _reviews(source: random.Random, names: list[str], table: list[dict[str, Any]]) -> tuple[str, bytes]:
    """Lines of a review release: other keys than the recipe maps, unless they happen to fit."""
    return source.choice(("t.json", "t.jsonl")), damage.review_file(source, 20)
