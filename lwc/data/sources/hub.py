"""A Hugging Face dataset id, or a local folder in that layout, through the ``datasets`` library."""

from __future__ import annotations

from pathlib import Path

from lwc.data.rows import Progress, Rows
from lwc.data.sources.table import check_columns, mapped
from lwc.errors import MissingDependency
from lwc.recipe import HubDataset


def read(source: HubDataset, progress: Progress) -> Rows:
    """Rows of one split.

    Raises:
        MissingDependency: the library is not installed, or the dataset can be found neither here nor on the hub.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingDependency("a hub data source needs the package datasets", "pip install 'lwc[hub]'") from error
    progress(f"loading {source.id}")
    try:
        found = datasets.load_dataset(source.id, source.config, split=source.split)
    except (OSError, ConnectionError, FileNotFoundError, datasets.exceptions.DatasetsError, ValueError) as error:
        raise MissingDependency(
            f"{source.id}: cannot be loaded: {error}",
            "check the id and the network, or export it to CSV/Parquet and use kind: table",
        ) from error
    check_columns(source.columns, list(found.column_names), source.id)
    for line, record in enumerate(found, start=1):
        yield mapped(record, source.columns, source.id, line)


def files(source: HubDataset) -> list[Path]:
    """None of ours: the library keeps its own cache."""
    return []
