"""A small classifier of texts with its tokenizer, and texts to score and train it on, as a user of the API has them."""

from __future__ import annotations

from typing import Any

from tiny_models import tiny
from transformers import AutoModelForCausalLM

from lwc.models.tokenizer import train_wordpiece

NAMES = {0: "bad", 1: "good"}
_WORDS = {"good": ("works well", "great value", "love this thing"), "bad": ("broken after a day", "bad", "waste of it")}
LABELS = ["good" if number % 2 else "bad" for number in range(60)]
TEXTS = [f"{_WORDS[label][number % 3]} number {number}" for number, label in enumerate(LABELS)]


def classifier(model_type: str = "bert", blocks: int = 4, **changes: Any) -> tuple[Any, Any]:
    """(model, tokenizer): random weights, classes good and bad, texts of up to 40 tokens."""
    tokenizer = train_wordpiece(TEXTS, 120, 40)
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    names = {"num_labels": 2, "id2label": NAMES, "label2id": {name: index for index, name in NAMES.items()}}
    return tiny(model_type, blocks, **{**sizes, **names, **changes}), tokenizer


def language_model(blocks: int = 4) -> tuple[Any, Any]:
    """(model, tokenizer): a LLaMA whose tokenizer has an end-of-text token and, as usual, no padding token."""
    tokenizer = train_wordpiece(TEXTS, 120, 40)
    tokenizer.eos_token, tokenizer.pad_token = "[SEP]", None
    return tiny("llama", blocks, task=AutoModelForCausalLM, vocab_size=len(tokenizer), pad_token_id=None), tokenizer
