"""Names of tokens: what the next-token endpoint of a language model answers with."""

from __future__ import annotations

from tokenizers import Tokenizer


def token_names(tokenizer: Tokenizer, size: int) -> list[str]:
    """The name of each of ``size`` token ids, a line each: line breaks are escaped, ids without a token numbered."""

    def name(index: int) -> str:
        token = tokenizer.id_to_token(index)
        return f"<{index}>" if token is None else token.replace("\n", "\\n").replace("\r", "\\r")

    return [name(index) for index in range(size)]
