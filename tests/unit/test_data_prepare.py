"""The data stage: labels, duplicates, splits, account, and the same result again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lwc.artifacts import read_json
from lwc.data.cleaning import clean, exact_duplicates, near_duplicates
from lwc.data.inspect import inspect
from lwc.data.prepare import prepare
from lwc.data.splits import load_labels, load_split
from lwc.errors import DataError
from lwc.recipe import Data

WORDS = [f"w{n}" for n in range(97)]


def text(number: int) -> str:
    return " ".join(WORDS[(number * step + step) % 97] for step in range(1, 12)) + f" n{number}"


def review(number: int, **changes: Any) -> str:
    found = {
        "reviewerID": f"u{number // 3}", "asin": "a", "reviewText": text(number), "overall": number % 5 + 1,
        "unixReviewTime": 1_400_000_000 + number * 60,
    }  # fmt: skip
    return json.dumps({**found, **changes})


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.json"
    path.write_text("\n".join(review(number) for number in range(300)), encoding="utf-8")
    return path


def settings(path: Path, **changes: Any) -> Data:
    return Data.model_validate({"source": {"kind": "mcauley", "paths": [str(path)]}, "calibration": 20, **changes})


def column(folder: Path, name: str, field: str) -> list[Any]:
    return list(pq.read_table(folder / f"{name}.parquet")[field].to_pylist())


@pytest.mark.parametrize(("scheme", "classes"), [("binary", 2), ("three_class", 3), ("five_class", 5)])
def test_every_row_is_accounted_for(corpus: Path, tmp_path: Path, scheme: str, classes: int) -> None:
    with corpus.open("a", encoding="utf-8") as file:
        file.write("\n{bad\n" + review(900, reviewText=None) + "\n" + review(0, reviewerID="other"))
    quality = prepare(settings(corpus, labels={"scheme": scheme}), 1, tmp_path)
    duplicates = quality["duplicates"]
    gone = sum(quality["rows_bad"].values()) + quality["rows_left_out_by_label_scheme"] + sum(duplicates.values())
    assert quality["rows_read"] == 303 == gone + quality["rows_used"]
    quarantine = (tmp_path / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["line"] for line in quarantine] == [301, 302]
    assert len(load_labels(tmp_path)) == classes
    assert sum(quality["splits"][name]["rows"] for name in ("train", "validation", "test")) == quality["rows_used"]


def test_users_are_disjoint_and_texts_do_not_leak(corpus: Path, tmp_path: Path) -> None:
    quality = prepare(settings(corpus), 1, tmp_path)
    assert quality["split_by"] == "user"
    users = [set(column(tmp_path, name, "user")) for name in ("train", "validation", "test")]
    assert users[0].isdisjoint(users[1] | users[2])
    assert users[1].isdisjoint(users[2])
    assert all(pair == {"texts": 0, "users": 0} for pair in quality["leaks"].values())
    train, calibration = load_split(tmp_path, "train"), load_split(tmp_path, "calibration")
    assert set(calibration.ids) <= set(train.ids)


def test_time_split_is_ordered(corpus: Path, tmp_path: Path) -> None:
    prepare(settings(corpus, split={"by": "time"}), 1, tmp_path)
    train, validation, test = (column(tmp_path, name, "time") for name in ("train", "validation", "test"))
    assert max(train) < min(validation) <= max(validation) < min(test)


def test_same_seed_same_bytes_other_seed_other_split(corpus: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, (1, 1, 2), strict=True):
        folder.mkdir()
        prepare(settings(corpus), seed, folder)
    texts = [load_split(folder, "test").texts for folder in folders]
    assert texts[0] == texts[1] != texts[2]
    assert (folders[0] / "quality.json").read_bytes() == (folders[1] / "quality.json").read_bytes()


def test_too_many_bad_rows_stop_the_run(corpus: Path, tmp_path: Path) -> None:
    with corpus.open("a", encoding="utf-8") as file:
        file.write("\n" + "\n".join(["{bad"] * 30))
    with pytest.raises(DataError, match="30 of 330"):
        prepare(settings(corpus), 1, tmp_path)


def test_star_labels_need_stars(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,kind\n" + "\n".join(f"{text(n)},{'ab'[n % 2]}" for n in range(40)), encoding="utf-8")
    source = {"kind": "table", "paths": [str(path)], "columns": {"body": "text", "label": "kind"}}
    with pytest.raises(DataError, match="no star ratings"):
        prepare(Data.model_validate({"source": source}), 1, tmp_path)
    prepare(Data.model_validate({"source": source, "labels": {"scheme": "column"}}), 1, tmp_path)
    assert load_labels(tmp_path) == ["a", "b"]


def test_inspect_leaves_nothing_behind(corpus: Path) -> None:
    before = sorted(corpus.parent.iterdir())
    assert inspect(settings(corpus), 1)["rows_used"] > 0
    assert sorted(corpus.parent.iterdir()) == before


def test_source_record_holds_the_digest(corpus: Path, tmp_path: Path) -> None:
    prepare(settings(corpus), 1, tmp_path)
    assert len(read_json(tmp_path / "source.json")["files"][0]["sha256"]) == 64


def test_duplicates() -> None:
    assert exact_duplicates(["a", "b", "a", "c", "c"], [0, 0, 0, 0, 1]) == ({2}, {3, 4})
    base = " ".join(f"w{n}" for n in range(60))
    assert near_duplicates([base, base + " end", " ".join(f"v{n}" for n in range(60))], 0.9) == {1}
    assert near_duplicates(["great phone", "great case"], 0.9) == set()


def test_cleaning() -> None:
    assert clean("a&amp;#34;b<br /><br>c\x00d <3 &lt;b&gt;e") == 'a"b c d <3 e'
    assert clean("cafe\u0301\u200b") == "caf\u00e9"
