"""Random texts that cleaning, truncation and label names can trip over: a real server answers each as it was measured.

The whole line runs on them, and verification sends the texts as the source has them.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from grid import kept
from histories import recipe as shop
from histories import write_chain
from measured_figures import TIMES
from tiny_models import tiny
from transformers import AutoModelForCausalLM

from lwc.core.machine import describe
from lwc.data.cleaning import clean
from lwc.data.splits import load_labels, load_split
from lwc.models.batches import batches, encode
from lwc.models.forward.predict import predict
from lwc.models.load import load_model, load_tokenizer
from lwc.models.tokenizer import train_wordpiece
from lwc.pipeline.run import run
from lwc.recipe import Recipe
from lwc.report.build import build_report
from lwc.serving.triton.repository import ModelFiles
from lwc.serving.verify.run import Packaged, verify

pytestmark = [pytest.mark.serving, pytest.mark.slow]

MAX_LENGTH = 16
WORDS = [
    "good",
    "bad",
    "it",
    "works",
    "broke",
    "returned",
    "again",
    "money",
    "value",
    "box",
    "sound",
    "screen",
    "cable",
    "fast",
    "slow",
    "heavy",
    "light",
    "cheap",
]
# What cleaning removes, replaces or composes.
ODDITIES = ("<br />", "<b>", "</b>", "&quot;", "&amp;lt;i&amp;gt;", "&#39;", "\x00", "\u200b", "\ufeff", "\t\n", "   ",
            "e\u0301", "\u00e9", "\U0001f469\u200d\U0001f680", "<a href='x'>", "&nbsp;", "\r\n", "[SEP]")  # fmt: skip
LABELS = [" Great (4–5 ☆)", "no, THANKS", "NULL", "2", "y/n%20"]


def messy(draw: random.Random, count: int, labels: Sequence[str], side: str) -> dict[str, str]:
    """Different texts, most longer than the model reads, with a label that the end which is not cut off decides."""
    texts: dict[str, str] = {}
    while len(texts) < count:
        pieces = [draw.choice(ODDITIES if draw.random() < 0.3 else WORDS) for _ in range(draw.randint(3, 50))]
        middle = draw.choice(("", " ")).join(pieces) + f" {len(texts)}"
        first, last = (draw.randrange(len(WORDS)) for _ in range(2))
        told = (last if side == "left" else first) * len(labels) // len(WORDS)
        texts[f"{WORDS[first]} {middle} {WORDS[last]}"] = labels[told]
    return texts


def checkpoint(folder: Path, texts: Sequence[str], side: str, task: str) -> None:
    tokenizer = train_wordpiece([clean(text) for text in texts], 300, MAX_LENGTH)
    if task == "causal_lm":
        tokenizer.eos_token = "[SEP]"
        model = tiny("llama", 3, vocab_size=len(tokenizer), pad_token_id=0, task=AutoModelForCausalLM)
    else:
        outputs = {"num_labels": 1} if task == "regression" else {}
        model = tiny("modernbert", 3, vocab_size=len(tokenizer), pad_token_id=0, **outputs)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"  # transformers does not save a side that was set later
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "truncation_side": side}))


def recipe_of(root: Path, task: str, texts: dict[str, str], fields: Sequence[str] = ("body",)) -> Recipe:
    rows = [{"text": text, "label": label} for text, label in texts.items()]
    if "title" in fields:  # of any length, also none
        rows = [
            {"headline": row["text"][: 3 * (at % 20)], "text": row["text"][3 * (at % 20) :], "label": row["label"]}
            for at, row in enumerate(rows)
        ]
    (root / "reviews.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = {"body": "text"} if task == "causal_lm" else {"body": "text", "label": "label"}
    columns |= {"title": "headline"} if "title" in fields else {}
    return Recipe.model_validate({
        "schema_version": 1,
        "name": "odd",
        "task": {"kind": task},
        "data": {
            "source": {"kind": "table", "paths": [str(root / "reviews.jsonl")], "columns": columns},
            "text_fields": list(fields),
            "labels": {"scheme": "none" if task == "causal_lm" else "column"},
            "near_duplicate_threshold": 1.0, "calibration": 16, "split": {"test": 0.5},
        },
        "model": {"kind": "pretrained", "source": str(root / "model"), "max_length": MAX_LENGTH,
                  "head": "own" if task == "regression" else "new"},
        "train": {"epochs": 6, "batch_size": 8, "learning_rate": 3e-3, "patience": 6, "precision": "fp32"},
        "recover": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-4, "precision": "fp32"},
        "score": {"methods": [{"method": "block_influence"}]},
        "target": {"ratio": "1.5x", "of": "blocks"},
        "evaluate": {"bootstrap": 100},
        "export": {"latency_repeats": 3, "latency_shapes": [{"batch": 1, "length": 12}]},
        "verify": {"users": 2, "seconds": 3, "warmup_seconds": 0.5, "min_requests": 20},
    })  # fmt: skip


def answers_changed(data: Path, model_dir: Path, side: str) -> tuple[int, int]:
    """Test texts whose answer changes where they are not cleaned, and where they are cut at the other end."""
    test = load_split(data, "test")
    sent = pd.read_parquet(data / "test_raw.parquet").set_index("id")["text"]
    raw = [sent.get(number, text) for number, text in zip(test.ids, test.texts, strict=True)]
    model, tokenizer = load_model(model_dir), load_tokenizer(model_dir)

    def answers(texts: list[str]) -> Any:
        encoded = encode(tokenizer, texts, MAX_LENGTH)
        return predict(model, batches(encoded, test.labels, 32, length_bucketed=True, seed=None)).round(4)

    measured, uncleaned = answers(test.texts), answers(raw)
    tokenizer.truncation_side = "left" if side == "right" else "right"
    return int((uncleaned != measured).any(axis=1).sum()), int((answers(test.texts) != measured).any(axis=1).sum())


@pytest.mark.parametrize(
    ("task", "side", "labels"),
    [
        ("classification", "left", LABELS),
        pytest.param("classification", "right", LABELS[:2], marks=pytest.mark.grid),  # as every other run cuts
        ("regression", "left", ["1.0", "2.0", "3.50", "5"]),
        pytest.param("causal_lm", "left", ["none"], marks=pytest.mark.grid),
    ],
)
def test_a_text_is_answered_as_it_was_measured(tmp_path: Path, task: str, side: str, labels: list[str]) -> None:
    texts = messy(random.Random(f"{task} {side}"), 200, labels, side)
    checkpoint(tmp_path / "model", list(texts), side, task)
    recipe = recipe_of(tmp_path, task, texts)
    results = run(recipe, tmp_path / "runs", lambda *_: None)
    folders = {name: result.path for name, result in results.items()}
    samples = pd.read_parquet(folders["verify"] / "samples.parquet")
    assert set(samples["text"]) <= set(texts), "sent as the source has them"
    assert samples["offline"].nunique() > 1, "one answer to everything proves nothing"
    if task != "causal_lm":
        changed = answers_changed(folders["data"], folders["recover"] / "model", side)
        assert min(changed) > 20, "these texts must be sensitive to cleaning and truncation"
        named = float if task == "regression" else str
        assert set(map(named, samples["label"])) <= set(map(named, load_labels(folders["data"])))
    report = build_report(recipe, folders, describe(), TIMES, tmp_path / "report")
    for protocol in ("http", "grpc"):
        served = report["serving"][protocol]["served"]
        assert served["covered_all"]
        assert (served["matches_offline"], served["different"]) == (1.0, [])
    assert [gate["passed"] for gate in report["gates"] if gate["standing"]] == [True, True]


def test_a_server_that_does_not_clean_fails_the_run_without_a_gate(tmp_path: Path) -> None:
    texts = messy(random.Random(3), 200, LABELS[:3], "left")
    checkpoint(tmp_path / "model", list(texts), "left", "classification")
    recipe = recipe_of(tmp_path, "classification", texts)
    assert recipe.gates == ()
    results = run(recipe, tmp_path / "runs", lambda *_: None, until="package")
    folders = {name: result.path for name, result in results.items()}
    shutil.copytree(folders["package"] / "repository", tmp_path / "repository")
    shipped = tmp_path / "repository" / "odd" / "1" / "cleaning.py"
    shipped.write_text(
        shipped.read_text().replace("def clean(", "def unused(") + "\n\ndef clean(text):\n    return text\n"
    )
    base = ModelFiles(folders["export"] / "base" / "model.onnx", folders["train"] / "model")
    packaged = Packaged(tmp_path / "repository", folders["data"], folders["evaluate"], base)
    verify(recipe, packaged, tmp_path / "verify", lambda *_: None)
    report = build_report(recipe, {**folders, "verify": tmp_path / "verify"}, describe(), TIMES, tmp_path / "report")
    assert not report["verdict"]["passed"]
    assert [gate["passed"] for gate in report["gates"]] == [False, False]
    one = report["serving"]["http"]["served"]["different"][0]
    assert one["offline"] != one["served"]
    assert any(f"row {one['id']} is {one['served']!r} served" in text for text in report["verdict"]["alerts"])


@pytest.mark.parametrize("first", kept(["title", "body"], ["body"]))
def test_titles_are_sent_by_themselves_and_joined_as_they_were_measured(tmp_path: Path, first: str) -> None:
    fields = ("title", "body") if first == "title" else ("body", "title")
    texts = messy(random.Random(5), 200, LABELS[:3], "left")
    checkpoint(tmp_path / "model", list(texts), "left", "classification")
    recipe = recipe_of(tmp_path, "classification", texts, fields)
    results = run(recipe, tmp_path / "runs", lambda *_: None, until="package")
    folders = {name: result.path for name, result in results.items()}
    base = ModelFiles(folders["export"] / "base" / "model.onnx", folders["train"] / "model", fields=fields)
    packaged = Packaged(folders["package"] / "repository", folders["data"], folders["evaluate"], base)
    serving = verify(recipe, packaged, tmp_path / "verify", lambda *_: None)
    samples = pd.read_parquet(tmp_path / "verify" / "samples.parquet")
    assert set(samples["title"] + samples["text"]) <= set(texts), "sent as the source has them"
    assert samples["title"].eq("").any()
    for protocol in ("http", "grpc"):
        served = serving[protocol]["served"]
        assert (served["covered_all"], served["matches_offline"], served["different"]) == (True, 1.0, [])
    shutil.copytree(folders["package"] / "repository", tmp_path / "repository")
    config = tmp_path / "repository" / "odd" / "config.pbtxt"
    written = config.read_text()
    assert ",".join(fields) in written
    config.write_text(written.replace(",".join(fields), ",".join(reversed(fields))))
    other = Packaged(tmp_path / "repository", folders["data"], folders["evaluate"], base)
    serving = verify(recipe, other, tmp_path / "other", lambda *_: None)
    assert serving["http"]["served"]["matches_offline"] < 1.0, "the order of the fields must matter to these texts"


@pytest.mark.grid
def test_a_history_is_answered_as_it_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("implicit")
    write_chain(tmp_path / "shop.csv")
    # Ids that a spreadsheet, a URL or a number parser would change.
    odd = [
        "007",
        "7",
        "7.0",
        "1e3",
        "a,b",
        'say ""hi""',
        "A",
        "a",
        "ü/ä?#%20",
        "a  b",
        "True",
        "-1",
        "0x1F",
    ]
    content = (tmp_path / "shop.csv").read_text(encoding="utf-8")
    for number, name in enumerate(odd):
        content = content.replace(f"I{number:03d}ü", f'"{name}"')
    (tmp_path / "shop.csv").write_text(content, encoding="utf-8")
    recipe = shop(tmp_path / "shop.csv", export={"latency_repeats": 3, "latency_shapes": [{"batch": 1, "length": 8}]})
    recipe = recipe.model_copy(update={"verify": recipe.verify.model_copy(update={"seconds": 3.0})})
    results = run(recipe, tmp_path / "runs", lambda *_: None)
    folders = {name: result.path for name, result in results.items()}
    report = build_report(recipe, folders, describe(), TIMES, tmp_path / "report")
    samples = pd.read_parquet(folders["verify"] / "samples.parquet")
    sent = {item for history in samples["history"] for item in history}
    assert {name.replace('""', '"') for name in odd} <= sent
    for protocol in ("http", "grpc"):
        served = report["serving"][protocol]["served"]
        assert served["skipped_items"] == 0
        assert (served["matches_offline"], served["different"]) == (1.0, [])
