"""What a strategy may look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lwc.core.errors import TargetError
from lwc.core.progress import Say
from lwc.importance.contents import Importance
from lwc.recipe import Strategy

Subset = frozenset[int]
"""Blocks that are removed."""
Losses = Callable[[Iterable[Subset]], Mapping[Subset, float]]
"""Subsets → loss in nats on calibration rows with these blocks bypassed."""
AfterRecovery = Callable[[Subset, int, Say], float]
"""(removed, steps, progress) → distance from the teacher on the validation split after so many steps of recovery."""


@dataclass(frozen=True)
class Choice:
    """Scores, how many of ``total`` blocks stay, which must, and two ways to measure a subset.

    ``importance`` is None where the recipe's ``score.methods`` is empty, ``recovered`` where nothing can be recovered;
    ``notes`` is what a strategy tells of its way.
    """

    importance: Importance | None
    total: int
    keep: int
    required: frozenset[int]
    losses: Losses
    recovered: AfterRecovery | None = None
    seed: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    say: Say = lambda _: None

    @property
    def scored(self) -> Importance:
        """The scores, for a strategy with ``reads_scores``: its recipe has some."""
        assert self.importance is not None
        return self.importance

    @property
    def removable(self) -> list[int]:
        """Blocks that may go."""
        return [block for block in range(self.total) if block not in self.required]

    @property
    def count(self) -> int:
        """How many blocks go."""
        return self.total - self.keep

    def spans(self) -> list[Subset]:
        """See `free_spans`."""
        return free_spans(self.total, self.count, self.required)


def free_spans(total: int, count: int, required: frozenset[int]) -> list[Subset]:
    """Every run of ``count`` neighbouring blocks without a block that must stay.

    Raises:
        TargetError: there is none.
    """
    found = [frozenset(range(start, start + count)) for start in range(total - count + 1)]
    free = [span for span in found if not span & required]
    if not free:
        raise TargetError(
            f"no {count} neighbouring blocks of {total} can go: {sorted(required)} must stay",
            "lower target.ratio, select.keep_first or select.keep_last, or set select.contiguous: false",
        )
    return free


S = TypeVar("S", bound=Strategy)
Chooser = Callable[[S, Choice], Subset]
"""What a strategy's settings class names: ``(settings, choice) → blocks to remove``."""


def lowest(scores: Sequence[float], choice: Choice) -> Subset:
    """The removable blocks with the lowest scores; of equal ones the later."""
    order = sorted(choice.removable, key=lambda block: (scores[block], -block))
    return frozenset(order[: choice.count])
