"""A checkpoint that brings its own classes: none is scrambled, whatever they are called, or the run stops."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import finetuned
import pytest
from finetuned import CLASSES, quiet, renamed, reordered, table, write
from sklearn.metrics import f1_score

from lwc.core.errors import ModelError, RecipeError
from lwc.core.store import read_json
from lwc.data.splits import load_labels, load_split
from lwc.models.head import Head
from lwc.models.head_labels import class_names, match_labels
from lwc.pipeline.run import plan, run
from lwc.recipe import Labels
from lwc.recipe.file import parse_recipe
from lwc.report.data_warnings import data_warnings
from lwc.tasks.text_wire import as_answered

STARS = {"negative": 1, "neutral": 3, "positive": 5}


ORDER = (2, 0, 1)
"""Of a head: no swap, so that a mapping in the wrong direction shows."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, ...], Path]:
    """One trained checkpoint, with its outputs in several orders."""
    root = tmp_path_factory.mktemp("models")
    first = finetuned.checkpoint(root / "first", CLASSES)
    return {order: reordered(first, root / "".join(map(str, order)), order) for order in permutations(range(3))}


def data_of(tmp_path: Path, stars: bool, labels: dict[str, Any]) -> dict[str, Any]:
    path = write(tmp_path / "rows.csv", finetuned.rows(180, label=STARS.__getitem__ if stars else str))
    columns = {"rating": "label", "label": None} if stars else {}
    return {"source": table(path, **columns), "labels": {"scheme": "three_class" if stars else "column", **labels}}


SPELT = {
    "as they are": (str, {}),
    "capitals": (str.upper, {}),
    "map of the classes": (lambda name: name[:3].upper(), {name: name[:3].upper() for name in CLASSES}),
    "map of the outputs": (lambda name: f"LBL {name[2]}", {f"LBL {name[2]}": name for name in CLASSES}),
    "map in lower case": (lambda name: name[:3].upper(), {name[:3].lower(): name for name in CLASSES}),
}


@pytest.mark.parametrize("stars", [True, False])
@pytest.mark.parametrize("spelling", SPELT)
def test_no_class_is_scrambled(models: dict[tuple[int, ...], Path], spelling: str, stars: bool, tmp_path: Path) -> None:
    """The base answers the test rows as it did where it was trained, in the order of its own outputs."""
    spell, mapping = SPELT[spelling]
    own = [spell(CLASSES[one]) for one in ORDER]
    model = renamed(models[ORDER], tmp_path / "model", own)
    made = finetuned.recipe(model, data_of(tmp_path, stars, {"map": mapping}))
    found = run(made, tmp_path / "runs", quiet, until="train")
    names, test = load_labels(found["data"].path), load_split(found["data"].path, "test")
    answers = finetuned.plain_logits(found["train"].path / "model", test.texts).argmax(-1).tolist()
    score = f1_score(test.labels, answers, average="macro")
    assert score == 1.0, score
    config = read_json(found["train"].path / "model" / "config.json")
    assert [config["id2label"][str(n)] for n in range(3)] == names
    renamed_by_map = spelling in ("map of the outputs", "map in lower case")
    assert names == ([CLASSES[one] for one in ORDER] if renamed_by_map else own)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("spelling", SPELT)
def test_every_order_and_spelling_is_matched_by_name(order: tuple[int, ...], spelling: str) -> None:
    spell, mapping = SPELT[spelling]
    own = [spell(CLASSES[one]) for one in order]
    for scheme in ("three_class", "column"):
        labels = Labels.model_validate({"scheme": scheme, "map": mapping})
        with_head = Head("m", own).labels(labels)
        assert with_head.names is not None
        assert [with_head.names.index(with_head.name(CLASSES[one])) for one in order] == [0, 1, 2]
        assert Head("m", own).order(labels, with_head.names) == [0, 1, 2]


