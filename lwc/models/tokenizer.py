"""A WordPiece tokenizer trained on the train split (Schuster & Nakajima 2012; BERT's set-up)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer
from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PREFIX = "##"
ALPHABET_LIMIT = 1000


def _alphabet(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """(characters, those that also stand inside words), most frequent ``ALPHABET_LIMIT``, in a fixed order."""
    normalizer, splitter = BertNormalizer(lowercase=True), BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    counts: Counter[str] = Counter()
    inside: set[str] = set()
    for word, count in words.items():
        for character in word:
            counts[character] += count
        inside.update(word[1:])
    kept = sorted(counts, key=lambda character: (-counts[character], character))[:ALPHABET_LIMIT]
    return sorted(kept), sorted(inside.intersection(kept))


def _vocabulary(texts: Sequence[str], size: int) -> dict[str, int]:
    """Train; equal texts give equal ids.

    The trainer numbers continuation pieces in the order of a randomly seeded hash map and breaks ties between merges
    by those numbers, so that two runs differ. Naming these pieces beforehand, as special tokens, fixes both.
    """
    alphabet, inside = _alphabet(texts)
    trained = Tokenizer(WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg,unused-ignore]
    trained.normalizer = BertNormalizer(lowercase=True)
    trained.pre_tokenizer = BertPreTokenizer()
    trainer = WordPieceTrainer(
        vocab_size=size, special_tokens=[*SPECIAL, *(PREFIX + character for character in inside)],
        initial_alphabet=alphabet, limit_alphabet=len(alphabet), continuing_subword_prefix=PREFIX,
        show_progress=False,
    )  # fmt: skip
    trained.train_from_iterator(texts, trainer)
    return dict(trained.get_vocab(with_added_tokens=True))


def train_wordpiece(texts: Sequence[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Train on these texts only; the result wraps a text as ``[CLS] … [SEP]``. Deterministic."""
    vocabulary = _vocabulary(texts, vocab_size)
    # Built anew from the vocabulary: only the five real special tokens are special here.
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]", continuing_subword_prefix=PREFIX))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.decoder = WordPieceDecoder(prefix=PREFIX)
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_length, padding_side="right",
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
