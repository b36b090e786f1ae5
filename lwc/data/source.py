"""What a data source is, and what the rest of lwc asks of one. Each is the ``SOURCE`` of a module, see `DataSource`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from lwc.core.store import digest_paths, file_digest
from lwc.data.rows import Progress, Rows
from lwc.recipe import Columns, DataSource
from lwc.recipe.data import SplitName

S = TypeVar("S", bound=DataSource)


def quiet(_: str) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class Input:
    """One file of a source, or a whole source that is not files, as an ingestion reads it.

    Args:
        path: its size and time of change identify an unfinished ingestion.
        columns: column map of JSON lines; None for the McAuley formats.
        rows: reads the input; None for JSON lines, which the workers parse.
    """

    name: str
    path: Path | None = None
    columns: Columns | None = None
    rows: Callable[[], Rows] | None = None


@dataclass(frozen=True)
class Source(Generic[S]):
    """A kind of data source. Only ``read`` is required; every function takes the source's settings.

    Args:
        read: rows and bad lines, in the same order every time.
        files: the files that are read, by their names in the recipe; downloads missing ones.
        digests: content digests for the cache key, if not those of ``files``; downloads nothing.
        inputs: what an ingestion reads in parallel, if not ``read`` as one stream.
        notes: how files are read where their content decided about it.
    """

    read: Callable[[S, Progress], Rows]
    files: Callable[[S], Mapping[str, Path]] = lambda settings: {}
    digests: Callable[[S], Mapping[str, str]] | None = None
    inputs: Callable[[S], list[Input]] | None = None
    notes: Callable[[S], list[str]] = lambda settings: []


def _source_of(settings: DataSource) -> Source[DataSource]:
    found: Source[DataSource] = settings.load()
    return found


def read_rows(settings: DataSource, progress: Progress) -> Rows:
    """Rows and bad lines of a source."""
    return _source_of(settings).read(settings, progress)


def inputs_of(settings: DataSource) -> list[Input]:
    """What an ingestion of a source reads, in reading order.

    Raises:
        DataError: a file is missing.
    """
    source = _source_of(settings)
    if source.inputs is not None:
        return source.inputs(settings)
    return [Input(settings.kind, rows=lambda: source.read(settings, quiet))]


def notes_of(settings: DataSource) -> list[str]:
    """How files are read where their content decided about it, such as an unusual delimiter; for people to check."""
    return list(_source_of(settings).notes(settings))


def digests_of(settings: DataSource) -> dict[str, str]:
    """Content digests of a source's files by name, for the cache key: the same name with new bytes is a miss."""
    source = _source_of(settings)
    if source.digests is not None:
        return dict(source.digests(settings))
    return {name: digest_paths([path]) for name, path in source.files(settings).items()}


def provenance(sources: Mapping[SplitName, DataSource], text_fields: Sequence[str]) -> dict[str, Any]:
    """The content of ``source.json``: the settings, and name, size and SHA-256 of every file.

    ``sources`` are those of the splits, or the one that all splits are drawn from, as ``train``.
    """
    main = sources["train"]
    further = {split: one.model_dump(mode="json") for split, one in sources.items() if split != "train"}
    files = [
        {
            "name": path.name, "bytes": path.stat().st_size, "sha256": file_digest(path),
            **({"split": split} if further else {}),
        }
        for split, one in sources.items()
        for path in _source_of(one).files(one).values()
    ]  # fmt: skip
    return {
        "source": main.kind,
        "settings": main.model_dump(mode="json"),
        **({"settings_of_splits": further} if further else {}),
        "text_fields": list(text_fields),
        "files": files,
    }
