"""``train: skip``: the base is the user's checkpoint, its very weights, and its figures are those of transformers."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import finetuned
import numpy as np
import pytest
import torch
from finetuned import CLASSES, quiet, rows, table, write
from safetensors.torch import load_file, save_file
from sklearn.metrics import accuracy_score, f1_score
from tiny_llama import periodic_texts, trained_folder
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from lwc.core.errors import ModelError, RecipeError
from lwc.core.machine import describe
from lwc.core.store import read_json
from lwc.pipeline.run import plan, run
from lwc.pipeline.stages import STAGES
from lwc.recipe import Recipe
from lwc.recipe.file import parse_recipe
from lwc.recipe.variants import variants
from lwc.report.build import build_report


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its classes are in another order than the data's, and in capitals."""
    order = (1, 2, 0)
    names = [CLASSES[one].upper() for one in order]
    return finetuned.checkpoint(tmp_path_factory.mktemp("user") / "model", names, order, steps=12)


@pytest.fixture(scope="module")
def number(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A regressor: 0, 1 or 2."""
    return finetuned.checkpoint(tmp_path_factory.mktemp("user") / "number", None, (), steps=12)


def own_split(folder: Path, label: Any = str) -> dict[str, Any]:
    """Train and test files; some test rows are in train too, some twice, and some are mislabelled."""
    test = rows(60, 200, label)
    test = [*test, *rows(3, 0, label), test[0], *((text, label(CLASSES[0])) for text, _ in rows(12, 400, label))]
    train = write(folder / "train.csv", rows(90, 0, label))
    return {
        "train": table(train),
        "test": {"paths": str(write(folder / "test.csv", test))},
        "labels": {"scheme": "column"},
    }


def read_test(data: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Texts and labels of the test file, as anybody reads it."""
    import pandas as pd

    found = pd.read_csv(data["test"]["paths"], dtype=str)
    return list(found["text"]), list(found["label"])


def same_weights(one: Path, other: Path) -> bool:
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_base_is_the_checkpoint_and_its_figures_those_of_plain_transformers(model: Path, tmp_path: Path) -> None:
    data = own_split(tmp_path)
    recipe = finetuned.recipe(model, data)
    found = run(recipe, tmp_path / "runs", quiet, until="evaluate")
    base = found["train"].path / "model"
    assert same_weights(model, base)
    texts, labels = read_test(data)
    plain = finetuned.plain_logits(model, texts)
    assert torch.equal(finetuned.plain_logits(base, texts), plain), "to the last digit"
    ids = json.loads((model / "config.json").read_text())["label2id"]
    wanted, answers = [ids[one.upper()] for one in labels], plain.argmax(-1).tolist()
    expected = {"accuracy": accuracy_score(wanted, answers), "macro_f1": f1_score(wanted, answers, average="macro")}
    assert 0.4 < expected["accuracy"] < 1.0, "a test that tells figures apart"
    quality = read_json(found["evaluate"].path / "evaluation.json")["quality"]["base"]
    assert quality["n"] == len(texts) == 76
    assert {name: quality[name]["value"] for name in expected} == expected
    metrics = read_json(found["train"].path / "metrics.json")
    assert (metrics["steps"], metrics["skipped"], metrics["n_train"]) == (0, True, metrics["n_train"])
    report = build_report(recipe, {name: one.path for name, one in found.items()}, describe(), {}, tmp_path / "out")
    assert report["recipe"]["resolved"]["train"] == "skip"
    for page in ("report.md", "report.html"):
        assert "The base is your checkpoint, not trained here." in (tmp_path / "out" / page).read_text()
    assert any("3 of the 76 test rows also occur in your train split" in one for one in report["verdict"]["warnings"])


def test_a_regressor_is_kept_too(number: Path, tmp_path: Path) -> None:
    data = own_split(tmp_path, CLASSES.index)
    recipe = finetuned.recipe(number, data, task={"kind": "regression"})
    found = run(recipe, tmp_path / "runs", quiet, until="evaluate")
    assert same_weights(number, found["train"].path / "model")
    texts, labels = read_test(data)
    plain = finetuned.plain_logits(number, texts)
    assert torch.equal(finetuned.plain_logits(found["train"].path / "model", texts), plain)
    quality = read_json(found["evaluate"].path / "evaluation.json")["quality"]["base"]
    error = np.abs(plain[:, 0].numpy().astype(np.float64) - np.array(labels, dtype=np.float64)).mean()
    assert quality["mean_absolute_error"]["value"] == pytest.approx(error, rel=1e-6)
    assert quality["n"] == len(texts)


def test_a_language_model_is_kept_too(tmp_path: Path) -> None:
    model = Path(shutil.copytree(trained_folder(), tmp_path / "llama"))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    tokenizer.eos_token = "3"
    tokenizer.save_pretrained(model)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)  # as everybody reads it from now on
    lines = {"train": periodic_texts(40, seed=3), "test": periodic_texts(12, seed=9)}
    train, test = (
        write(tmp_path / f"{name}.csv", [(one,) for one in found], ("text",)) for name, found in lines.items()
    )
    data = {"train": {"kind": "table", "paths": str(train)}, "test": {"paths": str(test)}, "labels": {"scheme": "none"}}
    recipe = finetuned.recipe(model, data, task={"kind": "causal_lm"})
    found = run(recipe, tmp_path / "runs", quiet, until="evaluate")
    base = found["train"].path / "model"
    assert same_weights(model, base)
    ids = torch.arange(4, 20)[None]
    logits = [AutoModelForCausalLM.from_pretrained(one).eval()(input_ids=ids).logits for one in (model, base)]
    assert torch.equal(*logits)
    quality = read_json(found["evaluate"].path / "evaluation.json")["quality"]["base"]
    stream = [token for one in lines["test"] for token in (*tokenizer(one)["input_ids"], 3)]
    rows = [stream[start : start + 24] for start in range(0, len(stream), 24)]
    plain = AutoModelForCausalLM.from_pretrained(model).eval()
    with torch.inference_mode():
        losses = [(float(plain(input_ids=(one := torch.tensor([row])), labels=one).loss), len(row) - 1) for row in rows]
    mean = sum(loss * count for loss, count in losses) / sum(count for _, count in losses)
    assert quality["perplexity"]["value"] == pytest.approx(math.exp(mean), rel=1e-5)
    assert read_json(found["train"].path / "metrics.json")["steps"] == 0


