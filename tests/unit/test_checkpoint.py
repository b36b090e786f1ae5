"""A checkpoint's config, weights and tokenizer, compared before anything is loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tiny_models import tiny, tokens
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from lwc.core.errors import LwcError, MissingDependency, ModelError
from lwc.models.batches import batches
from lwc.models.causal import load_causal, locate_causal
from lwc.models.checkpoint import check_checkpoint
from lwc.models.families import CAUSAL_LM, FAMILIES
from lwc.models.forward.predict import predict
from lwc.models.head_labels import match_labels
from lwc.models.load import load_classifier, load_tokenizer
from lwc.models.source import checkpoint_folder, resolve_source

WEIGHTS = "model.safetensors"
CLASSES = ["bad", "fair", "good"]


def save_tokenizer(folder: Path, tokens: int = 64) -> None:
    vocabulary = {word: index for index, word in enumerate(["[UNK]", "[PAD]", *(f"w{i}" for i in range(tokens - 2))])}
    inner = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)


def named(model: Any, names: list[str]) -> Any:
    model.config.id2label, model.config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    return model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    named(tiny("bert"), CLASSES).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture
def saved(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def config(**changes: Any) -> Callable[[Path], None]:
    """Change fields of config.json; None removes one."""

    def change(folder: Path) -> None:
        found = {**json.loads((folder / "config.json").read_text()), **changes}
        (folder / "config.json").write_text(json.dumps({k: v for k, v in found.items() if v is not None}))

    return change


def weights(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    return lambda folder: save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, {"format": "pt"})


def named_as(change: Callable[[str], str]) -> Callable[[Path], None]:
    return weights(lambda found: {change(name): value for name, value in found.items()})


def written(name: str, content: str | bytes) -> Callable[[Path], None]:
    raw = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(raw) and None


def without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def renamed(name: str, other: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).rename(folder / other) and None


def cut(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-100])


def sharded(folder: Path) -> None:
    names = list(load_file(folder / WEIGHTS))
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    placed = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(names)}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": placed}))


def both(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


ADAPTER = written("adapter_config.json", json.dumps({"peft_type": "LORA", "base_model_name_or_path": "me/base"}))
FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    # Files.
    "empty": (without(WEIGHTS, "config.json"), "no config.json"),
    "adapter": (both(ADAPTER, without(WEIGHTS, "config.json")), "a LORA adapter of me/base, not a whole model"),
    "adapter beside a model": (ADAPTER, "a LORA adapter that is not merged"),
    "no weights": (without(WEIGHTS), f"no {WEIGHTS}"),
    "bin": (renamed(WEIGHTS, "pytorch_model.bin"), r"pytorch_model\.bin is pickled .* never loads a pickle"),
    "lightning": (renamed(WEIGHTS, "last.ckpt"), r"last\.ckpt is a pickle"),
    "tensorflow": (renamed(WEIGHTS, "tf_model.h5"), r"tf_model\.h5 is TensorFlow weights"),
    "shards without an index": (
        both(renamed(WEIGHTS, "model-00001-of-00002.safetensors"),
             lambda folder: (folder / "model-00002-of-00002.safetensors").write_bytes(b"")),
        r"none of which is named .* and no model\.safetensors\.index\.json"),
    "other name": (renamed(WEIGHTS, "weights.safetensors"), r"weights\.safetensors, none of which is named"),
    "cut off": (cut, r"model\.safetensors: [\d,]+ bytes, its header describes [\d,]+"),
    "no header": (written(WEIGHTS, b"x" * 200), "200 bytes without a safetensors header"),
    "empty file": (written(WEIGHTS, b""), "0 bytes without a safetensors header"),
    "pointer": (written(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "a Git LFS pointer"),
    "shards": (sharded, r"1 of 2 files are missing: model-00002-of-00002"),
    "index": (both(without(WEIGHTS), written(f"{WEIGHTS}.index.json", "{}")), "no weight_map"),
    # config.json.
    "no JSON": (written("config.json", "{'a': 1}"), r"config\.json: not JSON"),
    "a list": (written("config.json", "[1]"), "a JSON list, not an object"),
    "no type": (config(model_type=None), "no model_type"),
    "unknown type": (config(model_type="vit"), r"config\.json: model type 'vit' is not supported"),
    "refused type": (config(model_type="t5"), "model type 't5': block 0 owns"),
    "quantised": (config(quantization_config={"quant_method": "gptq", "bits": 4}), r"quantised \(gptq\)"),
    "no method": (config(quantization_config={"bits": 4}), r"quantised \(no method named\)"),
    # Weights.
    "int8": (
        weights(lambda f: {k: v.astype(np.int8) if k.endswith("query.weight") else v for k, v in f.items()}),
        r"4 of 73 weights are quantised, e\.g\. .*query\.weight \(I8\)",
    ),
    "packed": (
        named_as(lambda name: name.replace("value.weight", "value.qweight")), "4 of 73 weights are quantised"
    ),
    "data parallel": (named_as(lambda name: f"module.{name}"), r"73 of 73 weights .* wrapper \(module\.\)"),
    "compiled": (named_as(lambda name: f"_orig_mod.{name}"), r"wrapper \(_orig_mod\.\)"),
    "compiled blocks": (named_as(lambda name: name.replace(".attention.", "._orig_mod.attention.")), "40 of 73"),
    "lightning names": (named_as(lambda name: f"model.{name}"), r"under model\.bert\.encoder\.layer, a bert has them"),
    "bare lightning": (named_as(lambda name: name.replace("bert.", "model.")), r"under model\.encoder\.layer"),
    "another type": (named_as(lambda name: name.replace("bert.", "roberta.")), r"under roberta\.encoder\.layer"),
    "no blocks": (named_as(lambda name: name.replace("encoder.layer", "h")), "no block of a bert"),
    "more blocks": (config(num_hidden_layers=2), "num_hidden_layers: 2, .* 4 blocks: nothing would use blocks 2, 3"),
    "fewer blocks": (config(num_hidden_layers=6), "num_hidden_layers: 6, .* 4 blocks: blocks 4, 5 are missing"),
    "far too many blocks": (config(num_hidden_layers=10**9), "blocks 4, 5, 6, .* 11 … are missing"),
    "a gap": (weights(lambda f: {k: v for k, v in f.items() if "layer.1." not in k}), "3 blocks: blocks 1 are"),
    "per block": (config(layer_types=["full_attention"] * 3), "layer_types has 3 entries, num_hidden_layers is 4"),
    "vocabulary": (config(vocab_size=60), "vocab_size: 60, .*word_embeddings.weight is 64 × 16"),
    "width": (config(hidden_size=32), "hidden_size: 32, .* is 64 × 16"),
    "positions": (config(max_position_embeddings=20), "max_position_embeddings: 20, .* is 40 × 16"),
    # Head.
    "labels from 1": (config(id2label={"1": "bad", "2": "good"}), "id2label numbers its 2 labels 1, 2;"),
    "labels with a gap": (config(id2label={"0": "bad", "2": "good"}), "id2label numbers its 2 labels 0, 2;"),
    "a list of labels": (config(id2label=["bad", "good"]), "id2label is a JSON list"),
    "numbers for labels": (config(id2label={"0": 1, "1": 2, "2": 3}), "id2label names an output 1, which is no text"),
    "equal labels": (config(id2label={"0": "bad", "1": "bad", "2": "good"}), "two outputs the same name"),
    "contradiction": (config(label2id={"bad": 2, "fair": 1, "good": 0}), "label2id says output 2"),
    "other count": (config(id2label=None, label2id=None, num_labels=10**9), "num_labels is 1000000000, the head has 3"),
    "too few labels": (config(id2label={"0": "bad", "1": "fair"}), r"2 labels \(bad, fair\), classifier\.weight has 3"),
    # Tokenizer.
    "no tokenizer": (without("tokenizer.json", "tokenizer_config.json"), "no tokenizer"),
    "damaged tokenizer": (written("tokenizer.json", '{"version": "1.0", "model"'), r"tokenizer\.json: cannot be read"),
    "damaged settings": (written("tokenizer_config.json", "{"), r"tokenizer_config\.json: not JSON"),
    "added tokens": (lambda folder: save_tokenizer(folder, 66), "tokenizer has 66 tokens, the model embeddings for 64"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_one_message(name: str, saved: Path) -> None:
    damage, message = FAULTS[name]
    damage(saved)
    with pytest.raises(ModelError, match=message) as caught:
        check_checkpoint(saved)
    assert caught.value.hint
    assert str(saved) in caught.value.message


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: None,
        config(num_hidden_layers=None, hidden_size=None, vocab_size=None),
        named_as(lambda name: name.removeprefix("bert.")),
        weights(lambda found: {k: v for k, v in found.items() if not k.startswith(("classifier", "bert.pooler"))}),
        weights(lambda found: {k: v.astype(np.float16) for k, v in found.items()}),
        # Old checkpoints carry this buffer, and those of pretraining another head.
        weights(lambda found: {**found, "bert.embeddings.position_ids": np.arange(40), "cls.bias": np.zeros(64)}),
        config(id2label={"0": "good", "1": "bad", "2": "fair"}, label2id=None),
        config(label2id={"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}),
        lambda folder: save_tokenizer(folder, 50),
        written("pytorch_model.bin", b"not read"),
    ],
    ids=["whole", "defaults", "bare", "no head", "fp16", "old", "order", "no label2id", "small", "with a pickle"],
)  # fmt: skip
def test_what_is_sound_passes_without_a_word(change: Callable[[Path], None], saved: Path) -> None:
    change(saved)
    check_checkpoint(saved)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_passes(model_type: str, tmp_path: Path) -> None:
    """Whole, and as a bare encoder or decoder; and the table knows what stands before the blocks' names."""
    model = tiny(model_type)
    assert FAMILIES[model_type].prefix == model.base_model_prefix
    for name, one in (("head", named(model, CLASSES)), ("bare", model.base_model)):
        one.save_pretrained(tmp_path / name)
        save_tokenizer(tmp_path / name)
        check_checkpoint(tmp_path / name)
    if FAMILIES[model_type].decoder:
        tiny(model_type, task=AutoModelForCausalLM).save_pretrained(tmp_path / "lm")
        save_tokenizer(tmp_path / "lm")
        check_checkpoint(tmp_path / "lm")  # a language model may become a classifier
        check_checkpoint(tmp_path / "lm", task=CAUSAL_LM)
    else:
        with pytest.raises(ModelError, match=f"model type '{model_type}' does not do causal-lm"):
            check_checkpoint(tmp_path / "head", task=CAUSAL_LM)


