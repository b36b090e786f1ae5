"""Hub datasets: the real library where it is installed, its absence and a missing network elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lwc.core.errors import DataError, MissingDependency
from lwc.data.rows import Row
from lwc.data.sources import hub
from lwc.recipe import Columns, HubDataset


def quiet(_: str) -> None:
    """No progress."""


def failing(error: Exception) -> ModuleType:
    module: Any = ModuleType("datasets")

    def load_dataset(*_: object, **__: object) -> None:
        raise error

    module.load_dataset = load_dataset
    return module  # type: ignore[no-any-return]


SOURCE = HubDataset(kind="hub", id="nobody/nothing", columns=Columns(body="text"))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependency, match="datasets"):
        list(hub.read(SOURCE, quiet))


@pytest.mark.parametrize("error", [ConnectionError("no route"), ValueError("Couldn't reach the Hub")])
def test_no_network_is_a_missing_dependency(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setitem(sys.modules, "datasets", failing(error))
    with pytest.raises(MissingDependency, match="cannot be reached"):
        list(hub.read(SOURCE, quiet))


def test_a_wrong_split_is_the_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", failing(ValueError('Unknown split "trane"')))
    with pytest.raises(DataError, match="trane"):
        list(hub.read(SOURCE, quiet))


def test_a_data_file_that_the_library_cannot_parse_is_the_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    own: Any = ModuleType("datasets.exceptions")
    own.DatasetsError = type("DatasetsError", (Exception,), {})
    module: Any = failing(own.DatasetsError("An error occurred while generating the dataset"))
    module.exceptions = own
    monkeypatch.setitem(sys.modules, "datasets", module)
    with pytest.raises(DataError, match="while generating"):
        list(hub.read(SOURCE, quiet))


@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
def test_what_save_to_disk_wrote_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "datasets", failing(ValueError("not reached")))
    monkeypatch.setenv("LWC_DATA_DIR", str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("{}")
    with pytest.raises(DataError, match="save_to_disk") as caught:
        list(hub.read(SOURCE.model_copy(update={"id": "mine"}), quiet))
    assert "kind: table" in caught.value.hint


def test_a_local_folder_with_the_real_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="the hub extra is not installed")
    monkeypatch.setenv("LWC_DATA_DIR", str(tmp_path))
    features = datasets.Features({"text": datasets.Value("string"), "y": datasets.ClassLabel(names=["no", "yes"])})
    (tmp_path / "mine").mkdir()
    built = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "y": [1, 0, -1]}, features=features)
    built.to_parquet(tmp_path / "mine" / "train.parquet")
    source = HubDataset(kind="hub", id="mine", columns=Columns(body="text", label="y"))
    found = list(hub.read(source, quiet))
    assert [item.label if isinstance(item, Row) else item.reason for item in found] == ["yes", "no", "no label"]
