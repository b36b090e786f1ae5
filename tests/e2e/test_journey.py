"""The journey of a stranger: their fine-tuned checkpoint, their split, their class names, compressed and deployed."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from lwc.serving.triton.server import TritonServer

pytestmark = [pytest.mark.serving, pytest.mark.slow]

WORDS = {
    "POSITIVE": ("love", "great", "works", "perfect", "again"),
    "NEGATIVE": ("broke", "refund", "awful", "never", "waste"),
    "NEUTRAL": ("okay", "average", "fine", "usual", "so-so"),
}
# The head's order and spelling are others than the data's.
HEAD = ("neutral", "positive", "negative")
RECIPE = """\
schema_version: 1
name: mine
data:
  train: {kind: table, paths: [train.csv], columns: {body: Comment, label: Verdict}}
  test: {paths: [test.csv]}
  labels: {scheme: column}
model: {kind: pretrained, source: ./bert, max_length: 24}
train: skip
select: {blocks: [1, 2]}
recover: {epochs: 4, batch_size: 16, learning_rate: 1e-3}
verify: {seconds: 3, users: 2}
gates: [{metric: served.ratios.blocks, op: ">=", value: 2}]
"""


def rows(count: int, seed: int) -> list[tuple[int, str, str, str, float]]:
    """Number, text with markup as people paste it, class, and columns that nobody asked for."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        label = list(WORDS)[number % 3]
        others = [word for name, words in WORDS.items() if name != label for word in words]
        words = [*random.choice(WORDS[label], 4), *random.choice(others, 1), f"item{number % 17}"]
        text = "<br />".join(random.permutation(words).tolist()) + ' &amp; "more", done'
        found.append((number, text, label, "web", float(random.integers(1, 6))))
    return found


def write(path: Path, content: list[tuple[int, str, str, str, float]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "Comment", "Verdict", "channel", "price"])
        writer.writerows(content)


def fine_tuned(folder: Path, texts: list[str], labels: list[str]) -> None:
    """A BERT trained with plain transformers, without lwc."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
    tokenizer.normalizer = normalizers.BertNormalizer()  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)  # type: ignore[assignment]
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=24, **{f"{name}_token": token for name, token in names.items()}
    )
    torch.manual_seed(3)
    model = BertForSequenceClassification(BertConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=24, id2label=dict(enumerate(HEAD)),
        label2id={name: index for index, name in enumerate(HEAD)},
    ))  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    wanted = torch.tensor([HEAD.index(label.lower()) for label in labels])
    for epoch in range(25):
        for part in torch.randperm(len(texts), generator=torch.Generator().manual_seed(epoch)).split(32):
            inputs = fast([texts[row] for row in part], padding=True, truncation=True, return_tensors="pt")
            inputs.pop("token_type_ids", None)
            model(**inputs, labels=wanted[part]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.save_pretrained(folder)
    fast.save_pretrained(folder)


def plainly(folder: Path, texts: list[str]) -> list[str]:
    """What plain transformers answers, text by text as the data stage cleans it."""
    from transformers import pipeline

    answer = pipeline("text-classification", model=str(folder), device="cpu")
    return [str(one["label"]).upper() for one in answer(texts, truncation=True, max_length=24)]


def lwc(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lwc.cli.main", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=500, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stranger's folder after `lwc run`."""
    place = tmp_path_factory.mktemp("stranger")
    from lwc.data.cleaning import clean

    train, test = rows(400, 1), rows(150, 2)
    write(place / "train.csv", train)
    write(place / "test.csv", test)
    fine_tuned(place / "bert", [clean(row[1]) for row in train], [row[2] for row in train])
    (place / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    done = lwc("run", "recipe.yaml", cwd=place)
    assert done.returncode == 0, done.stderr
    (place / "said").write_text(done.stderr)
    return place


def report(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "runs" / "mine" / "report.json").read_text()))


def questions(folder: Path) -> tuple[list[str], list[str]]:
    with (folder / "test.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    return [row["Comment"] for row in found], [row["Verdict"] for row in found]


def test_the_base_is_theirs_to_the_last_digit(folder: Path) -> None:
    from lwc.data.cleaning import clean

    texts, labels = questions(folder)
    answers = plainly(folder / "bert", [clean(text) for text in texts])
    base = report(folder)["quality"]["base"]
    assert base["n"] == len(texts), "no row of their test file is left out"
    assert base["accuracy"]["value"] == accuracy_score(labels, answers)
    assert base["macro_f1"]["value"] == pytest.approx(f1_score(labels, answers, average="macro"), abs=1e-12)
    assert base["accuracy"]["value"] > 0.8, "there is something to scramble"


def test_the_compressed_model_keeps_their_names_and_their_choice(folder: Path) -> None:
    found = report(folder)
    assert found["selection"]["removed"] == [1, 2]
    model = folder / "runs" / "mine" / "model"
    texts, _ = questions(folder)
    config = json.loads((model / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    assert {name.lower() for name in config["id2label"].values()} == set(HEAD)
    said = (folder / "said").read_text()
    assert "runs/mine/model" in said
    assert set(plainly(model, texts[:9])) <= set(WORDS)


def test_it_is_served_under_their_names_compared_and_deployed(folder: Path) -> None:
    texts, labels = questions(folder)
    repository = folder / "triton_models" / "mine"
    with TritonServer(repository) as server:
        body = json.dumps({"text": texts[0]}).encode()
        url = f"http://{server.http_url}/v2/models/mine/generate"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            label = json.load(answer)["label"]
        assert label.upper() in WORDS
        (folder / "questions.txt").write_text("\n".join(text for text in texts[:40]), encoding="utf-8")
        options = ("--model", "mine", "--url", server.http_url, "--seconds", "2", "--min-requests", "10")
        done = lwc("loadtest", "questions.txt", *options, cwd=folder)
        assert done.returncode == 0, done.stderr
    again = lwc("run", "recipe.yaml", "--set", "name=other", cwd=folder)
    assert again.returncode == 0, again.stderr
    compared = lwc("compare", "runs/mine", "runs/other", cwd=folder)
    assert compared.returncode == 0, compared.stderr
    assert "p95" in compared.stdout
    done = lwc("deploy", repository, "--to", folder / "live", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "live").is_dir()
    right = [one["served"]["accuracy"]["value"] if isinstance(one["served"]["accuracy"], dict) else
             one["served"]["accuracy"] for one in report(folder)["serving"].values()]  # fmt: skip
    assert min(right) > 0.7, "served answers are judged by their names"
    assert len(labels) == 150


@pytest.mark.parametrize("spelling", ["good,bad,none", "LABEL_0,LABEL_1,LABEL_2"])
def test_other_names_stop_the_run_with_both_sides(folder: Path, tmp_path: Path, spelling: str) -> None:
    names = spelling.split(",")
    config = json.loads((folder / "bert" / "config.json").read_text())
    for file in (folder / "bert").iterdir():
        (tmp_path / "bert").mkdir(exist_ok=True)
        (tmp_path / "bert" / file.name).write_bytes(file.read_bytes())
    config["id2label"] = {str(index): name for index, name in enumerate(names)}
    config["label2id"] = {name: index for index, name in enumerate(names)}
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config))
    for name in ("train.csv", "test.csv", "recipe.yaml"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    done = lwc("run", "recipe.yaml", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "POSITIVE" in done.stderr
    assert names[0] in done.stderr
    assert "bug" not in done.stderr
