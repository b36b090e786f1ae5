"""A checkpoint's tokenizer as its files describe it. Imports no torch."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from tokenizers import Tokenizer

from lwc.core.errors import MissingDependency, ModelError
from lwc.models.families import CLASSIFICATION
from lwc.models.saved import Fault, Saved

_SENTENCEPIECE = ("spm.model", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
_VOCABULARIES = ("vocab.txt", "vocab.json", "tokenizer.json")


def check_tokenizer(folder: Path) -> None:
    """Raise where the folder contains no tokenizer, or one that cannot be converted to a tokenizer.json here."""
    fault = tokenizer_fault(Saved(folder, CLASSIFICATION))
    if fault is not None:
        raise ModelError(*fault)


def tokenizer_fault(saved: Saved) -> Fault | None:
    """No tokenizer, or settings that are not JSON."""
    saved.read("tokenizer_config.json")
    spm = next((name for name in _SENTENCEPIECE if saved.has(name)), None)
    if saved.has("tokenizer.json") or any(map(saved.has, _VOCABULARIES)):
        return None
    if spm is None:
        return Fault(
            f"{saved.folder}: no tokenizer: no tokenizer.json in this folder",
            "save the tokenizer there: tokenizer.save_pretrained(folder)",
        )
    check_sentencepiece(saved.folder / spm)
    return None


def check_sentencepiece(path: Path) -> None:
    """Raise `MissingDependency` where the vocabulary ``path`` cannot be converted to a tokenizer.json here."""
    try:
        import_module("sentencepiece.sentencepiece_model_pb2")
    except Exception as error:  # absent, or made for another protobuf, which raises its own kind
        raise MissingDependency(
            f"{path}: a SentencePiece vocabulary without tokenizer.json; converting it needs the package "
            f"sentencepiece: {str(error).splitlines()[0]}",
            'pip install "sentencepiece<0.2.2"; newer ones need a newer protobuf than other packages here allow',
        ) from error


def vocabulary_fault(saved: Saved) -> Fault | None:
    """A damaged tokenizer.json, or one with more tokens than the model has embeddings for."""
    path = saved.folder / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        ids = Tokenizer.from_file(str(path)).get_vocab().values()
    except Exception as error:  # what tokenizers raises has no type of its own
        return Fault(f"{path}: cannot be read: {error}", "save the tokenizer again: tokenizer.save_pretrained(folder)")
    if saved.embeddings is None:
        return None
    return too_few_embeddings(path, max(ids, default=-1) + 1, saved.embeddings[1].shape[0])


def too_few_embeddings(place: Path | str, tokens: int, rows: int) -> Fault | None:
    """Tokens were added, the model was not resized: their ids are beyond the table."""
    if tokens <= rows:
        return None
    return Fault(
        f"{place}: the tokenizer has {tokens:,} tokens, the model embeddings for {rows:,}",
        "resize the model and save it again: model.resize_token_embeddings(len(tokenizer)); or remove the added tokens",
    )
