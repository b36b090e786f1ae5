"""Trim the vocabulary of a classifier to the tokens of a corpus. Texts of kept tokens get exactly the same logits.

Abdaoui et al. 2020, "Load What You Need: Smaller Versions of Multilingual BERT". Why it is exact, for a text all of
whose tokens are kept:

- WordPiece takes the longest match. The match is kept, and there is no longer one. A word that became [UNK] has a
  character without a piece of its own; it still becomes [UNK] unless a kept piece contains that character after its
  first, and such a vocabulary is refused.
- BPE applies the first merge of its list that fits. Every intermediate result is an ancestor of a final token, so it is
  kept with its parts, and the order of the list is unchanged.
- Unigram takes the best path, which still exists, while the others can only get worse: an unknown character costs 10
  more than the lowest score of all, so the piece with that score is kept too.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from string import printable
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn

from lwc.core.errors import ModelError
from lwc.models.load import load_tokenizer
from lwc.models.types import Config, M, Model, Tokenizer

KINDS = ("WordPiece", "BPE", "Unigram", "WordLevel")
_CHUNK = 2048  # texts tokenized at a time
_TOKENIZER_JSON = "tokenizer.json"
_SHOWN = 8  # tokens named in an error


def _state(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of the tokenizer's tokenizer.json."""
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"{type(tokenizer).__name__}: only a slow tokenizer", "convert it to tokenizer.json")
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = state["model"]["type"]
    if kind not in KINDS:
        raise ModelError(
            f"cannot trim the vocabulary of a {kind} tokenizer; supported: {', '.join(KINDS)}",
            "leave the vocabulary as it is, or use a model with one of these tokenizers",
        )
    if state["model"].get("dropout"):
        raise ModelError("the tokenizer splits at random (BPE dropout)", "set dropout to null in tokenizer.json")
    return state


def _pieces(model: dict[str, Any]) -> dict[str, int]:
    """Piece → id, without added tokens, which the model of the tokenizer does not have."""
    if model["type"] == "Unigram":
        return {piece: index for index, (piece, _) in enumerate(model["vocab"])}
    return dict(model["vocab"])


def _unknown(model: dict[str, Any], pieces: dict[str, int]) -> int | None:
    """The id of the unknown token of the tokenizer's model."""
    if model["type"] == "Unigram":
        return None if model["unk_id"] is None else int(model["unk_id"])
    return pieces.get(model.get("unk_token") or "")


def _map_processor(node: dict[str, Any] | None, new_id: Callable[[int], int]) -> dict[str, Any] | None:
    """The post-processor with ``new_id`` applied to every token id."""
    if node is None:
        return None
    if node["type"] == "Sequence":
        return {**node, "processors": [_map_processor(part, new_id) for part in node["processors"]]}
    if node["type"] == "TemplateProcessing":
        tokens = {
            name: {**token, "ids": [new_id(i) for i in token["ids"]]} for name, token in node["special_tokens"].items()
        }
        return {**node, "special_tokens": tokens}
    if node["type"] in ("BertProcessing", "RobertaProcessing"):
        return {**node, **{end: [node[end][0], new_id(node[end][1])] for end in ("sep", "cls")}}
    if node["type"] == "ByteLevel":
        return node
    raise ModelError(
        f"cannot trim the vocabulary of a tokenizer with a {node['type']} post-processor",
        "write it as TemplateProcessing in tokenizer.json",
    )


def _special(tokenizer: Tokenizer, state: dict[str, Any]) -> set[int]:
    """Ids of special and added tokens, of those of the post-processor, and of the unknown token."""
    found = {int(token["id"]) for token in state["added_tokens"]}
    found.update(int(index) for index in tokenizer.all_special_ids)
    if state["padding"] is not None:
        found.add(int(state["padding"]["pad_id"]))

    def note(index: int) -> int:
        found.add(index)
        return index

    _map_processor(state["post_processor"], note)
    unknown = _unknown(state["model"], _pieces(state["model"]))
    return found if unknown is None else found | {unknown}


def _merged(model: dict[str, Any], pair: Sequence[str]) -> str:
    """The result of a merge of a BPE model."""
    return pair[0] + pair[1][len(model.get("continuing_subword_prefix") or "") :]


