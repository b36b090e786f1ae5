"""Labels as data spell them: numbers, cases, half stars, ids, words that give them away; and what is said of them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lwc.core.errors import DataError
from lwc.core.spelling import likeness, number_name, plain
from lwc.data.fields import name_of
from lwc.data.ingest.run import ingest
from lwc.data.prepare import prepare
from lwc.data.splits import NAMES, load_labels, load_split
from lwc.recipe import Data, Ingest, Recipe
from lwc.report.data_page import data_page
from lwc.report.data_warnings import data_warnings

WORDS = [f"w{number}" for number in range(97)]


def text(number: int) -> str:
    return " ".join(WORDS[(number * step + step) % 97] for step in range(1, 12)) + f" n{number}"


def table(path: Path, values: list[Any], field: str = "label", **data: Any) -> Data:
    """A source of JSON lines with one value a row."""
    rows = (json.dumps({"text": text(number), "value": value}) for number, value in enumerate(values))
    path.write_text("\n".join(rows))
    columns = {"body": "text", field: "value"}
    scheme = {"scheme": "column"} if field == "label" else {}
    settings = {"source": {"kind": "table", "paths": [str(path)], "columns": columns}, "calibration": 20}
    return Data.model_validate({**settings, **data, "labels": {**scheme, **data.get("labels", {})}})


def ingested(data: Data, out: Path) -> dict[str, Any]:
    with ThreadPoolExecutor(1) as pool:
        return ingest(data.model_copy(update={"ingest": Ingest()}), 1, out, 1, pool=pool)


def of_splits(folder: Path) -> dict[str, str]:
    """Label names by text."""
    names, found = load_labels(folder), {}
    for split in NAMES:
        part = load_split(folder, split)
        found.update({one: names[label] for one, label in zip(part.texts, part.labels, strict=True)})
    return found


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (1.0, "1"), (-2.0, "-2"), (0.1, "0.1"), (2.5, "2.5"), (123456789.0, "123456789"), (1e20, "1e+20"),
        (float(np.float32(4.3)), "4.3"), (float(np.float32(1e-7)), "1e-07"), (1 / 3, "0.3333333333333333"),
        (1e300, "1e+300"), (-0.0, "0"),
    ],
)  # fmt: skip
def test_a_number_has_one_name(value: float, name: str) -> None:
    assert number_name(value) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [("1.0", "1"), ("10.000", "10"), ("-1.0", "-1"), ("1.10", "1.10"), ("007", "007"), ("1.", "1."), ("v1.0", "v1.0")],
)
def test_only_the_decimals_of_a_whole_number_go(text: str, name: str) -> None:
    assert plain(text) == name


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Positive", "POSITIVE", True), ("true", "True", True), ("1.50", "1.5", True), ("01", "1", True),
        ("very  good", "very good", True), ("ok", "ok\u200b", True), ("caf\u00e9", "cafe\u0301", True),
        ("very_good", "very good", False), ("A+", "A-", False), ("1.10", "1.11", False), ("inf", "Inf", True),
    ],
)  # fmt: skip
def test_names_are_alike_but_for_case_number_form_and_what_does_not_show(one: str, other: str, same: bool) -> None:
    assert (likeness(one) == likeness(other)) is same
    assert likeness("a", cased=True) != likeness("A", cased=True)


def test_a_float_is_the_same_label_from_every_format(tmp_path: Path) -> None:
    assert [name_of(value) for value in (47.0, 47, "47.0", float("nan"))] == ["47", "47", "47.0", None]
    values = [(n % 3 + 1) / (2 if n % 3 else 1) for n in range(90)]  # 1, 1, 1.5
    numbers = {"text": [text(n + 100) for n in range(90)], "value": pa.array(values, pa.float32())}
    pq.write_table(pa.table(numbers), tmp_path / "t.parquet")
    lines = [f"{text(n + 200)},{('1.0', '1', '1.50')[n % 3]}" for n in range(90)]
    (tmp_path / "t.csv").write_text("text,value\n" + "\n".join(lines))
    data = table(tmp_path / "t.jsonl", values)
    paths = [str(tmp_path / f"t.{end}") for end in ("jsonl", "parquet", "csv")]
    source = data.source.model_copy(update={"paths": tuple(paths)})
    quality = prepare(data.model_copy(update={"source": source}), 1, tmp_path)
    assert quality["label_names"] == ["1", "1.5", "1.50"]
    assert {"value": "1.0", "label": "1", "rows": 30} in quality["label_values"]
    said = " ".join(data_warnings(quality, "classification"))
    assert 'The label "1" is written "1" (150 rows), "1.0" (30 rows): it is one class.' in said
    assert '"1.5" (60 rows), "1.50" (30 rows) differ only in' in said
    assert data_warnings(quality, "regression") == [
        'The label "1" is written "1" (150 rows), "1.0" (30 rows): it is one class.'
    ]


def test_label_names_that_differ_in_case_are_told_and_the_map_merges_them(tmp_path: Path) -> None:
    values = [("Positive", "POSITIVE", "negative", True, "true")[n % 5] for n in range(600)]
    (tmp_path / "out").mkdir()
    quality = prepare(table(tmp_path / "t.jsonl", values), 1, tmp_path / "out")
    one, other = data_warnings(quality, "classification")
    assert '"POSITIVE" (120 rows), "Positive" (120 rows) differ only in case' in one
    assert '"True" (120 rows), "true" (120 rows)' in other
    assert "data.labels.map" in one
    merged = {"map": {"POSITIVE": "Positive", "True": "yes", "true": "yes", "Negatve": "bad"}}
    data = table(tmp_path / "t.jsonl", values, labels=merged)
    quality = prepare(data, 1, tmp_path / "out")
    assert quality["label_names"] == ["Positive", "negative", "yes"]
    assert data_warnings(quality, "classification") == ['data.labels.map names "Negatve", which no row has.']


@pytest.mark.parametrize("field", ["label", "rating"])
def test_a_stream_makes_the_same_labels_and_warnings(tmp_path: Path, field: str) -> None:
    given = ["1.0", "1", 1.0, "Yes", "yes", "drop"] if field == "label" else [1, 2.5, 3.5, 4.5, 5, 2]
    values = [given[n % 6] for n in range(400)]
    changes = {"map": {"1": "one"}} if field == "label" else {"scheme": "binary"}
    data = table(tmp_path / "t.jsonl", values, field, labels=changes)
    (tmp_path / "memory").mkdir()
    whole = prepare(data, 1, tmp_path / "memory")
    streamed = ingested(data, tmp_path / "stream")
    for key in ("label_values", "label_names", "label_tokens", "rows_left_out_by_label_scheme", "rows_bad"):
        assert streamed[key] == whole[key], key
    # The random split of a stream is another one.
    alike = [one for one in data_warnings(whole, "classification") if "split has" not in one]
    assert alike == [one for one in data_warnings(streamed, "classification") if "split has" not in one]
    page = data_page(streamed, "t", data.labels, "classification")
    assert ("left out: 2.5, 3.5" in page) == (field == "rating")
    assert ("A whole number is one name" if field == "label" else "4 stars or more are positive") in page


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("five_class", {1: "1", 1.5: "2", 2.5: "3", 3: "3", 3.4: "3", 3.5: "4", 4.5: "5", 5: "5"}),
        (
            "three_class",
            {1.5: "negative", 2: "negative", 2.5: "neutral", 3.5: "neutral", 4: "positive", 4.5: "positive"},
        ),
        ("binary", {1.5: "negative", 2: "negative", 2.5: None, 3.5: None, 4: "positive", 4.5: "positive"}),
    ],
)
def test_half_stars_round_up_and_thresholds_take_them_as_they_are(
    tmp_path: Path, scheme: str, expected: dict[float, str | None]
) -> None:
    stars = list(expected)
    values = [stars[n % len(stars)] for n in range(400)]
    prepare(table(tmp_path / "t.jsonl", values, "rating", labels={"scheme": scheme}), 1, tmp_path)
    found = of_splits(tmp_path)
    assert {values[int(one.rpartition("n")[2])]: name for one, name in found.items()} == {
        star: name for star, name in expected.items() if name is not None
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("values", "field", "scheme", "said", "hint"),
    [
        ([f"r{n}" for n in range(200)], "label", "column", "'value' has 200 different values in 200", "columns.label"),
        ([1, 2, 3], "rating", "binary", r"stars of 'positive'; .* 1 \(67 rows\), 2 \(67", "label: value"),
        ([1, 3, 4, 5], "rating", "five_class", "stars of '2'", "scheme: binary"),
        ([2, 4], "rating", "three_class", "stars of 'neutral'", "scheme: binary"),
        ([3], "rating", "binary", "'negative', 'positive'", "another source|different ones"),
    ],
)  # fmt: skip
def test_labels_that_make_no_classes_are_named_as_the_cause(
    tmp_path: Path, values: list[Any], field: str, scheme: str, said: str, hint: str, stream: bool
) -> None:
    repeated = [values[n % len(values)] for n in range(200)]
    data = table(tmp_path / "t.jsonl", repeated, field, labels={"scheme": scheme})
    with pytest.raises(DataError, match=said) as caught:
        ingested(data, tmp_path / "stream") if stream else prepare(data, 1, tmp_path)
    assert any(part in caught.value.hint for part in hint.split("|"))


def test_the_hint_for_stars_that_fit_no_scheme_works(tmp_path: Path) -> None:
    values = [n % 3 + 1 for n in range(200)]
    assert prepare(table(tmp_path / "t.jsonl", values), 1, tmp_path)["label_names"] == ["1", "2", "3"]


def test_many_classes_without_train_rows_are_counted_not_listed(tmp_path: Path) -> None:
    values = [f"p{n % 90}" if n < 150 else "common" for n in range(400)]
    data = table(tmp_path / "t.jsonl", values, split={"by": "random", "validation": 0.4, "test": 0.5})
    with pytest.raises(DataError, match=r"90 of 91 classes have no train rows: 'p\d+', .* and \d+ more") as caught:
        prepare(data, 1, tmp_path)
    assert "if it holds ids" in caught.value.hint


def test_calibration_needs_a_row_of_each_class(tmp_path: Path) -> None:
    data = table(tmp_path / "t.jsonl", ["abc"[n % 3] for n in range(200)], calibration=2)
    with pytest.raises(DataError, match="calibration is 2, but there are 3 classes") as caught:
        prepare(data, 1, tmp_path)
    assert caught.value.hint == "set data.calibration to 3 or more"
    assert prepare(data.model_copy(update={"calibration": 3}), 1, tmp_path)["splits"]["calibration"]["rows"] == 3


@pytest.mark.parametrize(
    ("share", "rows", "told"), [(1.0, 300, True), (0.6, 300, True), (0.3, 300, False), (1.0, 40, False)]
)
def test_a_word_that_gives_the_label_away_is_told(tmp_path: Path, share: float, rows: int, told: bool) -> None:
    lines = []
    for number in range(rows):
        label = "ab"[number % 2]
        word = f" zz{label}" if (number * 7) % 10 < 10 * share else ""
        lines.append(json.dumps({"text": text(number) + word, "label": label}))
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    source = {"kind": "table", "paths": [str(tmp_path / "t.jsonl")], "columns": {"label": "label"}}
    data = Data.model_validate({"source": source, "labels": {"scheme": "column"}, "calibration": 20})
    quality = prepare(data, 1, tmp_path)
    assert [one["token"] for one in quality["label_tokens"]] == (["zza", "zzb"] if told else [])
    said = [one for one in data_warnings(quality, "classification") if "gives the label away" in one]
    assert len(said) == (2 if told else 0)


@pytest.mark.parametrize(
    ("copies", "said"), [(76, ["76.0 % of the 200 labelled rows are duplicates (exact: 152)"]), (20, [])]
)
def test_many_duplicates_are_told_with_their_share(tmp_path: Path, copies: int, said: list[str]) -> None:
    rows = 200 - 2 * copies
    lines = [json.dumps({"text": text(n % rows), "value": "ab"[n % rows % 2]}) for n in range(200)]
    data = table(tmp_path / "t.jsonl", [])
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    found = [one for one in data_warnings(prepare(data, 1, tmp_path), "classification") if "duplicates" in one]
    assert [one[: len(start)] for one, start in zip(found, said, strict=True)] == said


def test_a_class_of_a_few_test_rows_is_told_and_numbers_have_no_classes(tmp_path: Path) -> None:
    values = [3 if n % 40 == 0 else n % 2 for n in range(400)]
    data = table(tmp_path / "t.jsonl", values)
    quality = prepare(data, 1, tmp_path)
    found = data_warnings(quality, "classification")
    assert any(one.startswith('The test split has 2 rows of "3", fewer than 10') for one in found)
    assert data_warnings(quality, "regression") == []


def recipe(columns: dict[str, Any], labels: dict[str, Any], **changes: Any) -> Recipe:
    source = {"kind": "table", "paths": ["t.csv"], "columns": columns}
    fields = changes.pop("text_fields", ["body"])
    data = {"source": source, "labels": labels, "text_fields": fields}
    base = {"schema_version": 1, "name": "t", "model": {"kind": "config"}, "target": {"ratio": 2, "of": "blocks"}}
    return Recipe.model_validate({**base, "data": data, **changes})


@pytest.mark.parametrize(
    ("columns", "labels", "changes", "said"),
    [
        ({"body": "kind", "label": "kind"}, {"scheme": "column"}, {}, "body and label are both 'kind'"),
        ({"title": "k", "label": "k"}, {"scheme": "column"}, {"text_fields": ["title", "body"]}, "title and label"),
        ({"body": "stars", "rating": "stars"}, {}, {}, "body and rating are both 'stars'"),
        ({"body": None, "rating": "stars"}, {}, {}, "columns.body is null"),
        ({"rating": "s"}, {"scheme": "binary", "map": {"a": "b"}}, {}, "map leads to 'b', which is no class of scheme binary"),
        ({"rating": "s"}, {"names": ["a", "b"]}, {}, "names must list each once"),
        ({"label": "k"}, {"scheme": "column", "names": ["1", "1.0"]}, {}, "names lists '1' twice"),
        ({"label": "k"}, {"scheme": "column", "names": [True, False]}, {}, "write it in quotes"),
        ({"label": "k"}, {"scheme": "column", "names": ["a", "b"], "map": {"x": "c"}}, {}, "map leads to 'c'"),
        ({"label": "k"}, {"scheme": "column", "map": {"1": "c", "1.0": "d"}}, {}, "1 is given twice"),
        ({"rating": "s"}, {}, {"name": "my recipe"}, "must be 1 to 64 letters"),
        ({"rating": "s"}, {}, {"gates": [{"metric": "Accuracy!", "op": ">", "value": 0}]}, "the path of a figure"),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_mean_its_labels_is_refused(
    columns: dict[str, Any], labels: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        recipe(columns, labels, **changes)


def test_numbers_are_names_in_a_recipe_and_unread_columns_may_be_anything(tmp_path: Path) -> None:
    made = recipe({"label": "k"}, {"scheme": "column", "names": [0, 1.0], "map": {"no": 0, "yes": 1}})
    assert made.data.labels.names == ("0", "1")
    assert made.data.labels.map == {"no": "0", "yes": "1"}
    recipe({"title": "kind", "label": "kind"}, {"scheme": "column"})  # no text field
    path = tmp_path / "t.csv"
    path.write_text("text,kind,stars\n" + "\n".join(f"{text(n)},{'ab'[n % 2]},{n % 12}" for n in range(100)))
    columns = {"label": "kind", "rating": "stars", "title": "not there"}
    source = {"kind": "table", "paths": [str(path)], "columns": columns}
    data = Data.model_validate({"source": source, "labels": {"scheme": "column"}, "calibration": 20})
    assert prepare(data, 1, tmp_path)["rows_bad"] == {}
