"""Prove the package: start a real Triton server on it, load it, and check every answer against offline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from lwc.core.errors import DataError
from lwc.recipe import Recipe
from lwc.serving.loadtest.endpoint import connect
from lwc.serving.loadtest.run import Load, check_thresholds, run_loadtest
from lwc.serving.loadtest.samples import Sample, write_samples
from lwc.serving.triton.server import TritonServer
from lwc.serving.verify.limit import find_limit


def labelled_test(
    data_dir: Path, evaluation_dir: Path, reduced: Path | None = None
) -> tuple[list[Sample], list[str] | None]:
    """The test split with the compressed model's offline predictions, in the split's order, labels by name.

    ``reduced`` are the predictions (id, compressed) of the graph that is served in place of the checkpoint's own.
    Returns the samples and the label names in id order; None for a language model, whose labels are tokens by name.

    Raises:
        DataError: the two folders do not describe the same rows.
    """
    names = [str(name) for name in json.loads((data_dir / "labels.json").read_text(encoding="utf-8"))]
    test = pd.read_parquet(data_dir / "test.parquet", columns=["id", "text", "label"])
    predictions = pd.read_parquet(evaluation_dir / "predictions.parquet", columns=["id", "label", "compressed"])
    if not test["id"].is_unique or not predictions["id"].is_unique or set(test["id"]) != set(predictions["id"]):
        raise DataError(
            f"{evaluation_dir} was not made from the test split in {data_dir}: the ids differ",
            "run the evaluate stage again",
        )
    if reduced is not None:
        found = pd.read_parquet(reduced, columns=["id", "compressed"])
        predictions = predictions.drop(columns="compressed").merge(found, on="id", how="left", validate="one_to_one")
    joined = test.merge(predictions, on="id", suffixes=("", "_evaluated"), how="left", validate="one_to_one")
    if pd.api.types.is_string_dtype(joined["label_evaluated"]):
        tokens = zip(joined["id"], joined["text"], joined["label_evaluated"], joined["compressed"], strict=True)
        return [Sample(int(i), str(text), str(y), str(p)) for i, text, y, p in tokens], None
    if not (joined["label"] == joined["label_evaluated"]).all():
        raise DataError(f"{evaluation_dir}: labels differ from those in {data_dir}", "run the evaluate stage again")
    ids = pd.concat([joined["label"], joined["compressed"]])
    if not ids.between(0, len(names) - 1).all():
        raise DataError(f"a label id is outside the {len(names)} names in {data_dir / 'labels.json'}")
    rows = zip(joined["id"], joined["text"], joined["label"], joined["compressed"], strict=True)
    return [Sample(int(i), str(text), names[y], names[p]) for i, text, y, p in rows], names


def verify(
    recipe: Recipe,
    repository: Path,
    model_name: str,
    evaluation_dir: Path,
    data_dir: Path,
    out: Path,
    base: tuple[Path, Path],
    progress: Callable[[str], None] | None = None,
    reduced: Path | None = None,
) -> dict[str, Any]:
    """Serve ``repository`` and load-test its text-in model over each protocol of ``recipe.verify``.

    Leaves in ``out``: ``serving.json`` (returned; one entry a protocol), ``samples.parquet``, ``server.log`` and what
    `run_loadtest` leaves. Served accuracy stands beside the offline accuracy over exactly the texts that were
    answered; ``covered_all`` is false, with a ``note``, where the time ended before every text was answered. An open
    loop that fell behind has a ``shortfall``. With ``verify.find_rate`` the first protocol's entry holds the ``limit``
    that `find_limit` found, for which ``base`` is (ONNX file, checkpoint folder) of the uncut model. ``reduced`` holds
    the offline answers of an int8 graph, where that is what is served.

    Raises:
        ServingError: the server did not start, or a load test proved nothing.
        MissingDependency: the serving extra is not installed.
        DataError: evaluation and data folders do not belong together.
    """
    settings = recipe.verify
    samples, names = labelled_test(data_dir, evaluation_dir, reduced)
    if recipe.task.kind == "regression":
        names = None  # as many scores as labels come from classes only
    out.mkdir(parents=True, exist_ok=True)
    samples_path = out / "samples.parquet"
    write_samples(samples, samples_path)
    load = Load(
        users=settings.users if settings.rate is None else settings.connections,
        seconds=settings.seconds,
        warmup_seconds=settings.warmup_seconds,
        rate=settings.rate,
        arrivals=settings.arrivals,
        seed=recipe.seed,
    )
    serving: dict[str, Any] = {}
    with TritonServer(repository, startup_seconds=settings.startup_seconds) as server:
        try:
            for protocol in settings.protocols:
                url = server.http_url if protocol == "http" else server.grpc_url
                endpoint = connect(url, protocol, model_name, server.metrics_url)
                result = run_loadtest(endpoint, load, samples, out, settings.min_requests, names, progress)
                serving[protocol] = result
                shortfall = check_thresholds(result, rate_tolerance=settings.rate_tolerance)
                if shortfall:
                    result["shortfall"] = shortfall[0]
                served = result["served"]
                if not served["covered_all"]:
                    served["note"] = (
                        f"time ended after {served['n']} of {served['texts']} test texts; accuracies are over those"
                    )
                if progress is not None:
                    progress(
                        f"{protocol}: p95 {result['latency_ms']['p95']:.1f} ms, {result['throughput_rps']:.0f}/s, "
                        f"served accuracy {served['accuracy']:.4f}, offline {served['offline_accuracy']:.4f} "
                        f"on {served['n']} texts"
                    )
        finally:
            # The server takes its log with it when it ends; a failure is read from this copy.
            shutil.copyfile(server.log_path, out / "server.log")
    if settings.find_rate is not None:
        protocol = settings.protocols[0]
        limit = find_limit(recipe, settings.find_rate, repository, base, samples, names, out / "rates", progress)
        serving[protocol]["limit"] = limit
        if progress is not None:
            rate = limit["compressed"]["rate_rps"]
            found = "no rate" if rate is None else f"at most {rate:.4g} requests/s"
            progress(f"{protocol}: {found} within p95 {settings.find_rate.max_p95_ms:g} ms")
    text = json.dumps(serving, indent=2, ensure_ascii=False, allow_nan=False)
    (out / "serving.json").write_text(text + "\n", encoding="utf-8")
    return serving
