"""A WordPiece tokenizer trained on the train split (Schuster & Nakajima 2012; BERT's set-up)."""

from __future__ import annotations

import unicodedata
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
_LATIN = "\u024f"
"""The last letter of the Latin alphabets, without their accents."""
_FEW = 0.01


def _normalizer(texts: Sequence[str]) -> BertNormalizer:
    """Lower case without accents, as in BERT; with all marks if over 1% of the texts have one on another script's
    letter: there, stripping them would change words (\u3070 and \u306f, Hindi vowels)."""
    marked = sum(_has_marks(text) for text in texts if not text.isascii())
    return BertNormalizer(lowercase=True, strip_accents=False if marked > _FEW * len(texts) else None)


def _has_marks(text: str) -> bool:
    letter = ""
    for character in unicodedata.normalize("NFD", text):
        if character.isalpha():
            letter = character
        elif letter > _LATIN and unicodedata.category(character) == "Mn":
            return True
        elif not unicodedata.category(character).startswith("M"):
            letter = ""
    return False


def _alphabet(texts: Sequence[str], normalizer: BertNormalizer) -> tuple[list[str], list[str]]:
    """(characters, those that also stand inside words), most frequent ``ALPHABET_LIMIT``, in a fixed order."""
    splitter = BertPreTokenizer()
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


def _vocabulary(texts: Sequence[str], size: int, normalizer: BertNormalizer) -> dict[str, int]:
    """Train; equal texts give equal ids.

    The trainer numbers continuation pieces in the order of a randomly seeded hash map and breaks ties between merges
    by those numbers, so that two runs differ. Naming these pieces beforehand, as special tokens, fixes both.
    """
    alphabet, inside = _alphabet(texts, normalizer)
    trained = Tokenizer(WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg,unused-ignore]
    trained.normalizer = normalizer
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
    normalizer = _normalizer(texts)
    vocabulary = _vocabulary(texts, vocab_size, normalizer)
    # Built anew from the vocabulary: only the five real special tokens are special here.
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]", continuing_subword_prefix=PREFIX))
    tokenizer.normalizer = normalizer
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
