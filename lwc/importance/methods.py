"""Run the recipe's methods: gradients that two of them need are computed once, the expert comes last."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lwc.core import distributed
from lwc.core.machine import cache_dir
from lwc.importance.fisher import fisher, fisher_from
from lwc.importance.llm_expert import Refusal, rank_with_expert
from lwc.importance.per_example import ExampleGradients, collect
from lwc.importance.registry import SCORERS
from lwc.importance.taylor import taylor, taylor_from
from lwc.importance.types import LayerImportance, Scorer
from lwc.models.batches import Batch
from lwc.models.families import Family, block_list
from lwc.models.types import Model
from lwc.recipe import LlmExpert, Method

# Scorers that read nothing but the per-example gradients, and how.
_FROM_GRADIENTS: dict[Scorer, Callable[[ExampleGradients, float], LayerImportance]] = {
    fisher: fisher_from,
    taylor: taylor_from,
}


@dataclass(frozen=True)
class Results:
    """What each method found, and why those that found nothing did not (by name)."""

    found: dict[str, LayerImportance]
    refused: dict[str, str]


def measured(methods: Sequence[Method]) -> list[Method]:
    """The methods that measure model and data: all but the expert, who reads what they found."""
    return [method for method in methods if not isinstance(method, LlmExpert)]


def run_methods(
    model: Model,
    family: Family,
    batches: Sequence[Batch],
    methods: Sequence[Method],
    progress: Callable[[str], None] | None = None,
) -> dict[str, LayerImportance]:
    """Scores by method, in the order of the recipe; the expert is left out.

    ``seconds`` of the first method that needs the per-example gradients holds their pass; those after it reuse it.
    """
    asked = measured(methods)
    sharing = sum(SCORERS[method.method] in _FROM_GRADIENTS for method in asked) > 1
    shared: ExampleGradients | None = None
    results: dict[str, LayerImportance] = {}
    numbers = batches[0].labels.is_floating_point()
    for method in asked:
        if progress is not None:
            progress(f"{method.method} ({len(results) + 1}/{len(methods)})")
        scorer = SCORERS[method.method]
        if sharing and scorer in _FROM_GRADIENTS:
            started = time.monotonic()
            shared = collect(model, family, batches) if shared is None else shared
            found = _FROM_GRADIENTS[scorer](shared, started)
        else:
            found = scorer(model, family, batches, method)
        results[method.method] = found if not numbers else replace(found, unit=_unit_of_numbers(found))
    return results


def _unit_of_numbers(found: LayerImportance) -> str:
    """Where labels are numbers the loss is a squared error; information is in nats all the same."""
    return found.unit if found.method == "mutual_information" else found.unit.replace("nats", "squared error")


def with_expert(
    model: Model,
    family: Family,
    results: Mapping[str, LayerImportance],
    methods: Sequence[Method],
    progress: Callable[[str], None] | None = None,
    cache: Path | None = None,
) -> Results:
    """The results, with the expert's where the recipe lists one. It reads the scores of all others, and only these.

    Args:
        cache: folder of its answers; the user's cache folder by default.

    Raises:
        ExpertError: it gave no usable answer and the recipe says that it must.
    """
    found, refused = dict(results), dict[str, str]()
    for method in methods:
        if not isinstance(method, LlmExpert):
            continue
        if progress is not None:
            progress(f"{method.method} ({len(methods)}/{len(methods)})")
        evidence = {name: result.scores for name, result in results.items()}
        folder = cache_dir() / "llm_expert" if cache is None else cache
        blocks = len(block_list(model, family))
        answer = distributed.from_main(partial(rank_with_expert, evidence, blocks, method, folder))
        if isinstance(answer, Refusal):
            refused[method.method] = answer.reason
        else:
            found[method.method] = answer
    return Results(found, refused)
