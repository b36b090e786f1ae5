"""`lwc init`: a valid recipe for the data and checkpoint that people have."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lwc.cli.main import app
from lwc.core.errors import DataError, LwcError, ModelError, RecipeError
from lwc.data.guess import guess
from lwc.pipeline.draft import draft, named_after
from lwc.recipe import Recipe
from lwc.recipe.file import parse_recipe

TEXT = "the zipper broke after two weeks of use"


def table(path: Path, rows: int, **columns: Sequence[Any]) -> str:
    """A CSV; each column's values are repeated."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in range(rows):
            writer.writerow([values[row % len(values)] for values in columns.values()])
    return str(path)


def checkpoint(folder: Path, **config: Any) -> str:
    folder.mkdir()
    shape = {"model_type": "bert", "num_hidden_layers": 6, "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(shape | config))
    return str(folder)


def drafted(paths: Sequence[str], model: str) -> tuple[Recipe, str]:
    text, _ = draft(paths, model, "mine")
    return parse_recipe(text, "mine.yaml"), text


COLUMNS: dict[str, tuple[dict[str, Sequence[Any]], dict[str, str]]] = {
    "stars": (
        {"reviewerID": ["a", "b"], "asin": ["x"], "overall": [1, 5], "reviewText": [TEXT], "summary": ["Broke"]},
        {"rating": "overall", "title": "summary", "user": "reviewerID", "item": "asin", "body": "reviewText"},
    ),
    "classes": ({"id": range(90), "Text": [TEXT], "Sentiment": ["POS", "NEG"]}, {"label": "Sentiment", "body": "Text"}),
    "unnamed class": (
        {"comment": [TEXT, TEXT + "!"], "verdict": ["yes", "no"]}, {"label": "verdict", "body": "comment"},
    ),
    "unnamed stars": (
        {"comment": [TEXT, TEXT + "!"], "ReviewStar": range(1, 6)}, {"rating": "ReviewStar", "body": "comment"},
    ),
    "longest text": (
        {"product": ["Zip bag, large"], "review_body": [TEXT], "stars": [1, 5]},
        {"item": "product", "rating": "stars", "body": "review_body"},
    ),
    "label among percentages": (
        {"score": [88.5, 12.0], "body": [TEXT], "label": ["good", "bad"]}, {"label": "label", "body": "body"},
    ),
    "own split": (
        {"text": [TEXT], "label": ["a", "b"], "split": ["train", "Validation", "test"]},
        {"label": "label", "split": "split", "body": "text"},
    ),
    "no split": ({"text": [TEXT], "label": ["a", "b"], "fold": range(5)}, {"label": "label", "body": "text"}),
}  # fmt: skip


@pytest.mark.parametrize("case", COLUMNS)
def test_columns_are_known_by_name_and_content(case: str, tmp_path: Path) -> None:
    columns, expected = COLUMNS[case]
    assert guess([table(tmp_path / "t.csv", 120, **columns)]).columns == expected


def test_the_recipe_is_valid_and_fits_data_and_checkpoint(tmp_path: Path) -> None:
    data = table(tmp_path / "t.csv", 4000, text=[TEXT, TEXT * 20], label=["spam", "ham"])
    recipe, text = drafted([data], checkpoint(tmp_path / "m"))
    assert recipe.data.source.model_dump()["paths"] == (data,)
    assert recipe.data.labels.scheme == "column"
    assert recipe.model.max_length == 64, "as long as the checkpoint takes, and no longer"
    assert recipe.target.ratio == 2.0
    assert "2 classes: spam, ham" in text
    (gate,) = [gate for gate in recipe.gates if gate.at == "low"]
    few, _ = drafted([table(tmp_path / "few.csv", 300, text=[TEXT], label=["spam", "ham"])], str(tmp_path / "m"))
    (lenient,) = [gate for gate in few.gates if gate.at == "low"]
    assert lenient.value < gate.value < 1, "a small test split can show less"
    assert few.recover.epochs > recipe.recover.epochs, "as many steps of fewer rows"


def test_a_language_model_needs_no_labels(tmp_path: Path) -> None:
    llama = checkpoint(tmp_path / "m", model_type="llama", architectures=["LlamaForCausalLM"])
    recipe, _ = drafted([table(tmp_path / "t.csv", 100, text=[TEXT])], llama)
    assert recipe.task.kind == "causal_lm"
    assert recipe.data.labels.scheme == "none"


@pytest.mark.parametrize(
    ("columns", "config", "error", "says"),
    [
        ({"a": [1, 2], "b": [3.5]}, {}, DataError, "no column of texts among a, b"),
        ({"text": [TEXT]}, {}, RecipeError, "no column of labels or ratings among text"),
        ({"user_id": ["u1", "u2"], "asin": ["x", "y"]}, {}, RecipeError, "users and items without texts"),
        ({"text": [TEXT], "label": ["a", "b"]}, {"model_type": "t5"}, ModelError, "two stacks"),
        ({"text": [TEXT], "label": ["a", "b"]}, {"num_hidden_layers": 1}, ModelError, "1 blocks"),
    ],
)
def test_what_cannot_be_compressed_is_refused(
    columns: Mapping[str, Sequence[Any]], config: dict[str, Any], error: type[LwcError], says: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says) as caught:
        draft([table(tmp_path / "t.csv", 60, **columns)], checkpoint(tmp_path / "m", **config), "mine")
    assert caught.value.hint


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_other_delimiters_than_commas_are_found_and_commas_stay_in_texts(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "t.csv"
    rows = [f"it works, well, number {row}{mark}{('good', 'bad')[row % 2]}" for row in range(80)]
    path.write_text("\n".join([f"text{mark}label", *rows]), encoding="utf-8")
    found = guess([str(path)])
    assert found.columns == {"label": "label", "body": "text"}
    assert found.rows == 80


def test_lists_and_missing_keys_of_json_lines_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [{"text": f"{TEXT} {row}", "label": "ab"[row % 2], "tags": [1, 2]} for row in range(40)]
    path.write_text("\n".join(json.dumps(line if row else {**line, "note": "x"}) for row, line in enumerate(lines)))
    found = guess([str(path)])
    assert (found.columns["body"], found.columns["label"], found.rows) == ("text", "label", 40)


def test_a_head_is_kept_and_its_names_are_never_guessed(tmp_path: Path) -> None:
    data = table(tmp_path / "t.csv", 100, text=[TEXT], label=["spam", "ham"])

    def written(**config: Any) -> tuple[Recipe, str]:
        place = tmp_path / f"m{len(list(tmp_path.iterdir()))}"
        return drafted([data], checkpoint(place, architectures=["BertForSequenceClassification"], **config))

    recipe, text = written(id2label={"0": "HAM", "1": "SPAM"})
    assert recipe.train.skip
    assert "map:" not in text, "they match without case"
    assert '# map: {"spam": …, "ham": …}' in written(id2label={"0": "good", "1": "bad"})[1]
    assert "# names: […]" in written()[1], "outputs without names"
    with pytest.raises(ModelError, match="id2label"):
        written(id2label={"0": "a", "2": "b"})


def test_a_damaged_config_is_no_bug(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        draft([table(tmp_path / "t.csv", 60, text=[TEXT], label=["a", "b"])], str(tmp_path / "m"), "mine")


def test_the_command_writes_once_and_names_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "my data.csv", 60, text=[TEXT], label=["a", "b"])
    checkpoint(tmp_path / "m")
    command = ["init", "my data.csv", "--model", "./m"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "lwc run my-data.yaml" in done.output
    before = Path("my-data.yaml").read_text()
    again = CliRunner().invoke(app, command)
    assert isinstance(again.exception, RecipeError)
    assert Path("my-data.yaml").read_text() == before
    assert CliRunner().invoke(app, [*command, "--force"]).exit_code == 0


def test_names_of_recipes() -> None:
    assert named_after("/x/Büro & more.csv.gz") == "B-ro-more"
    assert named_after("___.csv") == "mine"
