"""A small checkpoint with its ONNX file, and the configurations of a repository made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_models import tiny

from lwc.export.onnx import export_onnx
from lwc.models.load import save_checkpoint
from lwc.models.tokenizer import train_wordpiece
from lwc.serving.triton.config import parse

TEXTS = ["the product arrived on time", "a good thing that works", "a bad broken thing"] * 4
MAX_LENGTH = 40


def small_checkpoint(folder: Path) -> Path:
    """Write a BERT of one block and three labels with ``model.onnx`` beside it; returns the folder."""
    tokenizer = train_wordpiece(TEXTS, 80, MAX_LENGTH)
    model = tiny("bert", blocks=1, pad_token_id=0, vocab_size=len(tokenizer))
    save_checkpoint(model, tokenizer, folder)
    export_onnx(model, tokenizer, folder / "model.onnx")
    return folder


def configs(repository: Path) -> tuple[Any, Any]:
    """Of the text model ``r`` and of its token model."""
    text, tokens = (parse((repository / name / "config.pbtxt").read_text()) for name in ("r", "r_tokens"))
    return text, tokens
