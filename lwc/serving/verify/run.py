"""Prove the package: start a real Triton server on it, load it, and check every answer against offline.

If the recipe asks, also the highest rate that it is served at within its objective, and that of its base beside it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwc.core.store import write_json
from lwc.recipe import Recipe
from lwc.serving.loadtest.endpoint import connect
from lwc.serving.loadtest.find_rate import Objective, find_rates
from lwc.serving.loadtest.run import Load, Thresholds, check_thresholds, run_loadtest
from lwc.serving.loadtest.samples import write_samples
from lwc.serving.loadtest.search import Search
from lwc.serving.triton.repository import ModelFiles, build_repository
from lwc.serving.triton.server import TritonServer
from lwc.tasks.endpoint import Endpoint, Proof


@dataclass(frozen=True)
class Packaged:
    """What is verified: a repository, the folders of the stages it comes from, and the files of the uncut model.

    ``reduced`` are the offline answers of an int8 graph, if that is what is served.
    """

    repository: Path
    data: Path
    evaluation: Path
    base: ModelFiles
    reduced: Path | None = None


def verify(recipe: Recipe, packaged: Packaged, out: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """Serve the repository and load-test the model that clients call over each protocol of ``recipe.verify``.

    Leaves in ``out``: ``serving.json`` (returned; one entry a protocol), ``samples.parquet``, ``server.log`` and what
    `run_loadtest` leaves. Served quality stands beside the offline quality over exactly the questions that were
    answered; ``covered_all`` is false, with a ``note``, if the time ended before every question was answered. An open
    loop that fell behind has a ``shortfall``. With ``verify.find_rate`` the first protocol's entry has the ``limit``
    that `_find_limit` found.

    Raises:
        ServingError: the server did not start, or a load test proved nothing.
        MissingDependency: the serving extra is not installed.
        DataError: evaluation and data folders do not belong together.
    """
    settings, headline = recipe.verify, recipe.task.headline
    endpoint = recipe.task.load().endpoint
    proof = endpoint.proof(packaged.data, packaged.evaluation, packaged.reduced)
    out.mkdir(parents=True, exist_ok=True)
    write_samples(proof.samples, out / "samples.parquet", proof.wire.column)
    users = settings.users if settings.rate is None else settings.connections
    load = Load(users, settings.seconds, settings.warmup_seconds, settings.rate, settings.arrivals, recipe.seed)
    serving: dict[str, Any] = {}
    with TritonServer(packaged.repository, startup_seconds=settings.startup_seconds) as server:
        try:
            for protocol in settings.protocols:
                url = server.http_url if protocol == "http" else server.grpc_url
                served_model = connect(url, protocol, recipe.name, server.metrics_url, wire=proof.wire)
                result = run_loadtest(served_model, load, proof.samples, out, settings.min_requests, progress)
                serving[protocol] = result
                shortfall = check_thresholds(result, Thresholds(rate_tolerance=settings.rate_tolerance))
                if shortfall:
                    result["shortfall"] = shortfall[0]
                served = result["served"]
                answered = f"{served['n']} of {served['texts']} test {headline.asked}"
                if not served["covered_all"]:
                    served["note"] = f"time ended after {answered}; served figures are over those"
                figures = ", ".join(f"{name} {served[key]:.4f}" for key, name in headline.served.items())
                progress(
                    f"{protocol}: p95 {result['latency_ms']['p95']:.1f} ms, {result['throughput_rps']:.0f}/s; {figures}"
                    f" on {answered}"
                )
        finally:
            # The server takes its log with it when it ends; a failure is read from this copy.
            shutil.copyfile(server.log_path, out / "server.log")
    if settings.find_rate is not None:
        protocol = settings.protocols[0]
        limit = _find_limit(recipe, packaged, endpoint, proof, out / "rates", progress)
        serving[protocol]["limit"] = limit
        rate = limit["compressed"]["rate_rps"]
        found = "no rate" if rate is None else f"at most {rate:.4g} requests/s"
        progress(f"{protocol}: {found} within p95 {settings.find_rate.max_p95_ms:g} ms")
    write_json(out / "serving.json", serving)
    return serving


def _find_limit(
    recipe: Recipe, packaged: Packaged, endpoint: Endpoint, proof: Proof, out: Path, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Search for the limit of the packaged model and, if the recipe asks, of its base on the same server.

    The base is packaged with the recipe's own settings. Both models are in one server and are loaded in turns.

    Returns:
        ``objective``, ``protocol``, ``compressed``, ``base`` (None where not asked for; each as `find_rates` tells of
        a model) and ``ratio`` of the compressed rate to the base's, None where either met no rate.
    """
    verify, settings = recipe.verify, recipe.verify.find_rate
    assert settings is not None
    protocol, base = verify.protocols[0], f"{recipe.name}_base"
    names = [recipe.name, base] if settings.against_base else [recipe.name]
    load = Load(verify.connections, settings.seconds, verify.warmup_seconds, arrivals=verify.arrivals, seed=recipe.seed)
    objective = Objective(settings.max_p95_ms, settings.max_error_rate, verify.rate_tolerance)
    search = Search(settings.start, settings.precision, settings.repeats)
    with tempfile.TemporaryDirectory(prefix="lwc-limit-") as folder:
        both = Path(folder)
        for model in (path for path in packaged.repository.iterdir() if path.is_dir()):
            (both / model.name).symlink_to(model.resolve())
        if settings.against_base:
            build_repository(endpoint, packaged.base, both, recipe.package, base)
        with TritonServer(both, startup_seconds=verify.startup_seconds) as server:
            url = server.http_url if protocol == "http" else server.grpc_url
            endpoints = [connect(url, protocol, name, server.metrics_url, wire=proof.wire) for name in names]
            found = find_rates(endpoints, objective, search, load, proof.samples, out, progress)
    models = found["models"]
    return {
        "objective": found["objective"],
        "protocol": protocol,
        "compressed": models[recipe.name],
        "base": models.get(base),
        "ratio": found["ratio"],
    }
