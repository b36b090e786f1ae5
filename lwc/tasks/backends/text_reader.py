"""Texts to tokens: what the text model of a repository does with a text before the graph sees it.

Copied into the repository; packaging runs it too, to compare its tokens with those that the model was evaluated on.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tokenizers import Encoding, Tokenizer


class TextReader:
    """Cleans, tokenizes and truncates as evaluation did.

    Args:
        folder: has the checkpoint's ``tokenizer.json``.
        settings: ``max_length`` in tokens, ``truncation_side`` (``left`` or ``right``: the end that is cut off), and
            ``split_special_tokens`` (``true``: a special token's name in a text is text).
        clean: raw text → clean text.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str], clean: Callable[[str], str]) -> None:
        self.clean = clean
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(int(settings["max_length"]), direction=settings["truncation_side"])
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = settings["split_special_tokens"] == "true"

    def tokens(self, texts: Sequence[str]) -> Sequence[Encoding]:
        """An encoding (``ids``, ``attention_mask``, ``type_ids``) of each clean text."""
        return self.tokenizer.encode_batch(list(texts))
