"""Loading, building, saving, tokenizing: complete checkpoints, labels by name, no random weights unseen."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny, tokens
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from lwc.core.errors import LwcError, MissingDependency, ModelError
from lwc.core.store import file_digest
from lwc.models.batches import batches, encode
from lwc.models.families import family_of
from lwc.models.forward.predict import predict
from lwc.models.load import build_from_config, check_weights, load_classifier, load_tokenizer, save_checkpoint
from lwc.models.positions import check_shapes
from lwc.models.source import checkpoint_folder, resolve_source
from lwc.models.tokenizer import train_wordpiece
from lwc.recipe import FromConfig, Shape
from lwc.tasks.endpoint import Exported
from lwc.tasks.text_endpoint import TextEndpoint

TEXTS = ["good thing that works", "bad broken thing", "great product, would buy again", "awful: it never worked"]
NAMES = ["other", "great"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_wordpiece(TEXTS * 5, 200, 24)


def small(tokenizer: Any, norm: str = "pre", seed: int = 1) -> Any:
    settings = FromConfig(kind="config", blocks=3, hidden=16, heads=2, vocab_size=200, norm=norm, max_length=24)
    return build_from_config(settings, tokenizer, NAMES, seed)


@pytest.fixture
def saved(tokenizer: Any, tmp_path: Path) -> Path:
    save_checkpoint(small(tokenizer, "post"), tokenizer, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_from_config_is_seeded_and_saved_whole(tokenizer: Any, tmp_path: Path, norm: str) -> None:
    model = small(tokenizer, norm)
    other = small(tokenizer, norm).state_dict()
    assert all(torch.equal(value, other[name]) for name, value in model.state_dict().items())
    reseeded = small(tokenizer, norm, 2).state_dict()
    assert any(not torch.equal(value, reseeded[name]) for name, value in model.state_dict().items())
    save_checkpoint(model, tokenizer, tmp_path)
    data = batches(encode(load_tokenizer(tmp_path), TEXTS, 24), np.zeros(4), 2, length_bucketed=True, seed=None)
    # Stock classes, and the very tokenizer and names.
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    np.testing.assert_allclose(predict(again, data), predict(model, data), atol=1e-6)
    assert again.config.id2label == {0: "other", 1: "great"}
    assert again.config.label2id == {"other": 0, "great": 1}
    assert AutoTokenizer.from_pretrained(tmp_path)(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    assert not list(tmp_path.glob("*.bin"))


def test_pre_norm_model_pools_by_mean_and_attends_fully(tokenizer: Any) -> None:
    config = small(tokenizer).config
    assert config.classifier_pooling == "mean"
    assert set(config.layer_types) == {"full_attention"}
    assert family_of(small(tokenizer)).protected == (0,)


def test_wordpiece_knows_the_train_split_only() -> None:
    one = train_wordpiece(["aaa bbb ccc"] * 5, 200, 16)
    assert one.unk_token_id in one("zzz")["input_ids"]
    ids = one("aaa bbb")["input_ids"]
    assert ids[0] == one.cls_token_id
    assert ids[-1] == one.sep_token_id
    assert one.decode(ids, skip_special_tokens=True) == "aaa bbb"


VOCABULARY = """
import json
from lwc.models.tokenizer import train_wordpiece
texts = [f"ab{a} {a}ba xx{b}yy" for a in "pqrstuvw" for b in "klmnop"]
print(json.dumps(train_wordpiece(texts, 200, 16).get_vocab(), sort_keys=True))
"""


def test_wordpiece_is_the_same_in_every_process() -> None:
    """A resumed run trains it again: other ids under restored weights would be noise that nothing reports."""
    runs = {
        subprocess.run([sys.executable, "-c", VOCABULARY], check=True, capture_output=True, text=True).stdout
        for _ in range(3)
    }
    assert len(runs) == 1
    vocabulary = json.loads(runs.pop())
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))


def test_only_the_five_special_tokens_are_special(tokenizer: Any) -> None:
    assert sorted(tokenizer.all_special_tokens) == ["[CLS]", "[MASK]", "[PAD]", "[SEP]", "[UNK]"]
    assert set(tokenizer.added_tokens_encoder) == set(tokenizer.all_special_tokens)
    assert tokenizer.decode(tokenizer("##a broken")["input_ids"], skip_special_tokens=True).endswith("broken")


def test_long_short_and_empty_texts(tokenizer: Any) -> None:
    """600 tokens on a 24-token model is cut and counted; one token and none at all run."""
    exactly = " ".join(["good"] * 22)
    encoded = encode(tokenizer, ["good " * 600, "good", "", exactly], 24)
    assert [len(ids) for ids in encoded.ids] == [24, 3, 2, 24]
    assert encoded.truncated == 1
    assert encoded.ids[0][-1] == tokenizer.sep_token_id
    logits = predict(small(tokenizer), batches(encoded, np.zeros(4), 4, length_bucketed=True, seed=None))
    assert np.isfinite(logits).all()


def test_missing_backbone_weights_are_an_error(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    name = next(key for key in weights if "layer.1.attention.self.query.weight" in key)
    del weights[name]
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="weights are not in the checkpoint"):
        load_classifier(saved)


def test_wrong_prefix_is_not_loaded_as_random_weights(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    renamed = {f"other.{key}": value for key, value in weights.items()}
    save_file(renamed, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="weights are not in the checkpoint"):
        load_classifier(saved)


def test_a_backbone_without_head_gets_a_new_one(saved: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(saved).save_pretrained(tmp_path / "backbone")
    model = load_classifier(tmp_path / "backbone", ["a", "b", "c"])
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.classifier.out_features == 3
    assert next(model.parameters()).dtype == torch.float32


def test_another_number_of_classes_gets_a_new_head(saved: Path) -> None:
    model = load_classifier(saved, ["a", "b", "c"])
    assert model.classifier.out_features == 3


def test_permuted_labels_are_mapped_by_name(saved: Path) -> None:
    """The same names in another order: logits follow the names, not the positions."""
    data = batches(tokens(6), np.zeros(6), 3, length_bucketed=True, seed=None)
    plain = predict(load_classifier(saved), data)
    swapped = load_classifier(saved, ["great", "other"])
    assert swapped.config.id2label == {0: "great", 1: "other"}
    np.testing.assert_allclose(predict(swapped, data)[:, ::-1], plain, atol=1e-6)


@pytest.mark.parametrize("model_type", ["roberta", "electra", "distilbert", "modernbert", "deberta-v2"])
def test_permuted_labels_on_other_heads(model_type: str, tmp_path: Path) -> None:
    model = tiny(model_type)
    model.config.id2label = {0: "x", 1: "y", 2: "z"}
    model.config.label2id = {"x": 0, "y": 1, "z": 2}
    model.save_pretrained(tmp_path)
    data = batches(tokens(4), np.zeros(4), 4, length_bucketed=True, seed=None)
    swapped = load_classifier(tmp_path, ["z", "x", "y"])
    np.testing.assert_allclose(predict(swapped, data), predict(model, data)[:, [2, 0, 1]], atol=1e-6)


def test_checksum(saved: Path) -> None:
    digest = file_digest(saved / "model.safetensors")
    check_weights("mine", saved, digest)
    with pytest.raises(ModelError, match=r"mine: model\.safetensors has SHA-256"):
        check_weights("mine", saved, "0" * 64)
    with pytest.raises(ModelError, match="of a folder or a package") as caught:
        check_weights("some/hub-id", Path("some/hub-id"), digest)
    assert "model.revision" in caught.value.hint
    (saved / "model.safetensors").rename(saved / "model-q8.gguf")
    check_weights("mine", saved, digest)


def test_a_checkpoint_that_was_a_regressor_becomes_a_classifier(tmp_path: Path) -> None:
    """Triton's repository and transformers' own loss both go by ``problem_type``."""
    model = tiny("bert")
    model.config.problem_type, model.config.numbers = "regression", [1.0, 2.0]
    model.save_pretrained(tmp_path / "before")
    load_classifier(tmp_path / "before", ["x", "y", "z"]).save_pretrained(tmp_path / "after")
    config = json.loads((tmp_path / "after" / "config.json").read_text())
    assert config.get("problem_type") is None
    assert "numbers" not in config


@pytest.mark.parametrize(("model_type", "reads"), [("bert", 40), ("roberta", 38), ("camembert", 38), ("gpt2", 40)])
def test_shapes_longer_than_the_model_has_positions_for_are_told(model_type: str, reads: int) -> None:
    model = tiny(model_type, max_position_embeddings=40, pad_token_id=1)
    shapes = (Shape(batch=1, length=8), Shape(batch=2, length=64))
    with pytest.raises(ModelError, match=f"has 2×64, the model reads at most {reads} tokens"):
        check_shapes(model, shapes)
    check_shapes(model, shapes[:1])


def test_positions_that_are_computed_have_no_end() -> None:
    check_shapes(tiny("modernbert", max_position_embeddings=40), (Shape(batch=1, length=64),))


def test_truncated_weights_are_a_clear_error(saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_classifier(saved)


def test_pickled_weights_are_refused(saved: Path) -> None:
    torch.save(load_file(saved / "model.safetensors"), saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        load_classifier(saved)


def test_unknown_architecture_is_a_clear_error(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["model_type"] = "no-such-type"
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError):
        load_classifier(saved)


def test_missing_tokenizer_is_a_clear_error(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    shutil.copy(saved / "model.safetensors", tmp_path / "bare")
    shutil.copy(saved / "config.json", tmp_path / "bare")
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(tmp_path / "bare")


def test_sources(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_source(str(saved)) == str(saved)
    assert resolve_source("owner/name") == "owner/name"
    for wrong in ("./nothing/here", str(tmp_path)):
        with pytest.raises(ModelError):
            resolve_source(wrong)
    with pytest.raises(MissingDependency, match="not installed"):
        resolve_source("package:no_such_module_at_all")
    package = tmp_path / "carries_weights"
    shutil.copytree(saved, package / "inner")
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve_source("package:carries_weights") == str(package / "inner")


def test_hub_without_network_is_a_clear_error() -> None:
    with pytest.raises(LwcError) as caught:
        checkpoint_folder("no-such-owner/no-such-model")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
def test_special_tokens_that_only_other_files_name_are_saved_and_served(tmp_path: Path, file: str) -> None:
    """transformers adds them when it reads the checkpoint; the server reads tokenizer.json alone."""
    base, saved = tmp_path / "base", tmp_path / "saved"
    train_wordpiece(["good bad it works"], 100, 32).save_pretrained(base)
    whole, config = (json.loads((base / name).read_text()) for name in ("tokenizer.json", "tokenizer_config.json"))
    special = {name: config.pop(name) for name in list(config) if name.endswith("_token")}
    special["additional_special_tokens"] = ["<URL>"]
    (base / "tokenizer.json").write_text(json.dumps({**whole, "added_tokens": []}))
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    (base / file).write_text(json.dumps({**(config if file == "tokenizer_config.json" else {}), **special}))
    graph = Exported(tmp_path / "graph.onnx", ("input_ids", "attention_mask"), {"logits": (-1, 3)})
    tiny("bert").config.save_pretrained(base)
    with pytest.raises(ModelError, match=r"the server would read 'a |no padding token"):
        TextEndpoint().front(base, graph, "reviews")
    save_checkpoint(tiny("bert"), load_tokenizer(base), saved)
    TextEndpoint().front(saved, graph, "reviews")
    assert '"<URL>"' in (saved / "tokenizer.json").read_text()
