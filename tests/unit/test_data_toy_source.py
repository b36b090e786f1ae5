"""A data source from outside the package: one settings class, one object, one registration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Literal

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from lwc.cli.main import app
from lwc.core.errors import RecipeError
from lwc.core.store import digest_paths
from lwc.data.ingest.run import ingest
from lwc.data.prepare import prepare
from lwc.data.rows import Bad, Progress, Row, Rows
from lwc.data.source import Source, digests_of, read_rows
from lwc.pipeline.keys import data_files
from lwc.pipeline.run import plan
from lwc.recipe import SOURCES, DataSource
from lwc.recipe.file import load_recipe

WORDS = ("fast", "slow", "loud", "soft", "warm", "cold", "heavy", "light", "smooth", "rough", "long")


class Spoken(StrEnum):
    """Reasons of this source alone."""

    MUMBLED = "mumbled"


class Toy(DataSource):
    """A text file: stars, a space, the review."""

    implementation: ClassVar[str] = "test_data_toy_source:SOURCE"
    kind: Literal["toy"]
    file: str


def read(settings: Toy, progress: Progress) -> Rows:
    """Its rows."""
    progress(f"reading {settings.file}")
    path = Path(settings.file)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        stars, _, body = line.partition(" ")
        if stars == "?":
            yield Bad(path.name, number, Spoken.MUMBLED, line, detail=body)
        else:
            yield Row(path.name, number, body=body, rating=float(stars))


SOURCE = Source[Toy](read, files=lambda settings: {settings.file: Path(settings.file)})


@pytest.fixture
def registered() -> Iterator[None]:
    before = dict(SOURCES._rows)
    SOURCES.add(Toy)
    yield
    SOURCES._rows.clear()
    SOURCES._rows.update(before)
    first = next(iter(before.values()))
    SOURCES.add(first)  # builds the sections again, without the toy


@pytest.fixture
def written(tmp_path: Path, registered: None) -> Path:
    lines = [f"{n % 2 * 4 + 1} {WORDS[n % 11]} {WORDS[n // 11 % 11]} {WORDS[n % 7]} number {n}" for n in range(120)]
    (tmp_path / "reviews.txt").write_text("\n".join([*lines, "? inaudible"]), encoding="utf-8")
    recipe = {
        "schema_version": 1,
        "name": "toy",
        "data": {"source": {"kind": "toy", "file": str(tmp_path / "reviews.txt")}, "near_duplicate_threshold": 1.0},
        "model": {"kind": "config", "blocks": 2, "hidden": 16, "heads": 2, "vocab_size": 300},
        "target": {"ratio": 2.0, "of": "blocks"},
    }
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return tmp_path / "toy.yaml"


def test_it_is_validated_with_the_schema_and_a_did_you_mean(written: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["validate", str(written)]).exit_code == 0
    schema = json.loads(runner.invoke(app, ["schema"]).stdout)
    jsonschema.validate(yaml.safe_load(written.read_text()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**yaml.safe_load(written.read_text()), "data": {"source": {"kind": "toys"}}}, schema)
    written.write_text(written.read_text().replace("file:", "fil:"))
    with pytest.raises(RecipeError, match=r"data.source.fil: .*did you mean 'file'"):
        load_recipe(written)


def test_it_is_read_and_prepared(written: Path, tmp_path: Path) -> None:
    recipe, said = load_recipe(written), list[str]()
    assert sum(1 for _ in read_rows(recipe.data.source, said.append)) == 121
    assert said == [f"reading {tmp_path / 'reviews.txt'}"]
    (tmp_path / "out").mkdir()
    quality = prepare(recipe.data, recipe.seed, tmp_path / "out")
    assert (quality["rows_read"], quality["rows_used"], quality["rows_bad"]) == (121, 120, {"mumbled": 1})
    (entry,) = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    found = json.loads(entry)
    assert (found["reason"], found["detail"]) == ("mumbled", "inaudible")
    (file,) = json.loads((tmp_path / "out" / "source.json").read_text())["files"]
    assert file["name"] == "reviews.txt"


def test_it_is_read_as_a_stream_too(written: Path, tmp_path: Path) -> None:
    recipe = load_recipe(written)
    with ThreadPoolExecutor(1) as pool:
        quality = ingest(recipe.data, recipe.seed, tmp_path / "out", 1, pool=pool)
    assert (quality["rows_read"], quality["rows_used"], quality["rows_bad"]) == (121, 120, {"mumbled": 1})


def test_new_bytes_under_the_same_name_are_a_miss(written: Path, tmp_path: Path) -> None:
    recipe, file = load_recipe(written), tmp_path / "reviews.txt"
    assert data_files(recipe) == digests_of(recipe.data.source) == {str(file): digest_paths([file])}
    before = plan(recipe, tmp_path / "runs")[0]
    file.write_text(file.read_text() + "\n5 one more", encoding="utf-8")
    after = plan(recipe, tmp_path / "runs")[0]
    assert (before.stage.name, before.hit) == ("data", False)
    assert before.key != after.key


def test_a_name_is_taken_once(registered: None) -> None:
    class Other(DataSource):
        implementation: ClassVar[str] = "test_data_toy_source:SOURCE"
        kind: Literal["toy"]

    with pytest.raises(ValueError, match="'toy' is taken by Toy"):
        SOURCES.add(Other)
