"""The Python models that lwc writes, against the graph's model they call: vocabulary, labels, lengths, catalogue."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx

from lwc.export.onnx_io import io_of
from lwc.serving.checks.embeddings import rows_by_input
from lwc.serving.checks.labels import LABELS, label_count
from lwc.serving.checks.model import Finding, Model, Repository
from lwc.tasks.next_item.histories import Catalogue
from lwc.tasks.text_wire import TITLE

_AGAIN = "package the model again"


def check_fronts(model: Model, repository: Repository) -> Iterator[Finding]:
    """A text model or a recommender that lwc wrote, known by its parameters; nothing for other Python models."""
    text, item = model.parameter("token_model"), model.parameter("catalogue_sha256") is not None
    name = text if text is not None else model.parameter("graph") if item else None
    if name is None:
        return
    called = repository.models.get(name)
    if called is None:
        if name and (repository.folder / name).is_dir():
            return  # its own fault was reported
        yield model.error(f"calls {name!r}, which is not in the repository", "add that model")
    elif text is not None:
        yield from _text(model, called)
    else:
        yield from _recommender(model, called)


def _text(model: Model, called: Model) -> Iterator[Finding]:
    given = model.parameter("token_inputs")
    if given is not None and set(given.split(",")) != (taken := {entry.name for entry in called.config.input}):
        yield model.error(f"token_inputs are {given.split(',')}, {called.name} takes {sorted(taken)}", _AGAIN)
    fields = (model.parameter("text_fields") or "").split(",")
    if any(entry.name == TITLE for entry in model.config.input) and sorted(fields) != ["body", "title"]:
        yield model.error(f"takes {TITLE}, but text_fields is {','.join(fields)!r}", "write title,body or body,title")
    rows = _rows(called, "input_ids")
    pad = _whole(model, "pad_id")
    if isinstance(pad, Finding):
        yield pad
    elif pad is not None and rows is not None and pad >= rows:
        yield model.error(f"pad_id is {pad}, the embedding table of {called.name} has {rows} rows", _AGAIN)
    buckets = model.parameter("length_buckets")
    if buckets is not None:
        sizes = [int(size) if size.isdecimal() else 0 for size in buckets.split(",")]
        if min(sizes) < 1 or any(low >= high for low, high in pairwise(sizes)):
            yield model.error(f"length_buckets {buckets!r} do not rise", "write lengths such as 16,32,64")
    for version in model.served.values() if given is not None else ():
        yield from _tokenizer(model, called, version / "tokenizer.json", rows)
    yield from _labels(model, called)


def _tokenizer(model: Model, called: Model, path: Path, rows: int | None) -> Iterator[Finding]:
    content = _json(model, path)
    if isinstance(content, Finding):
        yield content
        return
    vocabulary, added = _under(content, "model", "vocab"), _under(content, "added_tokens")
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else list(range(len(vocabulary or ())))
    ids += [token.get("id") for token in added or () if isinstance(token, dict)]
    highest = max((number for number in ids if isinstance(number, int)), default=-1)
    if highest < 0:
        yield model.error("has no vocabulary", _AGAIN, path)
    elif rows is not None and highest >= rows:
        yield model.error(
            f"has ids up to {highest}, the embedding table of {called.name} has {rows} rows", _AGAIN, path
        )


def _labels(model: Model, called: Model) -> Iterator[Finding]:
    """The front reads its own file; the graph's is what clients of the graph see."""
    if model.parameter("choice") is None:
        return  # written by hand: the script tells how many labels it reads
    path, other = model.folder / LABELS, called.folder / LABELS
    if not path.is_file():
        yield model.error("no such file", _AGAIN, path)
        return
    if model.parameter("choice") != "class":
        return
    mine = path.read_bytes()
    scores = next((label_count(list(entry.dims)) for entry in model.config.output if entry.name == "scores"), None)
    count = mine.count(b"\n") + (not mine.endswith(b"\n"))
    if scores is not None and count != scores:
        yield model.error(f"{count} labels, output scores has {scores}", _AGAIN, path)
    elif other.is_file() and other.read_bytes() != mine:
        yield model.error(f"differs from {called.name}/{LABELS}", "write the labels in the order of the outputs", path)


def _recommender(model: Model, called: Model) -> Iterator[Finding]:
    top = _whole(model, "top_k")
    longest = _whole(model, "max_length")
    yield from (one for one in (top, longest) if isinstance(one, Finding))
    theirs = called.parameter("catalogue_sha256")
    if theirs is not None and theirs != model.parameter("catalogue_sha256"):
        yield model.error(f"{called.name} was trained with another catalogue: catalogue_sha256 differs", _AGAIN)
    for kind, wanted, entries in (
        ("inputs", {"input_ids", "attention_mask", "seen"}, called.config.input),
        ("outputs", {"scores", "items"}, called.config.output),
    ):
        if lacking := sorted(wanted - {entry.name for entry in entries}):
            yield model.error(f"{called.name} lacks the {kind} {lacking}", _AGAIN)
    answers = _answers(called)
    if isinstance(top, int) and answers is not None and answers != top:
        yield model.error(f"top_k is {top}, {called.name} answers with {answers} items", _AGAIN)
    rows = _rows(called, "input_ids")
    for version in model.served.values():
        yield from _catalogue(model, called, version / "catalogue.json", rows, top if isinstance(top, int) else None)


def _catalogue(model: Model, called: Model, path: Path, rows: int | None, top: int | None) -> Iterator[Finding]:
    content = _json(model, path)
    if isinstance(content, Finding):
        yield content
        return
    items, counts = _under(content, "items"), _under(content, "counts")
    if not isinstance(items, list) or not isinstance(counts, list) or len(items) != len(counts):
        yield model.error("is no catalogue: it needs as many counts as items", _AGAIN, path)
        return
    digest = Catalogue(tuple(items), tuple(counts)).digest()
    if digest != _under(content, "sha256") or digest != model.parameter("catalogue_sha256"):
        yield model.error("is not the catalogue that the model was trained with: its SHA-256 differs", _AGAIN, path)
        return
    # Row 0 is padding.
    if rows is not None and rows != len(items) + 1:
        yield model.error(
            f"has {len(items)} items, the item table of {called.name} {rows - 1}",
            "copy the catalogue of this graph",
            path,
        )
    if top is not None and not 1 <= top <= len(items):
        yield model.error(f"has {len(items)} items, top_k is {top}", _AGAIN, path)


def _rows(called: Model, name: str) -> int | None:
    return None if called.graph is None else rows_by_input(called.graph).get(name)


def _answers(called: Model) -> int | None:
    """Items in an answer of the graph: as the file says, or the configuration where the file leaves it open."""
    dims: Mapping[str, list[int]] = {entry.name: list(entry.dims) for entry in called.config.output}
    if isinstance(called.graph, onnx.GraphProto):
        dims = {**dims, **{tensor.name: list(tensor.dims) for tensor in io_of(called.graph).outputs}}
    last = dims.get("items", [])[-1:]
    return last[0] if last and last[0] > 0 else None


def _whole(model: Model, name: str) -> int | Finding | None:
    text = model.parameter(name)
    if text is None or text.strip().isdecimal():
        return None if text is None else int(text)
    return model.error(f"{name} is {text!r}", "write a whole number")


def _json(model: Model, path: Path) -> Any | Finding:
    if not path.is_file():
        return model.error("no such file", _AGAIN, path)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # not UTF-8 either
        return model.error(f"not JSON: {error}", _AGAIN, path)


def _under(content: Any, *keys: str) -> Any:
    """What JSON has under these keys; None where it is something else."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content
