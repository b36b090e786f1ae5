"""Splits of the user's: by a source for each or by a column; the test split stays whole, and nothing is moved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import finetuned
import histories
import pyarrow.parquet as pq
import pytest
from finetuned import CLASSES, rows, table, text, write

from lwc.core.errors import DataError, RecipeError
from lwc.core.store import read_json
from lwc.data.cleaning import clean
from lwc.data.own_splits import split_of, split_words
from lwc.data.prepare import prepare
from lwc.pipeline.run import plan, run
from lwc.pipeline.stages import inspect
from lwc.recipe import Data, Recipe
from lwc.recipe.file import parse_recipe
from lwc.report.data_warnings import data_notes, data_warnings
from lwc.report.setting import split_by

NAMES = ("train", "validation", "test")


def sources(tmp_path: Path, **given: Sequence[Sequence[object]]) -> dict[str, Any]:
    """``data.train``, ``data.validation`` and ``data.test`` of these rows."""
    files = {name: write(tmp_path / f"{name}.csv", found) for name, found in given.items()}
    first, *others = files
    return {first: table(files[first]), **{name: {"paths": str(files[name])} for name in others}}


def made(tmp_path: Path, given: dict[str, Any], **changes: Any) -> tuple[dict[str, Any], Path]:
    """What the data stage says and writes."""
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    data = Data.model_validate({"labels": {"scheme": "column"}, "calibration": 12, **given, **changes})
    return prepare(data, 17, out), out


def texts(folder: Path, split: str) -> list[str]:
    return list(pq.read_table(folder / f"{split}.parquet")["text"].to_pylist())


def test_the_test_split_stays_whole_and_its_texts_leave_train(tmp_path: Path) -> None:
    train, validation, test = rows(90), rows(30, 100), rows(30, 200)
    copies = [train[0], train[1], (train[2][0].upper() + "!", "positive")]  # the last in another form and class
    test = [*test, *copies, test[0], (test[1][0], "negative"), (":-)", "positive"), ("<b>so</b> &amp; fine", "neutral")]
    validation = [*validation, test[3], train[5]]
    quality, out = made(tmp_path, sources(tmp_path, train=train, validation=validation, test=test))
    assert texts(out, "test") == [clean(one) for one, _ in test], "each row, in the order of the file"
    names = read_json(out / "labels.json")
    assert [names[n] for n in pq.read_table(out / "test.parquet")["label"].to_pylist()] == [name for _, name in test]
    assert texts(out, "validation") == [one for one, _ in validation if one != test[3][0]]
    gone = {one for one, _ in (*train[:3], train[5])}
    assert texts(out, "train") == [one for one, _ in train if one not in gone]
    assert quality["shared_by_splits"] == {
        "test_in_train": 3, "test_in_validation": 1, "validation_in_train": 1, "train_left_out": 4,
        "validation_left_out": 1,
    }  # fmt: skip
    assert quality["test_rows"] == {"given": 37, "left_out": 0, "used": 37, "cleaned": 1}
    said = data_warnings(quality, "classification")
    assert any(
        "3 of the 37 test rows also occur in your train split. The test split stays whole; the 4" in s for s in said
    )
    assert any("changes 1 of the 37 texts" in one for one in data_notes(quality))
    assert split_words(quality) == "split as the data say"
    assert split_by(quality) == "the data"  # type: ignore[arg-type]
    assert not any("lwc drew the test split" in one for one in data_warnings(quality, "classification", skipped=True))


def test_near_copies_of_held_out_texts_leave_train_alone(tmp_path: Path) -> None:
    long = " ".join(f"w{n}" for n in range(60))
    test = [*rows(30, 200), (long, "positive"), (f"{long} x", "positive")]
    quality, out = made(tmp_path, sources(tmp_path, train=[*rows(90), (f"{long} y", "positive")], test=test))
    assert texts(out, "test") == [one for one, _ in test]
    assert f"{long} y" not in texts(out, "train") + texts(out, "validation")
    assert quality["duplicates"]["near"] == 1


def test_what_is_left_out_of_a_test_split_is_told(tmp_path: Path) -> None:
    """Stars that the scheme leaves out, and a row without text."""
    stars = {"negative": 1, "neutral": 3, "positive": 5}
    train, test = rows(90, label=stars.get), [*rows(30, 200, stars.get), ("", 5)]
    given = sources(tmp_path, train=train, test=test)
    given["train"]["columns"] = {"rating": "label"}
    quality, _ = made(tmp_path, given, labels={"scheme": "binary"})
    assert quality["test_rows"] == {"given": 31, "left_out": 10, "used": 20, "cleaned": 0}
    said = " ".join(data_warnings(quality, "classification"))
    assert (
        "20 of the 31 rows of your test split are used (10 left out by data.labels.scheme, 1 bad, see quarantine.jsonl)"
        in said
    )


@pytest.mark.parametrize("given", [("train", "test"), ("train", "validation")])
def test_a_split_that_is_not_given_is_drawn_from_train(tmp_path: Path, given: tuple[str, str]) -> None:
    (other,) = set(NAMES) - set(given)
    held = rows(30, 200)
    quality, out = made(tmp_path, sources(tmp_path, train=rows(90), **{given[1]: held}), split={"test": 0.3})
    assert texts(out, given[1]) == [one for one, _ in held]
    share = 0.3 if other == "test" else 0.1
    assert len(texts(out, other)) == pytest.approx(90 * share, abs=2)
    assert sorted(texts(out, "train") + texts(out, other)) == sorted(one for one, _ in rows(90))
    assert split_words(quality) == f"train and {given[1]} as the data say, {other} drawn at random from train"
    warned = [one for one in data_warnings(quality, "classification", skipped=True) if "drew the test split" in one]
    assert len(warned) == (other == "test")


def test_a_limit_leaves_the_test_split_alone(tmp_path: Path) -> None:
    quality, out = made(tmp_path, sources(tmp_path, train=rows(90), test=rows(30, 200)), limit=40)
    assert len(texts(out, "test")) == 30
    assert len(texts(out, "train") + texts(out, "validation")) == 40
    assert quality["rows_beyond_limit"] == 50


@pytest.mark.parametrize(
    ("spelling", "meaning"),
    [
        ({"train": "Train", "validation": "dev", "test": "TEST"}, {}),
        ({"train": "training", "validation": "Valid", "test": "testing"}, {}),
        ({"train": "0", "validation": "1", "test": "2"}, {"0": "train", "1": "validation", "2": "test"}),
        ({"train": "train", "validation": "test", "test": "holdout"}, {"test": "validation", "holdout": "test"}),
    ],
)
def test_a_column_splits_as_sources_do(tmp_path: Path, spelling: dict[str, str], meaning: dict[str, str]) -> None:
    of = {"train": rows(90), "validation": rows(30, 100), "test": [*rows(30, 200), rows(1)[0]]}
    by_source, _ = made(tmp_path, sources(tmp_path, **of))
    expected = {name: texts(tmp_path / "out", name) for name in (*NAMES, "calibration")}
    mixed = [(one, label, spelling[name]) for name, found in of.items() for one, label in found]
    mixed = mixed[::2] + mixed[1::2]  # in any order
    path = write(tmp_path / "all.csv", mixed, ("text", "label", "part"))
    data = {"source": table(path, split="part"), "split": {"map": meaning}}
    quality, out = made(tmp_path, data)
    for name in NAMES:
        assert sorted(texts(out, name)) == sorted(expected[name])
    assert quality["shared_by_splits"] == by_source["shared_by_splits"]
    assert quality["split_given"] == by_source["split_given"] == list(NAMES)


def test_a_column_with_two_splits_draws_the_third_and_may_leave_rows_out(tmp_path: Path) -> None:
    of = {"train": rows(90), "test": rows(30, 200), "unsupervised": rows(30, 300)}
    mixed = [(one, label, name) for name, found in of.items() for one, label in found]
    path = write(tmp_path / "all.csv", [*mixed, (text(999, "positive"), "positive", "")], ("text", "label", "split"))
    source = table(path, split="split")
    with pytest.raises(DataError, match=r"'split' has values that name no split: 'unsupervised' \(30 rows\)") as caught:
        made(tmp_path, {"source": source})
    assert "data.split.map: {unsupervised: …}" in caught.value.hint
    quality, out = made(tmp_path, {"source": source, "split": {"map": {"unsupervised": "none"}}})
    assert texts(out, "test") == [one for one, _ in of["test"]]
    assert len(texts(out, "train") + texts(out, "validation")) == 90
    assert quality["rows_in_no_split"] == 30
    assert quality["rows_bad"] == {"no split": 1}


def test_no_train_rows_and_an_empty_source_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "all.csv", [(*one, "test") for one in rows(30)], ("text", "label", "split"))
    with pytest.raises(DataError, match="no row is of the train split"):
        made(tmp_path, {"source": table(path, split="split")})
    with pytest.raises(DataError, match=r"the source of data\.test has no rows"):
        made(tmp_path, sources(tmp_path, train=rows(90), test=[]))


def test_a_class_that_only_the_test_split_has_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 4 classes have no train rows: 'odd'"):
        made(tmp_path, sources(tmp_path, train=rows(90), test=[*rows(30, 200), ("an odd one", "odd")]))


def test_only_true_spellings_are_known() -> None:
    assert [split_of(one, {}) for one in ("Train ", "VAL", "dev", "Testing", "eval", "holdout")] == [
        "train", "validation", "validation", "test", None, None,
    ]  # fmt: skip


BASE = "{schema_version: 1, name: t, model: {kind: config}, target: {ratio: 2, of: blocks}, data: "
CSV = "{kind: table, paths: a.csv, columns: {label: l}}"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (f"{{train: {CSV}, source: {CSV}}}", "source and train are both given"),
        ("{test: {kind: table, paths: b.csv}}", "test is given, and no train"),
        ("{train: {kind: table, paths: a.csv, columns: {split: s}}, test: {paths: b.csv}}", "columns.split names 's'"),
        (f"{{source: {CSV}, split: {{map: {{a: train}}}}}}", "split.map is for a split column"),
        (f"{{train: {CSV}, test: {{paths: b.csv}}, ingest: {{}}}}", "data.ingest with data.test: lwc splits"),
        ("{source: {kind: table, paths: a.csv, columns: {split: s}}, ingest: {}}", "data.ingest with columns.split"),
        ("{source: {kind: table, paths: a.csv, columns: {split: s}}, split: {map: {a: tset}}}", "Input should be"),
        (
            "{train: {kind: table, paths: a.csv, columns: {label: l}}, labels: {scheme: column},"
            " test: {paths: b.csv, columns: {body: l, label: l}}}",
            "data.test.columns: body and label are both 'l'",
        ),
    ],
)  # fmt: skip
def test_splits_that_cannot_be_meant_are_refused(data: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse_recipe(f"{BASE}{data}}}", "r.yaml")


def test_a_recommender_splits_events_itself() -> None:
    base = histories.recipe(Path("shop.csv")).model_dump()
    base["data"]["test"] = base["data"]["source"]
    base["model"].pop("vocab_size")
    with pytest.raises(ValueError, match=r"task\.split decides which events are asked"):
        Recipe.model_validate(base)


def test_a_source_without_kind_is_like_that_of_train() -> None:
    data = "{train: {kind: hub, id: me/d, columns: {body: t, label: l}}, test: {split: test}, labels: {scheme: column}}"
    found = parse_recipe(f"{BASE}{data}}}", "r.yaml").data
    assert found.test is not None
    assert found.test.model_dump() == {**found.main.model_dump(), "split": "test"}
    assert Data.model_validate(found.model_dump()) == found


def test_every_file_is_in_the_key_and_in_the_account(tmp_path: Path) -> None:
    given = sources(tmp_path, train=rows(90), test=rows(30, 200))
    model = finetuned.checkpoint(tmp_path / "model", CLASSES, steps=1)
    recipe = finetuned.recipe(model, {**given, "labels": {"scheme": "column"}})
    said: list[str] = []
    found = run(recipe, tmp_path / "runs", lambda kind, _, line: said.append(f"{kind}: {line}"), until="data")
    assert any(
        "30 test texts of table, train and test as the data say, validation drawn at random" in one for one in said
    )
    account = read_json(found["data"].path / "source.json")
    assert [(one["name"], one["split"]) for one in account["files"]] == [("train.csv", "train"), ("test.csv", "test")]
    assert inspect(recipe)["splits"]["test"]["rows"] == 30
    assert plan(recipe, tmp_path / "runs")[0].hit
    write(tmp_path / "test.csv", rows(33, 200))
    changed = plan(recipe, tmp_path / "runs")[0]
    assert not changed.hit
    assert "test.csv changed" in changed.reason


def test_texts_of_a_language_model_have_splits_too(tmp_path: Path) -> None:
    given = sources(tmp_path, train=rows(90), test=rows(30, 200))
    given["train"]["columns"] = {}
    _, out = made(tmp_path, given, labels={"scheme": "none"})
    assert texts(out, "test") == [one for one, _ in rows(30, 200)]
