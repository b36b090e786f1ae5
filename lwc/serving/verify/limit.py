"""The highest rate that a packaged model is served at within its objective, and that of its base beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lwc.recipe import Recipe
from lwc.serving.loadtest.endpoint import connect
from lwc.serving.loadtest.find_rate import Objective, find_rates
from lwc.serving.loadtest.run import Load
from lwc.serving.loadtest.search import Search
from lwc.serving.triton.repository import ModelFiles, build_repository
from lwc.serving.triton.server import TritonServer
from lwc.tasks.endpoint import Endpoint, Proof

BASE_SUFFIX = "_base"


def find_limit(
    recipe: Recipe,
    endpoint: Endpoint,
    repository: Path,
    base: ModelFiles,
    proof: Proof,
    out: Path,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Search for the limit of ``repository``'s model and, if the recipe asks, of its base on the same server.

    The base is packaged with the recipe's own settings. Both models are in one server and are loaded in turns.

    Returns:
        ``objective``, ``protocol``, ``compressed``, ``base`` (None where not asked for; each as `find_rates` tells of
        a model) and ``ratio`` of the compressed rate to the base's, None where either met no rate.
    """
    verify, settings = recipe.verify, recipe.verify.find_rate
    assert settings is not None
    protocol = verify.protocols[0]
    names = [recipe.name] + ([recipe.name + BASE_SUFFIX] if settings.against_base else [])
    load = Load(
        users=verify.connections,
        seconds=settings.seconds,
        warmup_seconds=verify.warmup_seconds,
        arrivals=verify.arrivals,
        seed=recipe.seed,
    )
    objective = Objective(settings.max_p95_ms, settings.max_error_rate, verify.rate_tolerance)
    search = Search(settings.start, settings.precision, settings.repeats)
    with tempfile.TemporaryDirectory(prefix="lwc-limit-") as folder:
        both = Path(folder)
        for model in repository.iterdir():
            (both / model.name).symlink_to(model.resolve())
        if settings.against_base:
            build_repository(endpoint, base, both, recipe.package, recipe.name + BASE_SUFFIX)
        with TritonServer(both, startup_seconds=verify.startup_seconds) as server:
            url = server.http_url if protocol == "http" else server.grpc_url
            endpoints = [connect(url, protocol, name, server.metrics_url, wire=proof.wire) for name in names]
            found = find_rates(endpoints, objective, search, load, proof.samples, out, progress)
    models = found["models"]
    return {
        "objective": found["objective"],
        "protocol": protocol,
        "compressed": models[recipe.name],
        "base": models.get(recipe.name + BASE_SUFFIX),
        "ratio": found["ratio"],
    }
