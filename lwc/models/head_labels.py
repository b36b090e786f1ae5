"""The outputs of a checkpoint's head and the classes of the data, matched by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Match:
    """``order``: for each class the output that stands for it; None where they cannot be matched by name."""

    own: Sequence[str]
    classes: Sequence[str]
    order: list[int] | None

    @property
    def unnamed(self) -> bool:
        """Whether the outputs have no names but numbers."""
        return all(_UNNAMED.fullmatch(name) for name in self.own)

    def fault(self, folder: Path) -> tuple[str, str] | None:
        """(message, hint) where the head has as many outputs as there are classes, and other names."""
        if self.order is not None or self.unnamed or len(self.own) != len(self.classes):
            return None
        return (
            f"{folder}: its head's outputs are {described(self.own)}, the data's classes {described(self.classes)}: "
            "the names do not match",
            "write the data's class names into id2label and label2id of its config.json, in the order of the outputs",
        )

    def warnings(self, folder: Path) -> list[str]:
        """What a user should know about the head."""
        if self.order is not None:
            return []
        if len(self.own) != len(self.classes):
            return [
                f"{folder}: its head has {len(self.own)} outputs ({described(self.own)}), the data "
                f"{len(self.classes)} classes ({described(self.classes)}): a new head is trained in its place"
            ]
        return [
            f"{folder}: its head's outputs have no names ({described(self.own)}): they are taken as "
            f"{described(self.classes)}, in this order"
        ]


def match_labels(own: Sequence[str], classes: Sequence[str]) -> Match:
    """Match exactly, else without case, where that pairs all of them. ``LABEL_1`` is also called ``1``."""
    for spelled in (str, _plain):
        outputs = {spelled(name): index for index, name in enumerate(own)}
        wanted = [spelled(name) for name in classes]
        if len(outputs) == len(own) and sorted(outputs) == sorted(wanted):
            return Match(own, classes, [outputs[name] for name in wanted])
    return Match(own, classes, None)


def _plain(name: str) -> str:
    return _UNNAMED.sub(r"\1", name.strip()).casefold()


def described(names: Sequence[str]) -> str:
    """Names for a message."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
