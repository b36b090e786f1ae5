"""A Hugging Face dataset id, or a local folder in that layout, read with the ``datasets`` library."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from lwc.core.errors import DataError, MissingDependency
from lwc.core.store import digest_paths
from lwc.data.dates import order_of
from lwc.data.paths import local_dataset
from lwc.data.rows import Progress, Rows
from lwc.data.source import Source
from lwc.data.sources.table import mapped, wanted_of
from lwc.recipe import HubDataset


def _offline(error: BaseException | None) -> bool:
    """Whether a not-found error means that the hub cannot be reached: the library wraps one in the other."""
    while error is not None:
        text = str(error).lower()
        if isinstance(error, ConnectionError) or "offline" in text or "reach the hub" in text:
            return True
        error = error.__cause__ or error.__context__
    return False


def _own_errors(datasets: Any) -> tuple[type[Exception], ...]:
    """The library's base error, as of a data file that it cannot parse."""
    found = getattr(getattr(datasets, "exceptions", None), "DatasetsError", None)
    return () if found is None else (found,)


def read(source: HubDataset, progress: Progress) -> Rows:
    """Rows of one split; class labels are names. A dataset that needs its own code is refused.

    Raises:
        MissingDependency: the library is not installed, or the hub cannot be reached.
        DataError: there is no such dataset, split or column.
    """
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise MissingDependency("a hub data source needs the package datasets", "pip install 'lwc[hub]'") from error
    local = local_dataset(source.id)
    if local is not None and any((Path(local) / name).is_file() for name in ("state.json", "dataset_dict.json")):
        hint = f"read it as a table: {{kind: table, paths: [{local}]}}; of several splits, name the folder of one"
        raise DataError(f"{source.id}: a folder that save_to_disk wrote, not a dataset in the hub's layout", hint)
    progress(f"loading {local or source.id}")
    users: tuple[type[Exception], ...] = (OSError, ValueError, *_own_errors(datasets))
    try:
        found = datasets.load_dataset(local or source.id, source.config, split=source.split)
    except users as error:
        wrong = isinstance(error, (FileNotFoundError, ValueError, *_own_errors(datasets)))
        if local is None and (_offline(error) or not wrong):
            raise MissingDependency(
                f"{source.id}: the hub cannot be reached: {error}",
                "download it elsewhere, put its folder under LWC_DATA_DIR and name the folder as data.source.id",
            ) from error
        raise DataError(f"{source.id}: {error}", "check data.source.id, config and split") from error
    wanted_of(source.columns).check(list(found.column_names), source.id)
    column = source.columns.label
    feature: Any = found.features.get(column) if column is not None else None
    time = source.columns.time
    order, doubtful = order_of(found[time]) if time is not None else (None, "")
    if doubtful and order is None:
        raise DataError(
            f"{source.id}: {time!r} has dates such as {doubtful!r}, and no number above 12 shows whether the day or the"
            " month is first",
            "save it as a table, and set data.source.format.dates: day_first or month_first",
        )
    for line, record in enumerate(found, start=1):
        value = record[column] if column is not None else None
        if hasattr(feature, "int2str") and isinstance(value, int):
            # -1 stands for a missing class label
            record = {**record, column: feature.int2str(value) if value >= 0 else None}
        yield mapped(record, source.columns, source.id, line, order)


def _digests(settings: HubDataset) -> dict[str, str]:
    folder = local_dataset(settings.id)
    return {settings.id: digest_paths([Path(folder)])} if folder is not None else {}


SOURCE = Source[HubDataset](read, digests=_digests)
