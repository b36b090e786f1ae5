"""Rows of Parquet and Arrow files. What a damaged row group loses is counted from the footer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lwc.core.errors import DataError
from lwc.data.columns import Wanted
from lwc.data.containers import head_of
from lwc.data.rows import Bad, Reason, printable

Record = tuple[int, dict[str, Any]]
_PARQUET = b"PAR1"
_NO_FOOTER = "it ends early, or is still being written: copy or write it again"


def names_of(path: Path, suffix: str) -> list[str]:
    """Names of the columns of a Parquet or Arrow file.

    Raises:
        DataError: it is none.
    """
    if suffix == ".parquet":
        return list(_open_parquet(path).schema_arrow.names)
    with pa.memory_map(str(path)) as source:
        return list(_open_arrow(path, source).schema.names)


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        is_one = head_of(path, 4) == _PARQUET
        hint = _NO_FOOTER if is_one else "name another file, or give it the suffix of its format"
        what = "a truncated or damaged Parquet file" if is_one else "not a Parquet file"
        raise DataError(f"{path}: {what}: {_first_line(error)}", hint) from error


def _open_arrow(path: Path, source: pa.MemoryMappedFile) -> pa.RecordBatchFileReader | pa.RecordBatchStreamReader:
    try:
        return pa.ipc.open_file(source) if head_of(path, 6) == b"ARROW1" else pa.ipc.open_stream(source)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not an Arrow file: {_first_line(error)}", _NO_FOOTER) from error


def parquet(path: Path, wanted: Wanted, every: bool = False) -> Iterator[Record | Bad]:
    """Rows of a Parquet file with their numbers; each damaged row group is one `Bad` for all rows it loses.

    ``every`` reads all columns, not only those wanted.

    Raises:
        DataError: not a Parquet file, or a column is missing, twice there, or nested.
    """
    file = _open_parquet(path)
    names = None if every else sorted(wanted.names)
    _check(file.schema_arrow, wanted, path, every)
    start = 0
    for group in range(file.num_row_groups):
        rows, given = file.metadata.row_group(group).num_rows, 0
        batches = file.iter_batches(row_groups=[group], columns=names)
        while True:
            try:
                batch = next(batches, None)
            except (OSError, pa.ArrowException) as error:
                detail = f"row group {group + 1}: {_first_line(error)}"
                yield Bad(path.name, start + given + 1, Reason.DAMAGED_TABLE, detail=detail, rows=rows - given)
                break
            if batch is None:
                break
            yield from _records(batch, path.name, start + given)
            given += batch.num_rows
        start += rows


def arrow(path: Path, wanted: Wanted, every: bool = False) -> Iterator[Record | Bad]:
    """Rows of an Arrow file or stream, such as ``datasets`` writes, with their numbers.

    Raises:
        DataError: as `parquet`.
    """
    start = 0
    with pa.memory_map(str(path)) as source:
        reader = _open_arrow(path, source)
        if isinstance(reader, pa.RecordBatchFileReader):
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            batches = iter(reader)
        _check(reader.schema, wanted, path, every)
        while True:
            try:
                batch = next(batches, None)
                if batch is None:
                    return
                kept = batch if every else batch.select(sorted(wanted.names))
                _check_offsets(kept)
            except (OSError, pa.ArrowException) as error:
                detail = f"{_first_line(error)}; an unknown number of rows is lost"
                yield Bad(path.name, start + 1, Reason.TRUNCATED, detail=detail)
                return
            yield from _records(kept, path.name, start)
            start += batch.num_rows


def _check_offsets(batch: pa.RecordBatch) -> None:
    """Raise where a damaged file points outside its own buffers: Arrow trusts it, and reading the value would crash.

    Text that is not UTF-8 passes: it spoils only its row.
    """
    for column in batch.columns:
        as_bytes = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(column.type)
        (column if as_bytes is None else column.view(as_bytes)).validate(full=True)


def _first_line(error: Exception) -> str:
    return printable(str(error).splitlines()[0]) if str(error) else type(error).__name__


def _check(schema: pa.Schema, wanted: Wanted, path: Path, every: bool) -> None:
    wanted.check(schema.names, str(path))
    for one in schema:  # a column of times is read as UTC, whatever its zone is called
        inside = (every or one.name in wanted.names) and not pa.types.is_timestamp(one.type)
        for zone in _zones(one.type) if inside else ():
            _check_zone(zone, f"{path}: column {one.name!r}")
    for name in wanted.names if not wanted.nested else ():
        kind = schema.field(name).type
        if pa.types.is_nested(kind):
            raise DataError(f"{path}: column {name!r} is a {kind}, not one value a row",
                            "write a column with the value itself, and map that")  # fmt: skip


def _zones(kind: pa.DataType) -> list[str]:
    """The time zones in a type, however deep."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    own = [kind.tz] if pa.types.is_timestamp(kind) and kind.tz is not None else []
    return own + [zone for index in range(kind.num_fields) for zone in _zones(kind.field(index).type)]


def _check_zone(zone: str, where: str) -> None:
    try:
        pa.lib.string_to_tzinfo(zone)
    except (LookupError, ValueError) as error:
        raise DataError(f"{where} is in an unknown time zone, {zone!r}", "write it in UTC") from error


def _records(batch: pa.RecordBatch, file: str, start: int) -> Iterator[Record | Bad]:
    columns = {name: _plain(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    for index in range(batch.num_rows):
        line = start + index + 1
        try:
            yield line, {name: _decoded(column[index].as_py()) for name, column in columns.items()}
        except UnicodeDecodeError:
            yield Bad(file, line, Reason.NOT_UTF8)
        except (ValueError, OverflowError) as error:
            yield Bad(file, line, Reason.TIME_OUTSIDE, detail=_first_line(error))


def _plain(column: pa.Array) -> pa.Array:
    """Times without nanoseconds, which Python's do not have, and as UTC, which is stored whatever the zone's name."""
    if pa.types.is_timestamp(column.type):
        return pc.cast(column.view(pa.timestamp(column.type.unit)), pa.timestamp("us"), safe=False)
    return column


def _decoded(value: object) -> object:
    return value.decode("utf-8") if isinstance(value, bytes) else value
