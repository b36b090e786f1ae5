"""``lwc loadtest``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lwc.cli import terminal as render
from lwc.cli.options import AsJson, print_json
from lwc.core.errors import GATE_FAILED, OK, RecipeError

if TYPE_CHECKING:
    from lwc.serving.loadtest.endpoint import Endpoint
    from lwc.serving.loadtest.find_rate import Objective
    from lwc.serving.loadtest.run import Load, Thresholds
    from lwc.tasks.endpoint import Sample


@dataclass(frozen=True)
class Served:
    """The served model."""

    model: Annotated[str | None, typer.Option(help="name of a served model that takes text or a history")] = None
    url: Annotated[str, typer.Option(help="host:port of the server")] = "127.0.0.1:8000"
    metrics_url: Annotated[str | None, typer.Option(help="host:port of Triton's metrics")] = None
    label_output: Annotated[str | None, typer.Option(help="output that contains the label")] = None
    protocol: Annotated[Literal["http", "grpc"], typer.Option(help="wire protocol")] = "http"


@dataclass(frozen=True)
class Arrivals:
    """How the model is loaded."""

    users: Annotated[int, typer.Option(min=1, help="concurrent users, each waits for its answer (closed loop)")] = 4
    connections: Annotated[int, typer.Option(min=1, help="used instead of --users with --rate and --find-rate")] = 64
    rate: Annotated[float | None, typer.Option(help="requests/s to send, answered or not (open loop)")] = None
    arrivals: Annotated[Literal["poisson", "constant"], typer.Option(help="spacing with --rate")] = "poisson"
    rate_tolerance: Annotated[float, typer.Option(min=0.0, max=1.0, help="exit 3 above this shortfall")] = 0.05
    seed: Annotated[int, typer.Option(help="seed of the arrivals")] = 17
    find_rate: Annotated[bool, typer.Option("--find-rate", help="find the highest rate within --max-p95-ms")] = False
    against: Annotated[str | None, typer.Option(help="second model whose rate --find-rate finds, in turns")] = None
    seconds: Annotated[float | None, typer.Option(min=1.0, help="default 15, with --find-rate 5")] = None
    warmup: Annotated[float, typer.Option(min=0.0, help="seconds before measuring")] = 2.0


@dataclass(frozen=True)
class Senders:
    """Which processes send."""

    workers: Annotated[int, typer.Option(min=1, help="number of sender processes; each uses one core")] = 1
    expect_workers: Annotated[int | None, typer.Option(help="number of remote --worker senders to wait for")] = None
    master_bind_host: Annotated[str, typer.Option(help="address on which to listen for senders")] = "127.0.0.1"
    master_bind_port: Annotated[int, typer.Option(min=1, max=65535, help="port of it")] = 5557
    expect_workers_max_wait: Annotated[float, typer.Option(min=1.0, help="seconds to wait for senders")] = 60.0
    worker: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="send for the load test at HOST:PORT, which has all settings"),
    ] = None


@dataclass(frozen=True)
class Limits:
    """What the load test must meet."""

    max_error_rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="exit 3 above it")] = 0.0
    max_p95_ms: Annotated[float | None, typer.Option(help="exit 3 above it")] = None
    min_accuracy: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="exit 3 below this accuracy; needs the column `label`")
    ] = None
    min_agreement: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="agreement with the column offline; exit 3 below it")
    ] = None
    min_requests: Annotated[int, typer.Option(min=1, help="exit 3 below it")] = 50


@dataclass(frozen=True)
class Results:
    """Where the results go."""

    out: Annotated[Path, typer.Option(help="output folder for HTML, CSV and raw samples")] = Path("loadtest")
    as_json: AsJson = False


def loadtest(
    context: typer.Context,
    served: Served,
    how: Arrivals,
    senders: Senders,
    limits: Limits,
    results: Results,
    samples: Annotated[
        Path | None,
        typer.Argument(help="texts or item histories, with labels if known: any table that a recipe reads, or .txt"),
    ] = None,
) -> None:
    """Load-test a served text model or recommender with Locust. Exit 3 if a threshold is missed."""
    if senders.worker is not None:
        _work(senders.worker, context)
    if samples is None or served.model is None:
        raise RecipeError("a load test needs SAMPLES and --model", "or --worker, to send for another load test")
    from lwc.serving.loadtest.endpoint import connect
    from lwc.serving.loadtest.find_rate import Objective
    from lwc.serving.loadtest.process import Elsewhere
    from lwc.serving.loadtest.run import Load, Thresholds
    from lwc.serving.loadtest.samples import read_samples

    elsewhere = None
    if senders.expect_workers is not None:
        at = (senders.master_bind_host, senders.master_bind_port, senders.expect_workers_max_wait)
        elsewhere = Elsewhere(senders.expect_workers, *at, how.find_rate)
    load = Load(
        users=how.connections if how.find_rate or how.rate is not None else how.users,
        seconds=how.seconds or (5.0 if how.find_rate else 15.0),
        warmup_seconds=how.warmup, rate=how.rate, arrivals=how.arrivals, seed=how.seed,
        workers=senders.workers, elsewhere=elsewhere,
    )  # fmt: skip
    thresholds = Thresholds(
        limits.max_error_rate, limits.max_p95_ms, how.rate_tolerance, limits.min_accuracy, limits.min_agreement
    )
    if how.against is not None and not how.find_rate:
        raise RecipeError("--against compares the rates that --find-rate finds", "add --find-rate")
    models = [served.model, *([how.against] if how.against else [])]
    endpoint, *others = (
        connect(served.url, served.protocol, name, served.metrics_url, served.label_output) for name in models
    )
    asked = read_samples(samples, endpoint.wire, render.note)
    _check_compared(endpoint, asked, how.find_rate, thresholds)
    if elsewhere is not None:
        render.note(
            f"waiting for {elsewhere.workers} of: lwc loadtest --worker {elsewhere.host}:{elsewhere.port}; they must"
            f" reach {endpoint.address} too"
        )
    if how.find_rate:
        if limits.max_p95_ms is None:
            raise RecipeError("--find-rate needs the objective it must meet", "add --max-p95-ms")
        objective = Objective(limits.max_p95_ms, limits.max_error_rate, how.rate_tolerance)
        _find_rates([endpoint, *others], objective, load, asked, results)
    _run(endpoint, thresholds, load, asked, limits.min_requests, results)


def _find_rates(
    endpoints: list[Endpoint], objective: Objective, load: Load, samples: list[Sample], results: Results
) -> None:
    """Search for the highest rates, show them, and end."""
    from lwc.serving.loadtest.find_rate import find_rates
    from lwc.serving.loadtest.search import Search

    search = Search() if load.rate is None else Search(start=load.rate)
    found = find_rates(endpoints, objective, search, load, samples, results.out, progress=render.note)
    if results.as_json:
        print_json(found)
    render.found_rates(found)
    raise typer.Exit(OK if all(one["rate_rps"] for one in found["models"].values()) else GATE_FAILED)


def _run(
    endpoint: Endpoint,
    limits: Thresholds,
    load: Load,
    samples: list[Sample],
    min_requests: int,
    results: Results,
) -> None:
    """One load test: show its figures and what is past a threshold, and end."""
    from lwc.serving.loadtest.run import check_thresholds, run_loadtest

    result = run_loadtest(endpoint, load, samples, results.out, min_requests)
    failures = check_thresholds(result, limits)
    if results.as_json:
        print_json(result)
    render.loadtest(result)
    for failure in failures:
        render.note(f"FAIL {failure}")
    raise typer.Exit(GATE_FAILED if failures else OK)


def _check_compared(endpoint: Endpoint, samples: list[Sample], find_rate: bool, limits: Thresholds) -> None:
    """Raise `RecipeError` where a threshold of quality could never be judged: before the load, not after it."""
    least = {"accuracy": limits.min_accuracy, "matches_offline": limits.min_agreement}
    asked = [name for name, value in least.items() if value is not None]
    if asked and find_rate:
        raise RecipeError("--min-accuracy and --min-agreement do not work with --find-rate", "leave out --find-rate")
    if not set(asked) <= set(endpoint.wire.judged):
        raise RecipeError(
            f"{endpoint.model} has no label output",
            "name it with --label-output, or leave out --min-accuracy and --min-agreement",
        )
    if limits.min_accuracy is not None and any(sample.label is None for sample in samples):
        raise RecipeError(
            "--min-accuracy, but the samples have no label", "add the column label, or leave the option out"
        )
    unknown = sum(sample.offline is None for sample in samples)
    if limits.min_agreement is not None and unknown:
        raise RecipeError(
            f"--min-agreement, but {unknown} of {len(samples)} samples have no offline answer",
            "a run's verify/samples.parquet has the column offline",
        )


def _work(master: str, context: typer.Context) -> None:
    """Send for a master elsewhere, and end."""
    from lwc.serving.loadtest.worker import work

    sources = {name: context.get_parameter_source(name) for name in context.params if name != "worker"}
    given = sorted(name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE")
    if given:
        raise RecipeError(f"--worker with {', '.join(given)}: the master supplies these settings", "give it there")
    done = work(master, render.note)
    render.note(f"sent for {done} load test{'s' if done > 1 else ''}")
    raise typer.Exit(OK)
