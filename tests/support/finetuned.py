"""Checkpoints and tables of a user: a tiny classifier with named classes, and texts that it tells apart."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny
from transformers import AutoModelForSequenceClassification

from lwc.models.tokenizer import train_wordpiece
from lwc.recipe import Recipe

WORDS = {
    "negative": ("bad", "broken", "awful", "refund", "never", "poor"),
    "neutral": ("fine", "plain", "usual", "average", "so", "okay"),
    "positive": ("good", "love", "great", "works", "again", "superb"),
}
CLASSES = tuple(WORDS)
LENGTH = 24


def text(number: int, name: str) -> str:
    """Nine words of a class; no two texts are alike, and no two are near duplicates."""
    words = WORDS[name]
    spread = [words[(number // 6**place + place) % len(words)] for place in range(6)]
    return " ".join([*spread, f"n{number % 97}", f"m{number % 89}", f"k{number % 83}"])


def write(path: Path, rows: Iterable[Sequence[object]], header: Sequence[str] = ("text", "label")) -> Path:
    """A CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def rows(count: int, start: int = 0, label: Callable[[str], object] = str) -> list[tuple[str, object]]:
    """(text, label) of each class in turn."""
    return [(text(n, CLASSES[n % 3]), label(CLASSES[n % 3])) for n in range(start, start + count)]


def checkpoint(folder: Path, names: Sequence[str] | None, order: Sequence[int] = (0, 1, 2), steps: int = 40) -> Path:
    """A tiny BERT, trained with plain transformers; output i is class ``order[i]`` of `CLASSES`, called ``names[i]``.

    With no ``order`` it gives one number: 0, 1 or 2.
    """
    texts = [one for one, _ in rows(240, 1000)]
    tokenizer = train_wordpiece(texts, 400, LENGTH)
    outputs: dict[str, Any] = {"num_labels": len(order) or 1}
    if names is not None:
        outputs |= {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 40}
    model = tiny("bert", 3, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **still, **outputs)
    ids = torch.tensor([n % 3 for n in range(1000, 1240)])
    wanted = torch.tensor([list(order).index(one) for one in range(3)])[ids] if order else ids.float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    for step in range(steps):
        chosen = slice(step % 10 * 24, step % 10 * 24 + 24)
        inputs = tokenizer(texts[chosen], padding=True, truncation=True, return_tensors="pt")
        optimizer.zero_grad()
        model(**inputs, labels=wanted[chosen]).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def reordered(model: Path, folder: Path, order: Sequence[int]) -> Path:
    """A copy of a `checkpoint` whose output i is what output ``order[i]`` was, under the names that it had."""
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][list(order)].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def renamed(model: Path, folder: Path, names: Sequence[str] | None) -> Path:
    """A copy whose outputs have other names; None: those of transformers."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in ("id2label", "label2id")}
    if names is None:
        config |= {"num_labels": 3}
    else:
        config |= {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def plain_logits(folder: Path, texts: Sequence[str]) -> torch.Tensor:
    """Logits (N, C) of a checkpoint in plain transformers."""
    from transformers import AutoTokenizer

    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
    with torch.inference_mode():
        return model(**inputs).logits  # type: ignore[no-any-return]


def recipe(model: Path, data: dict[str, Any], /, **sections: Any) -> Recipe:
    """A short recipe of a user with a checkpoint: it is the base as it is."""
    small = {"calibration": 24, **data}
    short = {"epochs": 1, "batch_size": 16, "precision": "fp32"}
    return Recipe.model_validate(
        {
            "schema_version": 1,
            "name": "mine",
            "data": small,
            "model": {"kind": "pretrained", "source": str(model), "max_length": LENGTH},
            "train": "skip",
            "recover": short,
            "target": {"ratio": 1.5, "of": "blocks"},
            "score": {"methods": [{"method": "block_influence"}]},
            "evaluate": {"bootstrap": 100},
            **sections,
        }
    )


def table(path: Path, **columns: Any) -> dict[str, Any]:
    """A source of texts and labels."""
    return {"kind": "table", "paths": [str(path)], "columns": {"label": "label", **columns}}


def quiet(*_: str) -> None:
    """Nobody watches."""
