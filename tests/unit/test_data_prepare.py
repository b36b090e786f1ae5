"""The data stage: labels, duplicates, splits, account, and the same result again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lwc.core.errors import DataError
from lwc.core.store import read_json
from lwc.data.cleaning import clean
from lwc.data.duplicates import exact_duplicates, near_duplicates
from lwc.data.prepare import prepare
from lwc.data.splits import load_labels, load_split
from lwc.pipeline.stages import inspect
from lwc.recipe import Data, Recipe
from lwc.report.setting import split_by

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


def test_a_row_without_a_user_does_not_undo_the_split_by_user(tmp_path: Path) -> None:
    path = tmp_path / "reviews.json"
    lines = [review(n, reviewerID=None if n % 10 == 0 else f"u{n // 3}") for n in range(300)]
    path.write_text("\n".join(lines), encoding="utf-8")
    quality = prepare(settings(path), 1, tmp_path)
    assert quality["split_by"] == "user"
    assert quality["rows_without_user"] == sum(row is None for n in ("train", "validation", "test")
                                               for row in column(tmp_path, n, "user")) == 30  # fmt: skip
    assert all(pair["users"] == 0 for pair in quality["leaks"].values())
    nameless = [column(tmp_path, name, "user").count(None) for name in ("train", "validation", "test")]
    assert nameless[0] > nameless[2] > 0, "each is a user of its own, and not all of them one"
    assert split_by(quality) == "user; 30 rows without a user, each counted as its own user"


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
    recipe = Recipe.model_validate(
        {
            "schema_version": 1,
            "name": "inspected",
            "data": settings(corpus).model_dump(),
            "model": {"kind": "config"},
            "target": {"ratio": 2, "of": "blocks"},
        }
    )
    assert inspect(recipe)["rows_used"] > 0
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


def test_cleaning_keeps_what_reads_and_drops_what_cannot_be_stored() -> None:
    assert clean("a\ud800b\x07\tc\u00a0d") == "a b c d"
    assert clean("1 < 2 and 3 > 2 &eacute; <BR />") == "1 < 2 and 3 > 2 \u00e9"
    assert clean("\ufeff\U0001f468\u200d\U0001f469") == "\U0001f468\u200d\U0001f469"


def test_near_duplicates_are_decided_by_the_exact_similarity() -> None:
    base = [f"w{n}" for n in range(102)]  # 100 word 3-grams
    same, close, far = base + ["x"], base[:99], base[:91]  # Jaccard 100/101, 97/100, 89/100
    for other, expected in ((same, {1}), (close, {1}), (far, set())):
        assert near_duplicates([" ".join(base), " ".join(other)], 0.9) == expected


def test_duplicates_differ_in_case_and_punctuation_and_conflicts_go_altogether(corpus: Path, tmp_path: Path) -> None:
    again, conflict = review(10, reviewText=text(10).upper() + "!!"), review(4, overall=1)
    with corpus.open("a", encoding="utf-8") as file:
        file.write("\n" + again + "\n" + conflict)
    quality = prepare(settings(corpus, labels={"scheme": "five_class"}), 1, tmp_path)
    assert quality["duplicates"] == {"exact": 1, "conflicting_labels": 2, "near": 0}
    texts = [t for name in ("train", "validation", "test") for t in load_split(tmp_path, name).texts]
    assert text(4) not in texts
    assert texts.count(text(10)) == 1


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("binary", {1: "negative", 2: "negative", 4: "positive", 5: "positive"}),
        ("three_class", {1: "negative", 2: "negative", 3: "neutral", 4: "positive", 5: "positive"}),
        ("five_class", {n: str(n) for n in range(1, 6)}),
    ],
)
def test_star_schemes(corpus: Path, tmp_path: Path, scheme: str, expected: dict[int, str]) -> None:
    quality = prepare(settings(corpus, labels={"scheme": scheme}), 1, tmp_path)
    stars = {text(number): number % 5 + 1 for number in range(300)}
    found = {}
    for name in ("train", "validation", "test"):
        part = load_split(tmp_path, name)
        found.update({stars[t]: quality["label_names"][i] for t, i in zip(part.texts, part.labels, strict=True)})
    assert found == expected
    assert quality["rows_left_out_by_label_scheme"] == (60 if scheme == "binary" else 0)


def test_random_split_is_stratified(corpus: Path, tmp_path: Path) -> None:
    data = settings(corpus, split={"by": "random"}, labels={"scheme": "three_class"})
    splits = prepare(data, 1, tmp_path)["splits"]
    assert splits["train"]["labels"] == {"negative": 84, "neutral": 42, "positive": 84}
    assert splits["validation"]["labels"] == {"negative": 12, "neutral": 6, "positive": 12}
    assert splits["test"]["labels"] == {"negative": 24, "neutral": 12, "positive": 24}
    assert splits["calibration"]["rows"] == 20


@pytest.mark.parametrize("by", ["user", "time", "random"])
def test_every_file_is_the_same_again(corpus: Path, tmp_path: Path, by: str) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        prepare(settings(corpus, split={"by": by}, limit=200), 5, folder)
    names = sorted(path.name for path in folders[0].iterdir())
    assert len(names) == 9
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def test_limit_takes_a_sample_not_the_head(corpus: Path, tmp_path: Path) -> None:
    quality = prepare(settings(corpus, limit=100, split={"by": "random"}), 1, tmp_path)
    assert quality["rows_used"] == 100
    assert quality["rows_beyond_limit"] == quality["rows_read"] - quality["rows_left_out_by_label_scheme"] - 100 > 0
    assert sum(quality["duplicates"].values()) == 0
    texts = {t for name in ("train", "validation", "test") for t in load_split(tmp_path, name).texts}
    assert len(texts) == 100
    assert texts & {text(number) for number in range(200, 300)}


def test_text_fields_are_joined_in_order_and_named(corpus: Path, tmp_path: Path) -> None:
    with corpus.open("a", encoding="utf-8") as file:
        file.write("\n" + review(700, summary="Five Stars", reviewText="only here", overall=5))
    for fields, expected in ((["title", "body"], "Five Stars only here"), (["body"], "only here")):
        quality = prepare(settings(corpus, text_fields=fields), 1, tmp_path)
        texts = [t for name in ("train", "validation", "test") for t in load_split(tmp_path, name).texts]
        assert expected in texts
        assert quality["text_fields"] == read_json(tmp_path / "source.json")["text_fields"] == fields
    # Rows without a title have no text where the title is all that is used.
    with pytest.raises(DataError, match="300 of 301 rows are bad"):
        prepare(settings(corpus, text_fields=["title"]), 1, tmp_path)


@pytest.mark.parametrize("fields", [["title", "body"], ["title"]])
def test_a_text_field_that_no_row_has_is_told(corpus: Path, tmp_path: Path, fields: list[str]) -> None:
    with pytest.raises(DataError, match="names title, which is empty in every row"):
        prepare(settings(corpus, text_fields=fields), 1, tmp_path)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"kind": "amazon-sample"}, "does not have: leave it out"),
        ({"kind": "table", "paths": ["r.csv"]}, r"map data\.source\.columns\.title, or leave it out"),
        ({"kind": "hub", "id": "a/b"}, r"map data\.source\.columns\.title"),
    ],
)
def test_a_title_that_is_not_mapped_is_told_before_anything_is_read(source: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Data.model_validate({"source": source, "text_fields": ["title", "body"]})


def test_reasons_are_grouped_and_storable(corpus: Path, tmp_path: Path) -> None:
    odd = [review(500 + n, overall=6 + n) for n in range(4)] + [review(600, unixReviewTime=1e300)]
    odd += [review(601, reviewerID="\ud800", asin="\udc00", reviewText="lone \ud800 surrogate", overall=5)]
    with corpus.open("a", encoding="utf-8") as file:
        file.write("\n" + "\n".join(odd))
    quality = prepare(settings(corpus), 1, tmp_path)
    assert quality["rows_bad"] == {"rating is outside 1 to 5": 4, "time is out of range": 1}
    entries = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(entry["reason"], entry["detail"]) for entry in entries][1:] == [
        *(("rating is outside 1 to 5", stars) for stars in "789"), ("time is out of range", "1e+300"),
    ]  # fmt: skip
    assert all(set(entry) == {"file", "line", "reason", "detail", "excerpt"} for entry in entries)
    assert "?" in {user for name in ("train", "validation", "test") for user in column(tmp_path, name, "user")}


def test_one_class_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("\n".join(review(number, overall=5) for number in range(100)), encoding="utf-8")
    with pytest.raises(DataError, match="negative"):
        prepare(settings(path), 1, tmp_path)
    table = tmp_path / "t.csv"
    table.write_text("text,kind\n" + "\n".join(f"{text(n)},same" for n in range(100)), encoding="utf-8")
    source = {"kind": "table", "paths": [str(table)], "columns": {"label": "kind"}}
    with pytest.raises(DataError, match="same"):
        prepare(Data.model_validate({"source": source, "labels": {"scheme": "column"}}), 1, tmp_path)


def test_split_by_a_field_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("\n".join(review(n, reviewerID=None, unixReviewTime=None) for n in range(200)), encoding="utf-8")
    assert prepare(settings(path), 1, tmp_path)["split_by"] == "random"
    for by in ("user", "time"):
        with pytest.raises(DataError, match=f"no {by}"):
            prepare(settings(path, split={"by": by}), 1, tmp_path)


def test_bad_rows_up_to_the_limit_are_accepted(corpus: Path, tmp_path: Path) -> None:
    with corpus.open("a", encoding="utf-8") as file:
        file.write("\n" + "\n".join(["{bad"] * 100))
    assert prepare(settings(corpus, max_bad_rows=0.25), 1, tmp_path)["rows_bad"] == {"bad JSON": 100}
    with pytest.raises(DataError, match="bad JSON 100"):
        prepare(settings(corpus, max_bad_rows=0.24), 1, tmp_path)


def test_a_text_without_words_is_not_called_empty(corpus: Path, tmp_path: Path) -> None:
    with corpus.open("a", encoding="utf-8") as file:
        file.write(
            "\n"
            + review(500, reviewText=" <br/>&nbsp;")
            + "\n"
            + review(501, reviewText="?!")
            + "\n"
            + review(502, reviewText="\U0001f44d")
        )
    assert prepare(settings(corpus), 1, tmp_path)["rows_bad"] == {"empty text": 1, "no letters, digits or emoji": 1}


def test_one_moment_for_all_rows_cannot_be_split_by_time(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("\n".join(review(n, unixReviewTime=7) for n in range(200)), encoding="utf-8")
    with pytest.raises(DataError, match="split has no rows") as caught:
        prepare(settings(path, split={"by": "time"}), 1, tmp_path)
    assert "by: random" in caught.value.hint