def test_the_plan_and_the_sweep_know_of_it(model: Path, tmp_path: Path) -> None:
    recipe = finetuned.recipe(model, own_split(tmp_path), sweep={"ratios": [1.5, 3]})
    train = next(one for one in plan(recipe, tmp_path / "runs") if one.stage.name == "train")
    assert str(train) == "takes your checkpoint as the base, without training"
    made = variants(recipe)
    assert [one.train.skip for one in made] == [True, True]
    stage = next(one for one in STAGES if one.name == "train")
    assert stage.config(made[0]) == stage.config(made[1]) == stage.config(recipe)
    assert stage.config(recipe)["train"] == "skip"
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def beheaded(model: Path, folder: Path, parts: tuple[str, ...]) -> Path:
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    kept = {name: one for name, one in load_file(model / "model.safetensors").items() if not name.startswith(parts)}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_checkpoint_without_its_head_cannot_be_kept(model: Path, number: Path, tmp_path: Path) -> None:
    data = own_split(tmp_path)
    headless = beheaded(model, tmp_path / "headless", ("classifier",))
    with pytest.raises(ModelError, match="it has no classification head, and train: skip trains none") as caught:
        run(finetuned.recipe(headless, data), tmp_path / "runs", quiet, until="train")
    assert "name a fine-tuned checkpoint" in caught.value.hint
    half = beheaded(model, tmp_path / "half", ("bert.pooler",))
    with pytest.raises(ModelError, match="weights are not in the checkpoint"):
        run(finetuned.recipe(half, data), tmp_path / "runs", quiet, until="train")
    with pytest.raises(ModelError, match=r"1 outputs \(LABEL_0\), the data 3 classes"):
        run(finetuned.recipe(number, data), tmp_path / "runs", quiet, until="train")
    numbers = own_split(tmp_path, CLASSES.index)
    with pytest.raises(ModelError, match=r"3 outputs \(NEUTRAL, POSITIVE, NEGATIVE\), a regressor has one"):
        run(finetuned.recipe(model, numbers, task={"kind": "regression"}), tmp_path / "runs", quiet, until="train")


BASE = "{schema_version: 1, name: t, target: {ratio: 2, of: blocks}, "
ITEMS = "task: {kind: next_item}, data: {source: {kind: table, paths: t.csv}}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: {kind: config}, train: skip", "train: skip keeps a trained checkpoint, and model.kind config starts"),
        (f"model: {{kind: config}}, {ITEMS}, train: skip", "train: skip keeps a trained checkpoint"),
        ("model: {kind: pretrained, source: m, head: new}, train: skip", "keeps the checkpoint's head, and model.head"),
        ("model: {kind: pretrained, source: m}, train: {epochs: 0}", "0 epochs train nothing; write `train: skip`"),
        ("model: {kind: pretrained, source: m}, train: {skip: true}", "write train: skip, without settings"),
        ("model: {kind: pretrained, source: m}, train: never", "settings of the training, or the one word skip"),
    ],
)
def test_what_cannot_be_kept_is_told_with_what_to_write(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse_recipe(f"{BASE}{text}}}", "r.yaml")


def test_the_schema_has_the_word() -> None:
    found = Recipe.model_json_schema()["properties"]["train"]["anyOf"]
    assert {"const": "skip", "type": "string"} in found
