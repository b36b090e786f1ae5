"""Strategies that go by the scores, or by no measurement at all: which blocks to remove."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lwc.core.errors import RecipeError
from lwc.recipe import Drawn, DropBottom, DropEven, DropTop, Fused, Named, Single
from lwc.selection.choice import Choice, Subset, lowest


def _by_score(scores: Sequence[float], contiguous: bool, choice: Choice) -> Subset:
    if not contiguous:
        return lowest(scores, choice)
    return min(choice.spans(), key=lambda span: (sum(scores[block] for block in span), -min(span, default=0)))


def fused(config: Fused, choice: Choice) -> Subset:
    """Removes what the fused ranking puts last; the span with the lowest sum of fused scores."""
    found = choice.scored["fused"]
    if config.contiguous:
        return _by_score(found["scores"], True, choice)
    return frozenset(
        [block for block in found["ranking"] if block not in choice.required][choice.keep - len(choice.required) :]
    )


def single(config: Single, choice: Choice) -> Subset:
    """Removes what one method scores lowest.

    Raises:
        RecipeError: the method was not scored, or left out for what it gave.
    """
    methods, excluded = choice.scored["methods"], choice.scored["excluded"]
    if config.method not in methods or config.method in excluded:
        usable = [name for name in methods if name not in excluded]
        raise RecipeError(
            f"select.method {config.method!r} has no usable scores; scored: {', '.join(usable)}",
            "list it under score.methods, or name one of these",
        )
    scores = [score for score in methods[config.method]["scores"] if score is not None]  # usable: none is
    return _by_score(scores, config.contiguous, choice)


def named(config: Named, choice: Choice) -> Subset:
    """Removes what the recipe names."""
    return frozenset(config.blocks)


def drawn(config: Drawn, choice: Choice) -> Subset:
    """Removes blocks drawn at random."""
    random = np.random.default_rng([choice.seed, config.draw])
    return frozenset(int(block) for block in random.choice(choice.removable, choice.count, replace=False))


def drop_top(config: DropTop, choice: Choice) -> Subset:
    """Removes the last blocks."""
    return frozenset(choice.removable[len(choice.removable) - choice.count :])


def drop_bottom(config: DropBottom, choice: Choice) -> Subset:
    """Removes the first blocks."""
    return frozenset(choice.removable[: choice.count])


def drop_even(config: DropEven, choice: Choice) -> Subset:
    """Keeps evenly spaced blocks, i.e. ⌊i · total / keep⌋, and makes room for those that must stay."""
    wanted = {i * choice.total // choice.keep for i in range(choice.keep)} - choice.required
    kept = set(choice.required)
    # Those that must stay push out the wanted ones nearest to them.
    for block in sorted(wanted, key=lambda one: -min((abs(one - must) for must in choice.required), default=0)):
        if len(kept) < choice.keep:
            kept.add(block)
    for block in choice.removable:
        if len(kept) < choice.keep:
            kept.add(block)
    return frozenset(range(choice.total)) - kept
