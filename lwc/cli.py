"""The command line: parse, call, render. The only module that exits."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import typer

from lwc import __version__
from lwc.errors import BUG, GATE_FAILED, INTERRUPTED, MISSING, OK, USAGE, LwcError, RecipeError

app = typer.Typer(
    name="lwc",
    help="Layerwise compression made for deployment: labelled reviews in, a verified Triton endpoint out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Look at data before using it.", no_args_is_help=True)
app.add_typer(data_app, name="data")
repo_app = typer.Typer(help="Look at a Triton repository before serving it.", no_args_is_help=True)
app.add_typer(repo_app, name="repo")

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="recipe file, e.g. recipes/amazon_2.5x.yaml")]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads the annotation at run time
    typer.Option("--set", help="override one key: --set train.epochs=1 (repeatable)", metavar="KEY=VALUE"),
]
Runs = Annotated[Path, typer.Option("--runs", help="where runs and the stage store live")]
AsJson = Annotated[bool, typer.Option("--json", help="machine-readable result on stdout")]


def _load(path: Path, overrides: list[str] | None) -> Any:
    from lwc.recipe_file import load_recipe

    return load_recipe(path, overrides or ())


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def _run_line(recipe: Any, runs: Path, until: str | None) -> Any:
    """Run the stages. Of several processes, all but the main one end here, in silence."""
    from lwc import distributed, render
    from lwc.pipeline import run as run_line

    if not distributed.is_main():
        run_line(recipe, runs, lambda kind, stage, text: None, until)
        raise typer.Exit(OK)
    with render.RunView() as view:
        return run_line(recipe, runs, view.event, until)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"lwc {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    del version, debug  # --debug is read from argv by main(), which must know it before parsing fails


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    models: Annotated[Path, typer.Option("--triton-models", help="where the repository is put")] = Path(
        "triton_models"
    ),
    until: Annotated[Optional[str], typer.Option("--until", help="stop after this stage")] = None,  # noqa: UP045
    workers: Annotated[int, typer.Option(min=1, help="processes of this machine that share the work")] = 1,
    as_json: AsJson = False,
) -> None:
    """Run a recipe end to end. Exit 3 when a gate fails."""
    from lwc import distributed, render
    from lwc.doctor import require_serving
    from lwc.finish import check_destination, destinations
    from lwc.pipeline import run_folder
    from lwc.stages import check_stage

    loaded = _load(recipe, overrides)
    check_stage(until)
    if until in (None, "package", "verify"):
        # Told before the training, not after.
        require_serving()
        for place in destinations(loaded, models).values():
            check_destination(place)
    if loaded.task.kind == "next_item" and max(workers, distributed.count()) > 1:
        raise LwcError("task next_item runs in one process", "leave --workers out", exit_code=USAGE)
    if workers > 1 and distributed.count() == 1:
        from lwc.workers import launch

        raise typer.Exit(launch([sys.executable, "-m", "lwc", *sys.argv[1:]], workers))
    folder = run_folder(runs, loaded)
    if distributed.is_main():
        render.note(f"{loaded.name}: {loaded.description or recipe}")
    results = _run_line(loaded, runs, until)
    if "verify" not in results:
        render.note(f"stopped after {until}; `lwc run {recipe}` goes on from there")
        raise typer.Exit(OK)
    from lwc.finish import finish

    report = finish(loaded, results, folder, models)
    if as_json:
        _print_json(report)
    render.quality_table(report)
    render.gates_table(report["gates"])
    places = ", ".join(str(place) for place in destinations(loaded, models).values())
    render.note(f"report: {folder / 'report.html'}   repository: {places}")
    if "tensorrt" in loaded.package.targets:
        render.note(f"for the repository of a plan, where the GPU is: lwc export {folder} --to tensorrt")
    render.note(report["verdict"]["summary"])
    raise typer.Exit(OK if report["verdict"]["passed"] else GATE_FAILED)


@app.command()
def plan(recipe: RecipePath, overrides: Overrides = None, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Show which stages would run and why, without running any."""
    from lwc import render
    from lwc.pipeline import plan as plan_line

    plans = plan_line(_load(recipe, overrides), runs)
    if as_json:
        _print_json([{"stage": p.stage.name, "hit": p.hit, "why": p.reason, "key": p.key} for p in plans])
    else:
        render.plan_table(plans)