def _with_ancestors(model: dict[str, Any], keep: set[int]) -> set[int]:
    """``keep`` and the parts of every merge that results in one of them, down to single symbols."""
    pieces = _pieces(model)
    names = {index: piece for piece, index in pieces.items()}
    parts: dict[str, list[str]] = defaultdict(list)
    for pair in model["merges"]:
        parts[_merged(model, pair)].extend(pair)
    closed, todo = set(keep), list(keep)
    while todo:
        for part in parts.get(names.get(todo.pop(), ""), ()):
            if pieces[part] not in closed:
                closed.add(pieces[part])
                todo.append(pieces[part])
    return closed


def _refuse_reachable_unknowns(state: dict[str, Any], keep: set[int]) -> None:
    """Refuse a WordPiece vocabulary in which trimming could change a word that was [UNK]."""
    pieces, prefix = _pieces(state["model"]), state["model"]["continuing_subword_prefix"]
    # Added tokens are split off before WordPiece.
    added = {token["content"] for token in state["added_tokens"] if not token["single_word"]}
    wrong = [
        piece
        for piece, index in pieces.items()
        if index in keep
        and piece not in added
        and any(prefix + character not in pieces for character in piece.removeprefix(prefix)[1:])
    ]
    if wrong and not keep.issuperset(pieces.values()):
        raise ModelError(
            f"cannot trim this WordPiece vocabulary exactly: {_some(wrong)} contain characters without a "
            f"{prefix} piece of their own",
            f"add the missing {prefix} pieces to the vocabulary, or leave it as it is",
        )


def _closed(tokenizer: Tokenizer, state: dict[str, Any], keep: set[int]) -> set[int]:
    """``keep`` and the tokens that must stay with it for an exact result."""
    model = state["model"]
    closed = keep | _special(tokenizer, state)
    if model["type"] == "BPE":
        return _with_ancestors(model, closed)
    if model["type"] == "WordPiece":
        _refuse_reachable_unknowns(state, closed)
    if model["type"] == "Unigram":
        scores = [score for _, score in model["vocab"]]
        lowest = min(scores)
        if all(scores[index] > lowest for index in closed if index < len(scores)):
            closed.add(scores.index(lowest))
    return closed


def _fallback(tokenizer: Tokenizer, state: dict[str, Any], texts: Sequence[str]) -> set[int]:
    """Ids of one-symbol pieces that any text can fall back on: of these texts, printable ASCII, and all bytes."""
    model, backend = state["model"], tokenizer.backend_tokenizer
    if model["type"] == "WordLevel":
        return set()
    characters: set[str] = set()
    for text in (printable, *texts):
        characters.update(backend.normalizer.normalize_str(text) if backend.normalizer else text)
    if backend.pre_tokenizer:  # it may replace some, such as a space
        words = backend.pre_tokenizer.pre_tokenize_str("".join(sorted(characters)))
        characters.update(character for word, _ in words for character in word)
    if '"type": "ByteLevel"' in json.dumps([state["normalizer"], state["pre_tokenizer"]]):
        characters.update(ByteLevel.alphabet())
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    forms = {head + character + tail for character in characters for head in ("", prefix) for tail in ("", suffix)}
    if model.get("byte_fallback"):
        forms.update(f"<0x{byte:02X}>" for byte in range(256))
    pieces = _pieces(model)
    return {pieces[form] for form in forms if form in pieces}


def _token_ids(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None) -> Iterator[list[list[int]]]:
    """Token ids of the texts in chunks, with special tokens; cut to ``max_length`` tokens unless None."""
    cut = {"truncation": False} if max_length is None else {"truncation": True, "max_length": max_length}
    for start in range(0, len(texts), _CHUNK):
        yield tokenizer(list(texts[start : start + _CHUNK]), add_special_tokens=True, verbose=False, **cut)["input_ids"]


def used_tokens(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None, min_count: int = 1) -> list[int]:
    """The sorted ids to keep for these texts, cut to ``max_length`` tokens unless None.

    These are tokens that occur at least ``min_count`` times, special and added tokens, one-symbol pieces that any text
    can fall back on, and the tokens without which `trim_vocabulary` would not be exact.

    Raises:
        ModelError: the tokenizer is slow, or of a kind that cannot be trimmed exactly.
        ValueError: ``min_count`` is below 1.
    """
    if min_count < 1:
        raise ValueError(f"min_count is {min_count}, must be at least 1")
    state = _state(tokenizer)
    counts: Counter[int] = Counter()
    for rows in _token_ids(tokenizer, texts, max_length):
        for row in rows:
            counts.update(row)
    keep = {index for index, count in counts.items() if count >= min_count} | _fallback(tokenizer, state, texts)
    return sorted(_closed(tokenizer, state, keep))


