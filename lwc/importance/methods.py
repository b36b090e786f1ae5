"""Run the recipe's methods: gradients that several of them need are computed once; those that read scores come last."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from lwc.core import distributed
from lwc.core.progress import Say
from lwc.importance.per_example import ExampleGradients, GradientScorer, collect
from lwc.importance.types import LayerImportance, Refusal, Scorer, ScorerOfScores
from lwc.models.batches import Batch
from lwc.models.families import Family
from lwc.models.types import Model
from lwc.recipe import Method


def run_methods(
    model: Model, family: Family, batches: Sequence[Batch], methods: Sequence[Method], progress: Say = lambda _: None
) -> dict[str, LayerImportance]:
    """Scores by method, in the order of the recipe, of all methods that measure the model.

    ``seconds`` of the first method that needs the per-example gradients contains their pass; the others reuse it.
    """
    shared: ExampleGradients | None = None
    results: dict[str, LayerImportance] = {}
    numbers = batches[0].labels.is_floating_point()
    for method in methods:
        if method.reads != "model":
            continue
        progress(f"{method.method} ({len(results) + 1}/{len(methods)})")
        started = time.monotonic()
        scorer: Scorer[Method] = method.load()
        if isinstance(scorer, GradientScorer):
            shared = collect(model, family, batches) if shared is None else shared
            found = scorer.of(shared, method)
        else:
            found = scorer(model, family, batches, method)
        unit = _unit_of_numbers(found) if numbers else found.unit
        results[method.method] = replace(found, unit=unit, seconds=time.monotonic() - started)
    return results


def _unit_of_numbers(found: LayerImportance) -> str:
    """Where labels are numbers the loss is a squared error; information is in nats all the same."""
    return found.unit if found.method == "mutual_information" else found.unit.replace("nats", "squared error")


def run_on_scores(
    results: Mapping[str, LayerImportance], blocks: int, methods: Sequence[Method], progress: Say = lambda _: None
) -> tuple[dict[str, LayerImportance], dict[str, str]]:
    """The results with those of the methods that read the others' scores, and why a method has none, by name.

    Raises:
        ExpertError: the expert gave no usable answer and the recipe requires one.
    """
    found, refused = dict(results), dict[str, str]()
    evidence = {name: result.scores for name, result in results.items()}
    for method in methods:
        if method.reads != "scores":
            continue
        progress(f"{method.method} ({len(methods)}/{len(methods)})")
        started = time.monotonic()
        scorer: ScorerOfScores[Method] = method.load()
        answer = distributed.from_main(partial(scorer, evidence, blocks, method))
        if isinstance(answer, Refusal):
            refused[method.method] = answer.reason
        else:
            found[method.method] = replace(answer, seconds=time.monotonic() - started)
    return found, refused