@app.command()
def validate(recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE...")], overrides: Overrides = None) -> None:
    """Check recipes; every problem of a file is reported in one go."""
    from lwc import render

    failed: LwcError | None = None
    for path in recipes:
        try:
            loaded = _load(path, overrides)
        except LwcError as problem:
            render.error(problem)
            failed = problem
        else:
            render.note(f"{path}: ok ({loaded.name}, {loaded.target.ratio:g}x of {loaded.target.of})")
    if failed is not None:
        raise typer.Exit(failed.exit_code)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a recipe, for editors."""
    from lwc.recipe import Recipe

    _print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()})


@app.command()
def score(recipe: RecipePath, overrides: Overrides = None, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Train (or reuse) the model and rank its blocks."""
    from lwc import render
    from lwc.artifacts import read_json

    results = _run_line(_load(recipe, overrides), runs, "score")
    importance = read_json(results["score"].path / "importance.json")
    if as_json:
        _print_json(importance)
    else:
        render.importance_table(importance)


@app.command()
def serve(
    repository: Annotated[Path, typer.Argument(help="a repository folder, e.g. triton_models/amazon_2.5x")],
    http_port: Annotated[int, typer.Option(help="0 picks a free one")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="0 picks a free one")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="0 picks a free one")] = 8002,
    docker: Annotated[bool, typer.Option("--docker", help="print and use the official image")] = False,
    control: Annotated[bool, typer.Option("--control", help="let `lwc deploy` load (key: LWC_ADMIN_KEY)")] = False,
) -> None:
    """Serve a repository until Ctrl-C: embedded Triton on 127.0.0.1, or the official image."""
    from lwc import render
    from lwc.serving.foreground import serve_docker, serve_embedded

    key = os.environ.get("LWC_ADMIN_KEY", "")
    if docker and control:
        raise RecipeError("--control is for the embedded server", "add its flags to deploy/serve.sh")
    if docker:
        raise typer.Exit(serve_docker(repository, http_port, grpc_port, metrics_port, render.note))
    serve_embedded(repository, http_port, grpc_port, metrics_port, render.note, control, key)


ServerUrl = Annotated[
    Optional[str],  # noqa: UP045 - typer reads the annotation at run time
    typer.Option(help="HTTP host:port of the server that reads DIR (its key: LWC_ADMIN_KEY); unset: files only"),
]
LoadSeconds = Annotated[float, typer.Option("--seconds", min=1.0, help="wait this long for one model")]


@app.command()
def deploy(
    repository: Annotated[Path, typer.Argument(help="the new version, e.g. triton_models/amazon_2.5x")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="the repository that a server reads")],
    url: ServerUrl = None,
    samples: Annotated[Optional[Path], typer.Option(help="labelled texts to ask both versions")] = None,  # noqa: UP045
    min_agreement: Annotated[Optional[float], typer.Option(min=0.0, max=1.0)] = None,  # noqa: UP045
    min_accuracy: Annotated[Optional[float], typer.Option(min=0.0, max=1.0)] = None,  # noqa: UP045
    max_latency_ratio: Annotated[Optional[float], typer.Option(min=0.0, help="new ÷ live, medians")] = None,  # noqa: UP045
    seconds: LoadSeconds = 300.0,
    as_json: AsJson = False,
) -> None:
    """Put a new version beside the live one, check it, switch to it; no request fails. Exit 3: the live one stays."""
    from lwc import render
    from lwc.serving.canary import Limits
    from lwc.serving.rollout import Target
    from lwc.serving.rollout import deploy as roll_out

    target = Target(to, url, os.environ.get("LWC_ADMIN_KEY", ""), seconds)
    limits = Limits(min_agreement, min_accuracy, max_latency_ratio)
    result = roll_out(repository, target, samples, limits, render.note)
    if as_json:
        _print_json(result)
    elif result["check"]:
        render.tree(result["check"])


@app.command()
def rollback(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="the repository that a server reads")],
    url: ServerUrl = None,
    model: Annotated[Optional[str], typer.Option(help="where several were deployed to DIR")] = None,  # noqa: UP045
    seconds: LoadSeconds = 300.0,
    as_json: AsJson = False,
) -> None:
    """Go back to the version before the live one; no request fails."""
    from lwc import render
    from lwc.serving.rollout import Target
    from lwc.serving.rollout import rollback as roll_back

    result = roll_back(Target(directory, url, os.environ.get("LWC_ADMIN_KEY", ""), seconds), model, render.note)
    if as_json:
        _print_json(result)