def coverage(old_tokenizer: Tokenizer, new_tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """The share of these uncut texts (0 to 1) that both tokenizers split into the same strings.

    Raises:
        ValueError: there are no texts.
    """
    if not texts:
        raise ValueError("no texts to compare the tokenizers on")
    # The strings of the ids: for an unknown word, a tokenizer may give the word itself as its token.
    same = 0
    for olds, news in zip(_token_ids(old_tokenizer, texts, None), _token_ids(new_tokenizer, texts, None), strict=True):
        for old, new in zip(olds, news, strict=True):
            same += old_tokenizer.convert_ids_to_tokens(old) == new_tokenizer.convert_ids_to_tokens(new)
    return same / len(texts)


def _some(tokens: Sequence[str]) -> str:
    more = f" and {len(tokens) - _SHOWN} more" if len(tokens) > _SHOWN else ""
    return ", ".join(repr(token) for token in tokens[:_SHOWN]) + more


def _checked(tokenizer: Tokenizer, state: dict[str, Any], keep: Sequence[int]) -> list[int]:
    """``keep`` sorted and without repeats; refuse unknown ids, and missing tokens that an exact result needs."""
    chosen = {int(index) for index in keep}
    unknown = sorted(chosen.difference(tokenizer.get_vocab().values()))
    if unknown:
        raise ModelError(f"the tokenizer has no token ids {unknown[:_SHOWN]}", "take the ids from used_tokens")
    special = sorted(_special(tokenizer, state) - chosen)
    if special:
        names = tokenizer.convert_ids_to_tokens(special)
        raise ModelError(f"special tokens would be removed: {_some(names)}", "keep every special and added token")
    needed = sorted(_closed(tokenizer, state, chosen) - chosen)
    if needed:
        names = tokenizer.convert_ids_to_tokens(needed)
        raise ModelError(f"kept tokens need others that would be removed: {_some(names)}", "keep these as well")
    return sorted(chosen)


def _trimmed_state(state: dict[str, Any], new: dict[int, int]) -> dict[str, Any]:
    """tokenizer.json with new ids; ``new`` maps each kept old id to its new one."""
    model = dict(state["model"])
    if model["type"] == "Unigram":
        model["vocab"] = [entry for index, entry in enumerate(model["vocab"]) if index in new]
        model["unk_id"] = None if model["unk_id"] is None else new[model["unk_id"]]
    else:
        model["vocab"] = {piece: new[index] for piece, index in model["vocab"].items() if index in new}
    if model["type"] == "BPE":
        # The parts of a merge whose result is kept are kept as well.
        model["merges"] = [pair for pair in model["merges"] if _merged(model, pair) in model["vocab"]]
    padding = state["padding"]
    return {
        **state,
        "model": model,
        "added_tokens": [{**token, "id": new[token["id"]]} for token in state["added_tokens"]],
        "post_processor": _map_processor(state["post_processor"], new.__getitem__),
        "padding": padding if padding is None else {**padding, "pad_id": new[padding["pad_id"]]},
    }


def _trimmed_tokenizer(tokenizer: Tokenizer, state: dict[str, Any], new: dict[int, int]) -> Tokenizer:
    """The tokenizer saved, rewritten and loaded again, so that it equals one that is loaded from disk."""
    written = _trimmed_state(state, new)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        for file in set(tokenizer.vocab_files_names.values()):  # the old vocabulary in other formats
            (folder / file).unlink(missing_ok=True)
        (folder / _TOKENIZER_JSON).write_text(json.dumps(written, ensure_ascii=False), encoding="utf-8")
        loaded = load_tokenizer(folder)
    loaded.name_or_path = tokenizer.name_or_path
    loaded.padding_side, loaded.truncation_side = tokenizer.padding_side, tokenizer.truncation_side
    expected = {token: new[index] for token, index in tokenizer.get_vocab().items() if index in new}
    read = _state(loaded)
    parts = ("model", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    changed = [part for part in parts if read[part] != written[part]]
    if changed or loaded.get_vocab() != expected:
        raise ModelError(
            f"{type(tokenizer).__name__}: after trimming, transformers loads another tokenizer than was written "
            f"(changed: {', '.join(changed) or 'token ids'})",
            'set "tokenizer_class": "PreTrainedTokenizerFast" in its tokenizer_config.json',
        )
    return loaded


def _check_positions(model: Model, new: dict[int, int]) -> None:
    """Models like RoBERTa count positions from the padding id, which must then not change."""
    for module in model.modules():
        index = getattr(module, "padding_idx", None)
        if isinstance(module, nn.Embedding) or not isinstance(index, int):
            continue
        if new.get(index) != index:
            missing = [old for old in range(index + 1) if old not in new]
            raise ModelError(
                f"{type(module).__name__} counts positions from padding id {index}, which would change: "
                f"ids {missing[:_SHOWN]} are not kept",
                f"keep every id from 0 to {index}",
            )


def _take_rows(model: Model, kept: Sequence[int], new: dict[int, int]) -> None:
    """Keep some rows of the word embeddings (V, D), and of an output layer over words, in place; ties remain."""
    table = model.get_input_embeddings()
    rows = table.num_embeddings
    index = torch.tensor([old for old in kept if old < rows], device=table.weight.device)
    output = model.get_output_embeddings()
    replaced = {id(table.weight): nn.Parameter(table.weight.detach()[index], table.weight.requires_grad)}
    for parameter in [] if output is None else output.parameters(recurse=False):
        replaced.setdefault(id(parameter), nn.Parameter(parameter.detach()[index], parameter.requires_grad))
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(parameter) in replaced:
                setattr(module, name, replaced[id(parameter)])
                if isinstance(module, nn.Embedding):
                    module.num_embeddings = len(index)
                    module.padding_idx = None if module.padding_idx is None else new.get(module.padding_idx)
                elif isinstance(module, nn.Linear):
                    module.out_features = len(index)
    model.config.vocab_size = len(index)


def _renumber(config: Config, new: dict[int, int], pad_id: int | None) -> None:
    """Renumber every ``*_token_id`` of the config; one whose token is removed becomes None."""
    for name in [name for name in vars(config) if name.endswith("_token_id")]:
        value = getattr(config, name)
        if isinstance(value, int):
            setattr(config, name, new.get(value))
        elif isinstance(value, list):
            setattr(config, name, [new[index] for index in value if index in new] or None)
    config.pad_token_id = pad_id


def trim_vocabulary(model: M, tokenizer: Tokenizer, keep: Sequence[int]) -> tuple[M, Tokenizer]:
    """A copy of the model and a new tokenizer with only these tokens, numbered from 0 in their old order.

    A text whose tokens are all kept is split as before and gets exactly the same logits. Both can be saved and loaded
    by stock transformers. Embedding rows without a token are removed too.

    Raises:
        ModelError: ``keep`` lacks a special token, or one that a kept token needs, or contains an unknown id; model and
            tokenizer disagree on the padding id; the model counts positions from a padding id that would change; or
            the tokenizer is of a kind that cannot be trimmed exactly.
    """
    state = _state(tokenizer)
    if not isinstance(model.get_input_embeddings(), nn.Embedding):
        raise ModelError(f"{type(model).__name__}: its word embeddings are not an nn.Embedding", "use another model")
    pad_id = getattr(model.config, "pad_token_id", None)
    if pad_id is not None and pad_id != tokenizer.pad_token_id:
        raise ModelError(
            f"the model pads with id {pad_id}, its tokenizer with {tokenizer.pad_token_id}",
            "make pad_token_id in config.json and pad_token in tokenizer_config.json agree",
        )
    kept = _checked(tokenizer, state, keep)
    new = {old: place for place, old in enumerate(kept)}
    _check_positions(model, new)
    smaller_tokenizer = _trimmed_tokenizer(tokenizer, state, new)
    smaller = copy.deepcopy(model)
    _take_rows(smaller, kept, new)
    _renumber(smaller.config, new, smaller_tokenizer.pad_token_id)
    return smaller, smaller_tokenizer