@pytest.mark.parametrize(("train", "stars"), [("skip", True), ("skip", False), ({"epochs": 1}, True)])
@pytest.mark.parametrize(
    ("own", "labels", "said", "hint"),
    [
        (["POS", "NEG", "NEU"], {}, r"POS, NEG, NEU, the data's classes negative, neutral, positive", "map: {POS: …"),
        (["positive", "neg", "neutral"], {}, "positive, neg, neutral, the data's classes", "map: {neg: …}"),
        (None, {}, r"no names \(LABEL_0, LABEL_1, LABEL_2\), the data's classes are neg", "labels.names: [negative,"),
    ],
)  # fmt: skip
def test_classes_that_cannot_be_matched_stop_the_run_and_show_both_sides(
    models: dict[tuple[int, ...], Path], own: list[str] | None, labels: dict[str, Any], said: str, hint: str,
    train: Any, stars: bool, tmp_path: Path,
) -> None:  # fmt: skip
    model = renamed(models[0, 1, 2], tmp_path / "model", own)
    made = finetuned.recipe(model, data_of(tmp_path, stars, labels), train=train)
    with pytest.raises(ModelError, match=said) as caught:
        run(made, tmp_path / "runs", quiet, until="train")
    assert hint in caught.value.hint
    assert ("model.head: new" in caught.value.hint) == (train != "skip")


@pytest.mark.parametrize("stars", [True, False])
def test_names_of_the_recipe_name_the_outputs_of_a_head_without_names(
    models: dict[tuple[int, ...], Path], stars: bool, tmp_path: Path
) -> None:
    model = renamed(models[ORDER], tmp_path / "model", None)
    for ways in (
        {"names": [CLASSES[one] for one in ORDER]},
        {"map": {f"LABEL_{n}": CLASSES[one] for n, one in enumerate(ORDER)}},
    ):
        made = finetuned.recipe(model, data_of(tmp_path, stars, ways))
        found = run(made, tmp_path / "runs", quiet, until="train")
        assert load_labels(found["data"].path) == [CLASSES[one] for one in ORDER]
        assert read_json(found["train"].path / "metrics.json")["validation"]["accuracy"] == 1.0


def test_names_of_the_recipe_are_the_order_of_the_outputs(models: dict[tuple[int, ...], Path], tmp_path: Path) -> None:
    """Honoured also where the head has another order: then its outputs change places."""
    wanted = ["neutral", "positive", "negative"]
    model = renamed(models[2, 1, 0], tmp_path / "model", [CLASSES[one].upper() for one in (2, 1, 0)])
    made = finetuned.recipe(model, data_of(tmp_path, True, {"names": wanted}))
    found = run(made, tmp_path / "runs", quiet, until="train")
    assert load_labels(found["data"].path) == wanted
    config = read_json(found["train"].path / "model" / "config.json")
    assert list(config["id2label"].values()) == wanted
    assert read_json(found["train"].path / "metrics.json")["validation"]["accuracy"] == 1.0


def test_another_map_is_another_base(models: dict[tuple[int, ...], Path], tmp_path: Path) -> None:
    """The map decides which output is which class: no result of another map is reused."""
    own = ["POS", "NEU", "NEG"]
    model = renamed(models[2, 1, 0], tmp_path / "model", own)
    names = {"names": list(CLASSES)}
    right, wrong = (dict(zip(own, classes, strict=True)) for classes in (CLASSES[::-1], CLASSES))
    data = {key: data_of(tmp_path, True, {**names, "map": one}) for key, one in (("right", right), ("wrong", wrong))}
    runs, scores = tmp_path / "runs", {}
    for key, one in data.items():
        found = run(finetuned.recipe(model, one), runs, quiet, until="train")
        scores[key] = read_json(found["train"].path / "metrics.json")["validation"]["accuracy"]
    assert scores["right"] == 1.0 > scores["wrong"]


