"""The outputs of a checkpoint's head and the classes of the data, matched by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lwc.core.spelling import likeness
from lwc.recipe import Labels

_UNNAMED = re.compile(r"label_(\d+)", re.IGNORECASE)
_SHOWN = 8


def output_names(config: Mapping[str, Any], outputs: int | None = None) -> list[str]:
    """Names of a head's outputs by the ``config.json``; LABEL_0 and so on where it gives none.

    ``outputs`` is how many the weights have, None without a head.

    Raises:
        ValueError: ``id2label`` is not a name for each of 0, 1, 2 …, or ``label2id`` contradicts it.
    """
    names = config.get("id2label")
    if names is None:
        count = config.get("num_labels", outputs)
        if outputs is not None and count != outputs:
            raise ValueError(f"num_labels is {count!r}, the head has {outputs} outputs")
        return [f"LABEL_{index}" for index in range(outputs or 0)]
    if not isinstance(names, dict):
        raise ValueError(f"id2label is a JSON {type(names).__name__}, not an object")
    if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
        numbers = described(list(map(str, names)))
        raise ValueError(f"id2label numbers its {len(names)} labels {numbers}; outputs count from 0 without gaps")
    own = [names[key] for key in sorted(names, key=int)]
    odd = [name for name in own if not isinstance(name, str)]
    if odd:
        raise ValueError(f"id2label names an output {odd[0]!r}, which is no text")
    if len(set(own)) != len(own):
        raise ValueError(f"id2label gives two outputs the same name: {described(own)}")
    back = config.get("label2id")
    for name, index in back.items() if isinstance(back, dict) else ():
        # Often the default names are left there: only names that both know can contradict.
        if name in own and own.index(name) != index:
            raise ValueError(f"id2label says output {own.index(name)} is {name!r}, label2id says output {index}")
    return own


def class_names(own: Sequence[str], labels: Labels) -> list[str]:
    """What the recipe calls the outputs of a head with these names.

    A name that ``labels.map`` lists, and that is no class of the recipe itself, is the class that it leads to. Outputs
    without a name are, in order, the classes of ``labels.names``, else their numbers.
    """
    known = {likeness(name) for name in (*labels.map.values(), *(labels.known() or ()))}
    meant = {likeness(name): to for name, to in labels.map.items()}
    found = [name if likeness(name) in known else meant.get(likeness(name), name) for name in own]
    if labels.names is not None and found == list(own) and unnamed(own) and len(own) == len(labels.names):
        numbered = match_labels(own, labels.names).order is not None  # classes that are called 0, 1, …
        return list(own if numbered else labels.names)
    return found


def unnamed(own: Sequence[str]) -> bool:
    """Whether these outputs have no names but numbers."""
    return all(_UNNAMED.fullmatch(name) for name in own)


@dataclass(frozen=True)
class Match:
    """``order``: for each class the output that stands for it; None where they cannot be matched by name."""

    own: Sequence[str]
    classes: Sequence[str]
    order: list[int] | None


def match_labels(own: Sequence[str], classes: Sequence[str]) -> Match:
    """Match exactly, else without case, where that pairs all of them. ``LABEL_1`` is also called ``1``."""
    for spelled in (str, _plain):
        outputs = {spelled(name): index for index, name in enumerate(own)}
        wanted = [spelled(name) for name in classes]
        if len(outputs) == len(own) and sorted(outputs) == sorted(wanted):
            return Match(own, classes, [outputs[name] for name in wanted])
    return Match(own, classes, None)


def named_as(own: Sequence[str]) -> list[str]:
    """The outputs as classes are named after them: LABEL_1 is 1."""
    return [_UNNAMED.sub(r"\1", name) for name in own]


def differing(place: str, own: Sequence[str], classes: Sequence[str], may_be_new: bool = True) -> tuple[str, str]:
    """(message, hint) where a head's outputs are not the classes; ``may_be_new`` of a base that is trained."""
    fresh = "; or train a new head with model.head: new" if may_be_new else ""
    if len(own) != len(classes):
        return (
            f"{place}: its head has {len(own)} outputs ({described(own)}), the data {len(classes)} classes"
            f" ({described(classes)})",
            f"merge or name the classes as the head's with data.labels.map, or name another checkpoint{fresh}",
        )
    if unnamed(own):
        return (
            f"{place}: its head's outputs have no names ({described(own)}), the data's classes are"
            f" {described(classes)}: nothing says which is which",
            f"list the classes in the order of the outputs: data.labels.names: [{', '.join(classes)}], if that is the"
            f" order it was trained in{fresh}",
        )
    alone = [name for name in own if _plain(name) not in set(map(_plain, classes))]
    pairs = ", ".join(f"{name}: …" for name in (alone or own)[:_SHOWN])
    return (
        f"{place}: its head's outputs are {described(own)}, the data's classes {described(classes)}: the names do not"
        " match",
        f"say which class each output is: data.labels.map: {{{pairs}}}{fresh}",
    )


def _plain(name: str) -> str:
    return likeness(_UNNAMED.sub(r"\1", name))


def described(names: Sequence[str]) -> str:
    """Names for a message."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