def test_a_torch_free_check() -> None:
    code = "import sys, lwc.models.checkpoint; print({'torch', 'numpy', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize(
    ("own", "order"),
    [
        (["GOOD", "Fair", "bad"], [2, 1, 0]),
        (["good ", "bad", "fair"], [1, 2, 0]),
        (["LABEL_0", "LABEL_1", "LABEL_2"], None),
        (["good", "bad"], None),
        (["good", "bad", "awful"], None),
        (["good", "GOOD", "bad"], None),
    ],
)
def test_labels_match_by_name_without_case(own: list[str], order: list[int] | None) -> None:
    assert match_labels(own, CLASSES).order == order


def test_exact_names_come_before_names_without_case() -> None:
    assert match_labels(["a", "A"], ["A", "a"]).order == [1, 0]
    assert match_labels(["LABEL_1", "LABEL_0"], ["0", "1"]).order == [1, 0]


def test_a_head_in_capitals_and_another_order_gives_the_same_classes(saved: Path) -> None:
    data = batches(tokens(6), np.zeros(6), 3, length_bucketed=True, seed=None)
    plain = predict(load_classifier(saved, CLASSES), data)
    config(id2label={"0": "BAD", "1": "FAIR", "2": "GOOD"}, label2id=None)(saved)
    swapped = load_classifier(saved, ["good", "bad", "fair"])
    np.testing.assert_allclose(predict(swapped, data), plain[:, [2, 0, 1]], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (weights(lambda f: {**f, "classifier.bias": f["classifier.bias"] * np.nan}), "1 weights contain NaN"),
        (config(num_hidden_layers=None), "weights are not in the checkpoint"),  # BERT's own default is 12
        (config(intermediate_size=48), r"weights have another shape .*dense\.bias: 32, not 48"),
        (config(num_attention_heads=3), "cannot be loaded"),
        (config(hidden_act="no-such-function"), "cannot be loaded: KeyError"),
        (weights(lambda f: {k: v for k, v in f.items() if k != "classifier.weight"}), "1 weights are not in the ch"),
    ],
)  # fmt: skip
def test_what_only_loading_shows(change: Callable[[Path], None], message: str, saved: Path) -> None:
    change(saved)
    with pytest.raises(ModelError, match=message):
        load_classifier(saved)