@app.command()
def loadtest(
    samples: Annotated[
        Path,
        typer.Argument(help="texts, with labels if the model gives any: a run's verify/samples.parquet, CSV, JSONL"),
    ],
    model: Annotated[str, typer.Option(help="served model that takes text")],
    url: Annotated[str, typer.Option(help="host:port of the server")] = "127.0.0.1:8000",
    metrics_url: Annotated[Optional[str], typer.Option(help="host:port of its metrics")] = None,  # noqa: UP045
    label_output: Annotated[Optional[str], typer.Option(help="output with the label")] = None,  # noqa: UP045
    protocol: Annotated[Literal["http", "grpc"], typer.Option(help="wire protocol")] = "http",
    users: Annotated[int, typer.Option(min=1, help="each waits for its answer (closed loop)")] = 4,
    connections: Annotated[int, typer.Option(min=1, help="in place of users with --rate, --find-rate")] = 64,
    rate: Annotated[Optional[float], typer.Option(help="requests/s, answered or not (open loop)")] = None,  # noqa: UP045
    arrivals: Annotated[Literal["poisson", "constant"], typer.Option(help="of --rate")] = "poisson",
    rate_tolerance: Annotated[float, typer.Option(min=0.0, max=1.0, help="exit 3 past this shortfall")] = 0.05,
    seed: Annotated[int, typer.Option(help="of the arrivals")] = 17,
    find_rate: Annotated[bool, typer.Option("--find-rate", help="the highest rate within --max-p95-ms")] = False,
    against: Annotated[Optional[str], typer.Option(help="--find-rate of this model too, in turns")] = None,  # noqa: UP045
    workers: Annotated[int, typer.Option(min=1, help="processes that send; one uses one core")] = 1,
    seconds: Annotated[Optional[float], typer.Option(min=1.0, help="15; with --find-rate 5")] = None,  # noqa: UP045
    warmup: Annotated[float, typer.Option(min=0.0)] = 2.0,
    max_error_rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="exit 3 above it")] = 0.0,
    max_p95_ms: Annotated[Optional[float], typer.Option(help="exit 3 above it")] = None,  # noqa: UP045
    min_requests: Annotated[int, typer.Option(min=1)] = 50,
    out: Annotated[Path, typer.Option(help="where HTML, CSV and raw samples go")] = Path("loadtest"),
    as_json: AsJson = False,
) -> None:
    """Load-test a served text model with Locust and check its answers. Exit 3 past a threshold."""
    from lwc import render
    from lwc.serving.loadtest.endpoint import connect
    from lwc.serving.loadtest.find_rate import Objective, find_rates
    from lwc.serving.loadtest.run import Load, check_thresholds, run_loadtest
    from lwc.serving.loadtest.samples import read_samples
    from lwc.serving.loadtest.search import Search

    load = Load(
        users=connections if find_rate or rate is not None else users,
        seconds=seconds or (5.0 if find_rate else 15.0),
        warmup_seconds=warmup, rate=rate, arrivals=arrivals, seed=seed, workers=workers,
    )  # fmt: skip
    if against is not None and not find_rate:
        raise RecipeError("--against compares the rates that --find-rate finds", "add --find-rate")
    endpoint = connect(url, protocol, model, metrics_url, label_output)
    texts = read_samples(samples, labelled=endpoint.text.label is not None)
    if find_rate:
        if max_p95_ms is None:
            raise RecipeError("--find-rate needs the objective it must meet", "add --max-p95-ms")
        found = find_rates(
            [endpoint, *([connect(url, protocol, against, metrics_url, label_output)] if against else [])],
            Objective(max_p95_ms, max_error_rate, rate_tolerance),
            Search() if rate is None else Search(start=rate),
            load, texts, out, progress=render.note,
        )  # fmt: skip
        if as_json:
            _print_json(found)
        render.found_rates(found)
        raise typer.Exit(OK if all(one["rate_rps"] for one in found["models"].values()) else GATE_FAILED)
    result = run_loadtest(endpoint, load, texts, out, min_requests)
    failures = check_thresholds(result, max_error_rate, max_p95_ms, rate_tolerance)
    if as_json:
        _print_json(result)
    render.loadtest(result)
    for failure in failures:
        render.note(f"FAIL {failure}")
    raise typer.Exit(GATE_FAILED if failures else OK)