def test_another_head_makes_the_data_anew(models: dict[tuple[int, ...], Path], tmp_path: Path) -> None:
    data, runs = data_of(tmp_path, True, {}), tmp_path / "runs"
    other = renamed(models[2, 1, 0], tmp_path / "other", CLASSES[::-1])
    run(finetuned.recipe(models[0, 1, 2], data), runs, quiet, until="data")
    (first, *_) = plan(finetuned.recipe(other, data), runs)
    assert not first.hit
    assert "the checkpoint's head" in first.reason


def test_a_head_for_other_classes_is_used_only_if_asked_away(
    models: dict[tuple[int, ...], Path], tmp_path: Path
) -> None:
    path = write(tmp_path / "two.csv", [(text, label) for text, label in finetuned.rows(180) if label != "neutral"])
    data = {"source": table(path), "labels": {"scheme": "column"}}
    with pytest.raises(ModelError, match=r"3 outputs \(negative, neutral, positive\), the data 2 classes"):
        run(finetuned.recipe(models[0, 1, 2], data, train={"epochs": 1}), tmp_path / "runs", quiet, until="train")
    fresh = {"kind": "pretrained", "source": str(models[0, 1, 2]), "max_length": 24, "head": "new"}
    made = finetuned.recipe(models[0, 1, 2], data, train={"epochs": 1}, model=fresh)
    assert load_labels(run(made, tmp_path / "runs", quiet, until="train")["data"].path) == ["negative", "positive"]


def test_a_new_head_is_new_though_the_checkpoint_has_one(models: dict[tuple[int, ...], Path], tmp_path: Path) -> None:
    model = renamed(models[2, 1, 0], tmp_path / "model", CLASSES[::-1])
    fresh = {"kind": "pretrained", "source": str(model), "max_length": 24, "head": "new"}
    made = finetuned.recipe(
        model, data_of(tmp_path, True, {}), train={"epochs": 0.1, "learning_rate": 1e-9}, model=fresh
    )
    found = run(made, tmp_path / "runs", quiet, until="train")
    assert load_labels(found["data"].path) == list(CLASSES), "the data's own order"
    assert read_json(found["train"].path / "metrics.json")["validation"]["accuracy"] < 0.9


def test_one_order_from_the_data_to_the_endpoint(models: dict[tuple[int, ...], Path], tmp_path: Path) -> None:
    """Predictions, both graphs, the repository's labels and what a load test compares."""
    import onnxruntime
    import pyarrow.parquet as pq

    own = [CLASSES[one].upper() for one in (2, 0, 1)]
    model = renamed(models[2, 0, 1], tmp_path / "model", own)
    made = finetuned.recipe(
        model,
        data_of(tmp_path, False, {}),
        export={"latency_repeats": 3, "latency_shapes": [{"batch": 1, "length": 8}]},
    )
    found = run(made, tmp_path / "runs", quiet, until="package")
    data, test = found["data"].path, load_split(found["data"].path, "test")
    assert load_labels(data) == read_json(found["evaluate"].path / "evaluation.json")["label_names"] == own
    listed = [path.read_text().split() for path in (found["package"].path / "repository").rglob("labels.txt")]
    assert [set(names) for names in listed] == [set(own)] * len(listed) != []
    assert all(names == own for names in listed)
    predicted = pq.read_table(found["evaluate"].path / "predictions.parquet")["base"].to_numpy()
    assert (predicted == test.labels).all()
    session = onnxruntime.InferenceSession(found["export"].path / "base" / "model.onnx")
    from transformers import AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(model)(test.texts, padding=True, return_tensors="np")
    logits = session.run(None, {one.name: inputs[one.name] for one in session.get_inputs()})[0]
    assert (logits.argmax(1) == test.labels).all()
    assert as_answered(["positive", "Neutral", "odd"], own) == {
        "positive": "POSITIVE",
        "Neutral": "NEUTRAL",
        "odd": "odd",
    }