def test_blocks_that_a_defaulted_depth_would_leave_out(tmp_path: Path) -> None:
    """GPT-2's default depth is 12: a config that does not say 13 would load the first 12."""
    tiny("gpt2", 13).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    config(n_layer=None)(tmp_path)
    check_checkpoint(tmp_path)
    with pytest.raises(ModelError, match=r"the model uses none of \d+ weights of blocks, e\.g\. transformer\.h\.12"):
        load_classifier(tmp_path)


@pytest.fixture
def language_model(tmp_path: Path) -> Path:
    tiny("llama", 2, task=AutoModelForCausalLM).save_pretrained(tmp_path / "lm")
    save_tokenizer(tmp_path / "lm")
    return tmp_path / "lm"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (weights(lambda f: {k: v for k, v in f.items() if k != "lm_head.weight"}), "contain no lm_head.weight"),
        (
            both(
                config(tie_word_embeddings=True), weights(lambda f: {**f, "lm_head.weight": np.zeros((60, 16), "f4")})
            ),
            r"lm_head\.weight is 60 × 16, model\.embed_tokens\.weight is 64 × 16",
        ),
        (config(tie_word_embeddings=True), "output matrix is not the embeddings"),
        (config(num_hidden_layers=1), "nothing would use blocks 1"),
        (config(quantization_config={"quant_method": "awq"}), r"quantised \(awq\)"),
        (renamed(WEIGHTS, "pytorch_model.bin"), r"pytorch_model\.bin is pickled"),
        (both(ADAPTER, without(WEIGHTS, "config.json")), "a LORA adapter of me/base"),
    ],
)
def test_language_models(change: Callable[[Path], None], message: str, language_model: Path) -> None:
    change(language_model)
    with pytest.raises(ModelError, match=message):
        load_causal(locate_causal(str(language_model)))


