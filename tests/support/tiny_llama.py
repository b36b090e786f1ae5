"""A tiny trained LLaMA on disk whose attention reads positions, and texts it knows."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from tiny_models import VOCAB
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PERIOD = 3
BLOCKS = 3


def periodic(rows: int, length: int = 12, seed: int = 0) -> torch.Tensor:
    """Token ids (rows, length) that repeat with a period: what comes next stands three positions back."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.randint(4, VOCAB, (rows, PERIOD), generator=generator)
    return unit.repeat(1, length // PERIOD)


def periodic_texts(rows: int, length: int = 12, seed: int = 0) -> list[str]:
    """`periodic` as words of the tiny tokenizer."""
    return [" ".join(map(str, row)) for row in periodic(rows, length, seed).tolist()]


def random_llama(blocks: int = BLOCKS, seed: int = 0) -> Any:
    """Untrained: blocks that matter, knowledge of nothing."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=blocks, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=64, max_position_embeddings=64, bos_token_id=2, eos_token_id=3, pad_token_id=None,
        tie_word_embeddings=True, initializer_range=0.15,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def save(model: Any, folder: Path) -> Path:
    """Model and tokenizer, whose words are the numbers of its tokens."""
    numbers = {str(number): number for number in range(VOCAB) if number != 1}
    words = Tokenizer(WordLevel({**numbers, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = WhitespaceSplit()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder)
    return folder


@functools.cache
def trained_folder(steps: int = 400) -> Path:
    """One saved model a test process, trained until position decides its answers."""
    model = random_llama().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for step in range(steps):
        ids = periodic(32, seed=1000 + step)
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    folder = Path(tempfile.mkdtemp(prefix="tiny-llama-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return save(model.eval(), folder)