def test_a_map_leads_from_either_side() -> None:
    stars, column = {"scheme": "binary"}, {"scheme": "column"}
    for labels, own, expected in (
        ({**stars, "map": {"POS": "positive", "NEG": "negative"}}, ["POS", "NEG"], ["positive", "negative"]),
        ({**stars, "map": {"positive": "POS", "negative": "NEG"}}, ["POS", "NEG"], ["POS", "NEG"]),
        ({**stars, "names": ["positive", "negative"]}, ["LABEL_0", "LABEL_1"], ["positive", "negative"]),
        # Values that change places: a class of the recipe is no name to be mapped.
        ({**column, "map": {"a": "b", "b": "a"}}, ["a", "b"], ["a", "b"]),
        ({**column, "names": ["0", "1"]}, ["LABEL_1", "LABEL_0"], ["LABEL_1", "LABEL_0"]),
    ):
        assert class_names(own, Labels.model_validate(labels)) == expected
    assert Labels(scheme="column", map={"a": "b", "b": "a"}).name("a") == "b"
    assert match_labels(["LABEL_1", "LABEL_0"], ["0", "1"]).order == [1, 0]
    twice = Labels(scheme="column", map={"x": "a", "y": "a"})
    with pytest.raises(ModelError, match="two outputs of its head one class"):
        Head("m", ["x", "y"]).labels(twice)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (
            "{scheme: three_class, names: [positive, negative]}",
            "the classes of scheme three_class are negative, neutral",
        ),
        ("{scheme: binary, map: {POS: postive}}", "'postive', which is no class of scheme binary: negative, positive"),
        ("{scheme: none, names: [a, b]}", "names is for labels"),
    ],
)
def test_names_that_cannot_be_honoured_are_refused(labels: str, said: str) -> None:
    base = "{schema_version: 1, name: t, model: {kind: config}, target: {ratio: 2, of: blocks}, data: {labels: "
    with pytest.raises(RecipeError, match=said):
        parse_recipe(f"{base}{labels}}}}}", "r.yaml")


def test_a_split_that_lwc_draws_for_a_checkpoint_with_a_head_is_warned_of(
    models: dict[tuple[int, ...], Path], tmp_path: Path
) -> None:
    said: list[str] = []
    data = data_of(tmp_path, True, {"map": {"Nobody": "positive"}})
    run(
        finetuned.recipe(models[0, 1, 2], data),
        tmp_path / "runs",
        lambda kind, _, text: said.append(f"{kind}: {text}"),
        "data",
    )
    assert any(line.startswith("warning: The checkpoint has a head for these labels, and lwc drew") for line in said)
    assert any('data.labels.map names "Nobody", which no row and no output' in line for line in said)
    assert data_warnings({"split_by": "random", "split_given": ["train", "test"], "head": ["a"]}, "regression") == []
    assert len(data_warnings({"split_by": "random"}, "causal_lm", skipped=True)) == 1


@pytest.mark.parametrize("known", [True, False])
def test_a_stream_takes_the_classes_of_the_head_too(
    models: dict[tuple[int, ...], Path], known: bool, tmp_path: Path
) -> None:
    own = [CLASSES[one].upper() if known else f"CLASS {one}" for one in ORDER]
    model = renamed(models[ORDER], tmp_path / "model", own)
    recipe = finetuned.recipe(model, {**data_of(tmp_path, False, {}), "ingest": {"shard_mib": 1}})
    if not known:
        with pytest.raises(
            ModelError, match="CLASS 2, CLASS 0, CLASS 1, the data's classes negative, neutral, positive"
        ):
            run(recipe, tmp_path / "runs", quiet, until="data")
        return
    found = run(recipe, tmp_path / "runs", quiet, until="train")
    assert load_labels(found["data"].path) == own
    assert read_json(found["data"].path / "quality.json")["head"] == own
    assert read_json(found["train"].path / "metrics.json")["validation"]["accuracy"] == 1.0
