"""Marks on the types of a report's content: which keys are there, and what they are called, by the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

Fact: TypeAlias = Literal[
    "int8", "fp16", "openvino", "trust", "recovered cut models", "learned fusion", "trimmed vocabulary", "rate",
    "find_rate", "against_base", "ingest", "no ingest", "own splits", "latency target", "beam", "racing", "iterated",
    "texts", "histories", "confusion", "tokens", "agreement", "accuracy", "ndcg_at_10",
]  # fmt: skip
"""What a recipe asks for, and what its task measures (`lwc.report.gate_names`)."""
Names: TypeAlias = Literal[
    "metrics", "retained", "floors", "figures in training", "int8 figures", "methods", "protocols", "shapes", "blocks",
    "classes", "served classes", "splits", "labels", "pairs of methods", "word percentiles", "sample of words",
    "models",
]  # fmt: skip
"""Keys of a mapping, or positions in a list, that the recipe fixes."""


class When:
    """There only where one of these facts is true of the recipe."""

    def __init__(self, *facts: Fact) -> None:
        self.facts = facts


@dataclass(frozen=True)
class Keyed:
    """The recipe fixes the keys. ``values`` is the type of those that a `TypedDict` has besides its own."""

    names: Names
    values: Any = None


@dataclass(frozen=True)
class Sometimes:
    """Whether it is there depends on the data, or on what the run finds: a gate may name it at its own risk."""


@dataclass(frozen=True)
class Most:
    """No figure is above this: a gate that says more was meant as a percentage, or misread."""

    value: float


CLOSED = ConfigDict(extra="forbid")
Number: TypeAlias = float | None
Share: TypeAlias = Annotated[Number, Most(1.0)]
LEVEL = 0.95
"""Of every interval: the range between its ends is two-sided, so each end alone is a bound of (1 + LEVEL) / 2."""


@with_config(CLOSED)
class Interval(TypedDict):
    """95% percentile bootstrap interval"""

    value: Number
    low: Number
    high: Number


Intervals: TypeAlias = dict[str, Interval]
