"""Label files: a name a line, as many as the output has places, and nothing that becomes part of a name unseen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from lwc.serving.checks.config_file import encoding_fault
from lwc.serving.checks.model import Finding, Model, Repository, escapes

# The text models that lwc writes read this file, named by an output or not.
LABELS = "labels.txt"


def check_labels(model: Model, repository: Repository) -> Iterator[Finding]:
    """Every label file that an output names, and ``labels.txt`` in any case."""
    del repository
    files: dict[Path, int | None] = {}
    for entry in model.config.output:
        name = entry.label_filename
        path = model.folder / name
        if not name:
            continue
        if escapes(name):
            yield model.error(
                f"output {entry.name}: label_filename {name!r} leads out of the model folder", "name a file in it"
            )
        elif path.is_dir():
            yield model.error(f"output {entry.name}: its label_filename is {name!r}: a folder", "name a file", path)
        elif not path.is_file():
            yield model.error(f"output {entry.name}: its label_filename is {name!r}: no such file", "add it", path)
        else:
            files[path] = label_count(list(entry.dims))
            yield from _check(model, path, f"output {entry.name} has dims {list(entry.dims)}", files[path])
    if (model.folder / LABELS).is_file() and model.folder / LABELS not in files:
        yield from _check(model, model.folder / LABELS, "", None)


def label_count(dims: Sequence[int]) -> int | None:
    """Labels that an output has place for: its elements, or its last size where others vary; None where that does."""
    if not dims or dims[-1] < 1:
        return None
    return math.prod(dims) if min(dims) > 0 else dims[-1]


def read_labels(data: bytes) -> list[str]:
    """The names of a sound file, one a line."""
    return data.decode("utf-8").removesuffix("\n").split("\n") if data else []


def _check(model: Model, path: Path, of: str, expected: int | None) -> Iterator[Finding]:
    """The first fault of each kind; a file in another encoding or with other line ends is not judged further."""
    data = path.read_bytes()
    if fault := encoding_fault(data):
        yield model.error(*fault, path)
        return
    at = data.find(b"\r")
    if at >= 0:
        line, start = data.count(b"\n", 0, at) + 1, data.rfind(b"\n", 0, at) + 1
        yield model.error(
            f"line {line} ends in a carriage return (CRLF): the label served is {data[start : at + 1].decode()!r}",
            "save it with line ends of LF (dos2unix)",
            path,
        )
        return
    names = read_labels(data)
    blank = [number for number, name in enumerate(names, start=1) if not name.strip()]
    if blank:
        yield model.error(
            f"line {blank[0]} is blank, so that a class has no name", "remove it, or name the class", path
        )
    if expected is not None and len(names) != expected and len(names) - len(blank) != expected:
        yield model.error(f"{len(names)} labels, {of}", "write one label a line, in the order of the outputs", path)
    for number, name in enumerate(names, start=1):
        if name != name.strip() and name.strip():
            yield model.warning(f"line {number}: {name!r} has spaces around it", "remove them", path)
            break
    for number, name in enumerate(names, start=1):
        if name.strip() and names.index(name) < number - 1:
            yield model.warning(
                f"line {number}: {name!r} is the label of line {names.index(name) + 1} too",
                "give every class its own name",
                path,
            )
            break
