"""Which figures describe the quality of a task: what reports, terminals and gates show of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Metric:
    """A quality of ``evaluation.json``. Retention is always the better the higher, 1 = all of the base's quality.

    ``retained`` is False for a metric without one. ``most`` is its highest value, where there is one.
    """

    key: str
    name: str
    lower_is_better: bool = False
    retained: bool = True
    most: float | None = None


@dataclass(frozen=True)
class Headline:
    """The two headline metrics of a task, further ones for the table, and its floors as ``(key, title)``.

    ``counted`` are what quality is over, ``asked`` what the endpoint is sent; ``served`` the figures of its answers.
    ``counts`` are keys beside the metrics that only this task has: ``confusion``, ``tokens``, ``agreement``.
    ``not_paired`` says why `lwc compare` cannot test two runs on the same rows; empty where predictions are class ids,
    right or wrong.
    """

    metrics: tuple[Metric, Metric]
    further: tuple[Metric, ...]
    floors: tuple[tuple[str, str], ...]
    counted: str = "texts"
    asked: str = "texts"
    served: Mapping[str, str] = field(
        default_factory=lambda: {
            "accuracy": "served accuracy",
            "offline_accuracy": "offline accuracy",
            "macro_f1": "served macro-F1",
        }
    )
    counts: tuple[str, ...] = ()
    not_paired: str = "the paired test counts answers that are right or wrong, which this task does not have"