@app.command()
def report(recipe: RecipePath, overrides: Overrides = None, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Decide the gates and write the report again from finished stages; runs no stage."""
    from lwc import render
    from lwc.finish import refresh

    loaded = _load(recipe, overrides)
    written = refresh(loaded, runs)
    if as_json:
        _print_json(written)
    render.quality_table(written)
    render.gates_table(written["gates"])
    raise typer.Exit(OK if written["verdict"]["passed"] else GATE_FAILED)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Tell what this machine can do, with the fix for each lack."""
    from lwc import render
    from lwc.doctor import examine

    checks = examine()
    if as_json:
        _print_json([check.__dict__ for check in checks])
    else:
        render.doctor_table(checks)


@data_app.command("inspect")
def data_inspect(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Read, clean and split a recipe's data and show its quality report; nothing is kept."""
    from lwc import render
    from lwc.data.inspect import inspect
    from lwc.recipe import NextItem

    loaded = _load(recipe, overrides)
    if isinstance(loaded.task, NextItem):
        from lwc.recommender.prepare import inspect as inspect_histories

        quality = inspect_histories(loaded, loaded.task)
    else:
        quality = inspect(loaded.data, loaded.seed)
    if as_json:
        _print_json(quality)
    else:
        render.tree(quality)


@data_app.command("ingest")
def data_ingest(
    recipe: RecipePath,
    overrides: Overrides = None,
    out: Annotated[Optional[Path], typer.Option(help="default: ingested/<recipe name>")] = None,  # noqa: UP045
    workers: Annotated[Optional[int], typer.Option(min=1, help="default: the CPUs of this machine")] = None,  # noqa: UP045
    tokenizer: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="tokenizer.json, or a model's folder: token ids are written too"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read a source of any size into cleaned, de-duplicated, split shards, with a quality report; resumable."""
    from lwc import render
    from lwc.data.ingest.run import ingest, workers_pool
    from lwc.data.ingest.tokens import tokenize, tokenizer_file
    from lwc.environment import cpu_limit
    from lwc.report.data_page import data_page

    loaded = _load(recipe, overrides)
    folder = out or Path("ingested") / loaded.name
    with render.RunView() as view:

        def say(text: str) -> None:
            view.event("progress", "ingest", text)

        if tokenizer is not None:
            tokenizer_file(tokenizer)  # told before the reading, not after
        quality = ingest(loaded.data, loaded.seed, folder, workers, say)
        if tokenizer is not None:
            with workers_pool(workers or cpu_limit()) as pool:
                tokenize(folder, tokenizer, loaded.model.max_length, pool, say)
    page = folder / "quality.html"
    page.write_text(data_page(quality, loaded.name), encoding="utf-8")
    if as_json:
        _print_json(quality)
    used, read = quality["rows_used"], quality["rows_read"]
    render.note(
        f"{read:,} rows read, {used:,} kept, {sum(quality['rows_bad'].values()):,} in {folder / 'quarantine.jsonl'}"
    )
    render.note(f"report: {page}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders; the first is the reference")],
    out: Annotated[Optional[Path], typer.Option(help="folder for compare.md and compare.html")] = None,  # noqa: UP045
    as_json: AsJson = False,
) -> None:
    """Set runs side by side: recipes, quality with a paired test, ratios, latency, cost."""
    from lwc import render
    from lwc.report.compare import compare as compare_runs
    from lwc.report.compare_html import to_html, to_markdown

    found = compare_runs(runs)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "compare.md").write_text(to_markdown(found), encoding="utf-8")
        (out / "compare.html").write_text(to_html(found), encoding="utf-8")
        render.note(f"written: {out / 'compare.html'}, {out / 'compare.md'}")
    if as_json:
        _print_json(found)
    elif out is None:
        typer.echo(to_markdown(found))


@app.command()
def sweep(recipe: RecipePath, overrides: Overrides = None, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Run a recipe at each ratio of its sweep section, up to export, and draw the frontier. Exit 2 if none succeeds."""
    from lwc import distributed, render
    from lwc.pipeline import run_folder
    from lwc.report.frontier import frontier_html, frontier_markdown
    from lwc.sweeping import sweep as sweep_recipe

    if distributed.count() > 1:
        raise LwcError("lwc sweep runs in one process", "start it without a launcher", exit_code=USAGE)
    loaded = _load(recipe, overrides)
    with render.RunView() as view:
        rows = sweep_recipe(loaded, runs, view.event)
    folder = run_folder(runs, loaded)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "frontier.md").write_text(frontier_markdown(rows), encoding="utf-8")
    (folder / "frontier.html").write_text(frontier_html(rows), encoding="utf-8")
    if as_json:
        _print_json(rows)
    else:
        typer.echo(frontier_markdown(rows))
    render.note(f"frontier: {folder / 'frontier.html'}")
    raise typer.Exit(USAGE if all(row["error"] for row in rows) else OK)


@app.command()
def export(
    source: Annotated[Path, typer.Argument(metavar="RUN_OR_RECIPE", help="runs/NAME, or a recipe that has run")],
    to: Annotated[Literal["tensorrt", "tensorrt-rtx"], typer.Option(help="tensorrt needs the GPU it builds for")],
    precision: Annotated[
        Optional[Literal["fp16", "fp32"]],  # noqa: UP045
        typer.Option(help="by default the recipe's export.tensorrt.precision"),
    ] = None,
    out: Annotated[Optional[Path], typer.Option(help="by default runs/NAME/TO")] = None,  # noqa: UP045
    built: Annotated[bool, typer.Option("--built", help="stamp the plan that the printed command left in OUT")] = False,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    models: Annotated[Path, typer.Option("--triton-models", help="where the plan's repository is put")] = Path(
        "triton_models"
    ),
    as_json: AsJson = False,
) -> None:
    """Build a TensorRT plan from the model of a finished run, with a stamp of where it runs. Exit 4 without a GPU."""
    from lwc import render
    from lwc.exporting import export_plan, find_run

    found = find_run(source, runs, overrides or ())
    stamp = export_plan(found, to, precision or found.recipe.export.tensorrt.precision, out, models, built, render.note)
    if as_json:
        _print_json(stamp)


@app.command()
def families(as_json: AsJson = False) -> None:
    """Model types whose blocks can be removed, and those that are refused, with the reason."""
    from lwc import render
    from lwc.models.families import families_table

    rows = families_table()
    if as_json:
        _print_json(rows)
    else:
        render.families(rows)


@repo_app.command("check")
def repo_check(
    repository: Annotated[Path, typer.Argument(help="a model repository, made by lwc or not")],
    gpus: Annotated[Optional[int], typer.Option(help="GPUs of the target; unset: not judged")] = None,  # noqa: UP045
    here: Annotated[bool, typer.Option("--here", help="the target is this machine: its GPU and its TensorRT")] = False,
    as_json: AsJson = False,
) -> None:
    """Find what Triton would refuse, and what it would silently accept. Exit 2 on an error."""
    from lwc import render
    from lwc.serving.check import Machine, inspect_repository, this_machine

    found = inspect_repository(repository, this_machine() if here else Machine(gpus=gpus))
    if as_json:
        _print_json([finding.__dict__ for finding in found])
    else:
        render.findings(found)
    raise typer.Exit(USAGE if any(finding.severity == "error" for finding in found) else OK)


def _quiet() -> None:
    """Libraries' own progress bars and load reports would cut through ours; a user's setting wins."""
    for name, value in (
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
    ):
        os.environ.setdefault(name, value)


def _stop_on_signals() -> None:
    """End as on Ctrl-C when told to stop or when the terminal closes: servers that we started must not stay behind."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for name in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) is not signal.SIG_IGN:  # nohup means it
            signal.signal(name, stop)


def main() -> None:
    """Entry point: turns exceptions into one message and the documented exit code."""
    debug = "--debug" in sys.argv
    if not debug:
        _quiet()
    _stop_on_signals()
    try:
        code = app(standalone_mode=False)
    except LwcError as problem:
        if debug:
            traceback.print_exc()
        from lwc import distributed, render

        if not (isinstance(problem, distributed.PeerLost) and distributed.launched()):
            render.error(problem)
        sys.exit(problem.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except ModuleNotFoundError as problem:
        if debug:
            traceback.print_exc()
        typer.echo(f"error: {problem}\n  do: pip install 'lwc[serve]'; `lwc doctor` tells what is missing", err=True)
        sys.exit(MISSING)
    except OSError as problem:
        if debug:
            traceback.print_exc()
        typer.echo(f"error: {problem}\n  do: check that the path exists, can be written, and has room", err=True)
        sys.exit(USAGE)
    except Exception as problem:
        shown = getattr(problem, "show", None)
        if shown is not None:  # a usage error of the command-line parser
            shown()
            sys.exit(2)
        if debug:
            raise
        typer.echo(f"bug: {type(problem).__name__}: {problem}\n  do: run again with --debug and report it", err=True)
        sys.exit(BUG)
    from lwc.distributed import launched

    if code == INTERRUPTED and not launched():  # the parser turns Ctrl-C into this code, or lets the exception through
        typer.echo("interrupted; run the same command again to go on from here", err=True)
    sys.exit(code if isinstance(code, int) else OK)


if __name__ == "__main__":
    main()
