"""Racing: candidates recover for a while, and the better half goes on (successive halving)."""

from __future__ import annotations

import math
from typing import Any

from lwc.core.errors import Diverged, TargetError
from lwc.core.progress import part
from lwc.recipe import Racing
from lwc.selection.choice import Choice, Subset
from lwc.selection.search import best_subsets


def candidates(config: Racing, choice: Choice) -> list[Subset]:
    """Who races: the fused choice, evenly spaced blocks where that is allowed, then the best of a beam search.

    The loss of a bypass tells little about the loss after recovery, so that the field mixes measured and structural
    candidates; every one of them obeys the constraints.
    """
    first: list[Subset] = []
    if not config.contiguous:
        ranking = [block for block in choice.scored["fused"]["ranking"] if block not in choice.required]
        first.append(frozenset(ranking[choice.keep - len(choice.required) :]))
        even = {i * choice.total // choice.keep for i in range(choice.keep)}
        spread = frozenset(range(choice.total)) - even
        if not spread & choice.required:
            first.append(spread)
    field = list(dict.fromkeys(first))
    if len(field) < config.candidates:
        width = max(config.width, config.candidates)
        field += [subset for subset, _ in best_subsets(choice, width, config.contiguous) if subset not in field]
    return field[: config.candidates]


def _field_sizes(count: int) -> list[int]:
    """How many candidates race in each round."""
    return [count, *_field_sizes(math.ceil(count / 2))] if count > 1 else []


def racing(config: Racing, choice: Choice) -> Subset:
    """Successive halving (Jamieson & Talwalkar 2016): round r gives each of those left ``steps`` · 2^r steps.

    Every round recovers from the start: the learning rate decays over the steps of a round, so that a shorter
    recovery is not the beginning of a longer one. Judged as recovery itself is, on the validation split: the distance
    from the teacher's answers tells more of a few hundred rows than their labels do. A candidate whose recovery
    diverges loses.

    Raises:
        TargetError: nothing here can recover a model.
        Diverged: no candidate's recovery came to a number.
    """
    if choice.recovered is None:
        raise TargetError("select.strategy: racing needs recovery, which is not available here", "use beam")
    if choice.count == 0:
        return frozenset()
    left, steps = candidates(config, choice), config.steps
    rounds: list[dict[str, Any]] = []
    sizes = _field_sizes(len(left))
    done, total = 0, sum(size * steps << number for number, size in enumerate(sizes))
    while len(left) > 1:
        distances: dict[Subset, float] = {}
        for place, subset in enumerate(left, start=1):
            name = f"round {len(rounds) + 1}/{len(sizes)}, candidate {place}/{len(left)}"
            try:
                distances[subset] = choice.recovered(subset, steps, part(choice.say, name, done, total, steps))
            except Diverged as error:
                distances[subset], diverged = math.inf, error
            done += steps
        left = sorted(left, key=lambda subset: (distances[subset], sorted(subset)))
        if distances[left[0]] == math.inf:
            raise diverged
        told = {subset: None if distance == math.inf else distance for subset, distance in distances.items()}
        rounds.append({"steps": steps, "distances": [{"removed": sorted(one), "distance": told[one]} for one in left]})
        left, steps = left[: math.ceil(len(left) / 2)], steps * 2
    choice.notes["race"] = rounds
    return left[0]