def test_an_adapter_is_named_before_config_json_is_missed(saved: Path) -> None:
    both(ADAPTER, without(WEIGHTS, "config.json"))(saved)
    with pytest.raises(ModelError, match="a LORA adapter"):
        resolve_source(str(saved))


def test_the_conversion_of_a_pickle_works(saved: Path) -> None:
    reference = load_file(saved / WEIGHTS)
    torch.save({name: torch.from_numpy(value) for name, value in reference.items()}, saved / "pytorch_model.bin")
    (saved / WEIGHTS).unlink()
    run_hint(saved)
    assert all(np.array_equal(value, reference[name]) for name, value in load_file(saved / WEIGHTS).items())


@pytest.mark.parametrize(
    "wrap", [lambda name: f"module.{name}", lambda name: f"model.{name}", lambda name: name.replace("bert.", "model.")]
)
def test_the_renaming_of_wrapped_weights_works(wrap: Callable[[str], str], saved: Path) -> None:
    named_as(wrap)(saved)
    run_hint(saved)
    load_classifier(saved, CLASSES)


def run_hint(folder: Path) -> None:
    """Run the command in the hint of the one fault, after which there is none."""
    with pytest.raises(ModelError) as caught:
        check_checkpoint(folder)
    code = caught.value.hint.split('python -c "')[1].rsplit('"', 1)[0]
    exec(code, {})
    check_checkpoint(folder)


@pytest.mark.parametrize("raised", [ImportError("No module named 'sentencepiece'"), RuntimeError("gencode 7")])
def test_a_sentencepiece_vocabulary_names_the_package(
    raised: Exception, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absent, or made for a newer protobuf."""

    def absent(name: str) -> None:
        raise raised

    monkeypatch.setattr("lwc.models.tokenizer_files.import_module", absent)
    renamed("tokenizer.json", "spm.model")(saved)
    for check in (check_checkpoint, load_tokenizer):
        with pytest.raises(MissingDependency, match=r"spm\.model: a SentencePiece vocabulary") as caught:
            check(saved)
        assert str(raised) in caught.value.message
        assert "pip install" in caught.value.hint


def test_a_hub_id_is_the_folder_in_the_cache(
    whole: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without network: what earlier downloads left; a revision by its name."""
    commit = "0" * 40
    cached = tmp_path / "hub" / "models--owner--name"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    shutil.copytree(whole, cached / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = checkpoint_folder("owner/name")
    assert folder.name == commit
    check_checkpoint(folder)
    assert checkpoint_folder(str(saved)) == saved
    with pytest.raises(MissingDependency, match="owner/other: not a local folder, and not reachable"):
        checkpoint_folder("owner/other")


def test_a_damaged_tokenizer_is_no_bug(saved: Path) -> None:
    (saved / "tokenizer.json").write_text("{}")
    with pytest.raises(LwcError, match="no usable tokenizer"):
        load_tokenizer(saved)
