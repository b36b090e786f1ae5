"""Which rates to try: the search for the highest one that meets an objective, as generators without a clock.

Each yields a rate (requests/s) and is sent whether a window at that rate met the objective.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from lwc.core.errors import RecipeError

LOWEST, HIGHEST = 0.5, 1e6
T = TypeVar("T")
Tries = Generator[float, bool, T]


@dataclass(frozen=True)
class Search:
    """Doubling from ``start``, then bisection until met and missed rate are within ``precision`` of each other.

    The rate so found is tried ``repeats`` times more; where most of them miss, the next lower rate is.
    """

    start: float = 10.0
    precision: float = 0.1
    repeats: int = 3

    def __post_init__(self) -> None:
        if not LOWEST <= self.start <= HIGHEST or not self.precision > 0 or self.repeats < 1:
            raise RecipeError(
                f"no search starts at {self.start:g} requests/s with precision {self.precision:g} and"
                f" {self.repeats} repeats",
                f"start between {LOWEST:g} and {HIGHEST:g} requests/s, with a precision above 0 and 1 repeat or more",
            )


@dataclass(frozen=True)
class Limit:
    """The highest rate that met the objective and the lowest that missed it, in requests/s; None: there was none."""

    met: float | None
    missed: float | None


def _holds(rate: float) -> Tries[bool]:
    """A rate is missed when two windows in a row miss it: one alone may be another program's doing."""
    return (yield rate) or (yield rate)


def bracket(search: Search) -> Tries[Limit]:
    """The limit between a rate that is met and one that is missed."""
    rate, met, missed = search.start, None, None
    while LOWEST <= rate <= HIGHEST and (met is None or missed is None):
        if (yield from _holds(rate)):
            met, rate = rate, rate * 2.0
        else:
            missed, rate = rate, rate / 2.0
    while met is not None and missed is not None and missed > met * (1.0 + search.precision):
        rate = math.sqrt(met * missed)
        if (yield from _holds(rate)):
            met = rate
        else:
            missed = rate
    return Limit(met, missed)


def confirm(limit: Limit, search: Search) -> Tries[Limit]:
    """The limit again, with a met rate that most of ``repeats`` windows met."""
    rate, missed = limit.met, limit.missed
    while rate is not None and rate >= LOWEST:
        passed = 0
        for _ in range(search.repeats):
            passed += yield rate
        if 2 * passed > search.repeats:
            return Limit(rate, missed)
        missed, rate = rate, rate / (1.0 + search.precision)
    return Limit(None, missed)


def take_turns(searches: Mapping[str, Tries[T]], window: Callable[[str, float], bool]) -> dict[str, T]:
    """Run several searches a window each in turn, so that what disturbs the machine disturbs them all alike.

    ``window(name, rate)`` measures and tells whether the objective was met. Returns what each search found.
    """
    found: dict[str, T] = {}
    answers: dict[str, bool | None] = dict.fromkeys(searches)
    while len(found) < len(searches):
        for name, search in searches.items():
            if name in found:
                continue
            try:
                # A generator that has not started yet takes nothing.
                answer = answers[name]
                rate = next(search) if answer is None else search.send(answer)
            except StopIteration as ended:
                found[name] = ended.value
            else:
                answers[name] = window(name, rate)
    return found
