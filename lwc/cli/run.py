"""Commands that run a recipe, or read the results of a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from lwc.cli import terminal as render
from lwc.cli.options import AsJson, Overrides, RecipePath, Runs, load, print_json, run_line
from lwc.cli.view import RunView
from lwc.core.errors import GATE_FAILED, OK, USAGE, LwcError

if TYPE_CHECKING:  # `lwc --help` reads no recipe
    from lwc.recipe import Recipe
    from lwc.report.content_types import Report

Until = Annotated[str | None, typer.Option("--until", help="last stage to run")]
Models = Annotated[Path, typer.Option("--triton-models", help="folder to publish the repository to")]


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    models: Models = Path("triton_models"),
    until: Until = None,
    workers: Annotated[int, typer.Option(min=1, help="number of processes")] = 1,
    as_json: AsJson = False,
) -> None:
    """Run a recipe end to end. Exit 3, and publish nothing, if a gate fails or the target is missed."""
    from lwc.core import distributed
    from lwc.pipeline.destination import destinations
    from lwc.pipeline.preflight import MACHINE, Subject, run_checks, serves
    from lwc.pipeline.run import run_folder
    from lwc.pipeline.stages import check_stage, stages_until

    loaded = load(recipe, overrides)
    check_stage(until)
    subject = Subject(loaded, stages_until(until), models=models)
    run_checks(MACHINE, subject)
    if serves(subject) and distributed.is_main():
        from lwc.serving.triton.environment import ensure

        ensure(render.note)
    if workers > 1 and distributed.count() == 1:
        from lwc.core.launcher import launch

        raise typer.Exit(launch([sys.executable, "-m", "lwc", *sys.argv[1:]], workers))
    folder = run_folder(runs, loaded)
    if distributed.is_main():
        render.note(f"{loaded.name}: {loaded.description or recipe}")
    from lwc.pipeline.publish import finish
    from lwc.pipeline.purposes import REPORT
    from lwc.pipeline.tracking import tracked

    with tracked(loaded, runs) as run:
        results = run_line(loaded, runs, until)
        if "verify" in results:
            with RunView() as view, view.stage("report", REPORT):
                report = finish(loaded, results, folder, models)
            run.decided(report, folder)
    if "verify" not in results:
        if "recover" in results:
            render.places({"checkpoint": f"{results['recover'].path / 'model'} (Hugging Face folder)"})
        render.note(f"stopped after {until}; `lwc run {recipe}` resumes there")
        raise typer.Exit(OK)
    further = {}
    kept = [str(place) for place in destinations(loaded, models).values() if place.exists()]
    if kept and not report["verdict"]["passed"]:
        further["published"] = f"{', '.join(kept)} (from an earlier run, unchanged)"
    if "tensorrt" in loaded.package.targets:
        further["TensorRT"] = f"not built; run on the GPU machine: lwc export {folder} --to tensorrt"
    _conclude(report, folder, further, as_json)


def _conclude(report: Report, folder: Path, further: Mapping[str, str], as_json: bool) -> NoReturn:
    """Show a report, the verdict, where everything is and what to do next; exit by the verdict."""
    if as_json:
        print_json(report)
    render.note("")
    render.quality_table(report)
    render.note("")
    render.verdict(report["verdict"])
    render.note("")
    render.decision(report["gates"], report["verdict"])
    render.note("")
    render.places(_places(report, folder, further))
    raise typer.Exit(OK if report["verdict"]["passed"] else GATE_FAILED)


def _places(report: Report, folder: Path, further: Mapping[str, str]) -> dict[str, str | list[str]]:
    """What a run made, by name, and the commands to go on with."""
    made = report["artifacts"]
    assert made is not None  # a run's report has them
    repositories = [os.path.normpath(folder / place) for place in made["repositories"]]
    lies = ", ".join(repositories) or "gone: `lwc run` makes it again"
    held_back = repositories and not made["published"]
    push, serve = f"lwc push {folder} USER/NAME", [f"lwc serve {place}" for place in repositories[:1]]
    return {
        "model": f"{folder / made['model']} (Hugging Face folder with its model card)",
        "report": str(folder / "report.html"),
        "repository": f"not published: {lies}" if held_back else lies,
        **further,
        "next": [f"{one}    # see it served" for one in serve] if held_back else [*serve, push],
    }


def plan(recipe: RecipePath, overrides: Overrides = None, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Show which stages would run, and why, without running any."""
    from lwc.pipeline.run import plan as plan_line

    plans = plan_line(load(recipe, overrides), runs)
    if as_json:
        print_json([{"stage": p.stage.name, "hit": p.hit, "why": p.reason, "key": p.key} for p in plans])
    else:
        render.plan_lines(plans)


def validate(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE...")],
    overrides: Overrides = None,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="also check the data, the checkpoint, this machine and the first --until stages"),
    ] = False,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="print the metrics that a gate may name, and which have an interval")
    ] = False,
    until: Until = None,
    runs: Runs = Path("runs"),
    models: Models = Path("triton_models"),
) -> None:
    """Check recipes. Every problem of a file is reported at once; with --deep, the first that the file does not show.

    --deep reads the data, which `lwc run` reuses, and loads the model. It trains and publishes nothing.
    """
    from lwc.pipeline.checkpoint_fit import unfit_checkpoint

    failed: LwcError | None = None
    for path in recipes:
        try:
            if metrics:
                _print_metrics(path, overrides)
            loaded = load(path, overrides, unfit_checkpoint)
            if deep:
                _validate_deeply(loaded, runs, models, until)
        except LwcError as problem:
            render.error(problem)
            failed = problem
        else:
            render.note(f"{path}: ok ({loaded.name}, {_asked(loaded)})")
    if failed is not None:
        raise typer.Exit(failed.exit_code)


def _asked(recipe: Recipe) -> str:
    from lwc.recipe import Named

    if isinstance(recipe.select, Named):
        return f"without blocks {', '.join(map(str, sorted(recipe.select.blocks)))}"
    return f"{recipe.target.ratio:g}x of {recipe.target.of}"


def _print_metrics(path: Path, overrides: list[str] | None) -> None:
    """On stdout. Gates are not checked first: a wrong one is why somebody needs the list."""
    from lwc.recipe.file import load_recipe
    from lwc.report.gate_names import listed

    typer.echo(render.harmless("\n".join(listed(load_recipe(path, overrides or ())))))
    render.note(
        "`*` is a name and `#` a position that only the run knows; `at: low` judges the lower end of an interval"
    )


def _validate_deeply(recipe: Recipe, runs: Path, models: Path, until: str | None) -> None:
    from lwc.pipeline.deep import UNCHECKED, validate_deeply
    from lwc.pipeline.stages import check_stage

    check_stage(until)
    with RunView() as view:
        validate_deeply(recipe, runs, models, until, view.event, render.note)
    for text in UNCHECKED:
        render.note(f"not checked: {text}")


def schema() -> None:
    """Print the JSON Schema of a recipe, for editors."""
    from lwc.recipe import Recipe

    print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()})


def report(
    recipe: RecipePath,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    models: Models = Path("triton_models"),
    as_json: AsJson = False,
) -> None:
    """Decide the gates and rewrite report and model card from finished stages. Exit codes as for `lwc run`.

    Publishes no repository: `lwc run` does.
    """
    from lwc.pipeline.publish import finished, rewrite
    from lwc.pipeline.purposes import REPORT
    from lwc.pipeline.run import run_folder

    loaded = load(recipe, overrides)
    results, folder = finished(loaded, runs), run_folder(runs, loaded)
    with RunView() as view, view.stage("report", REPORT):
        written = rewrite(loaded, results, folder, models)
    _conclude(written, folder, {}, as_json)


def sweep(recipe: RecipePath, overrides: Overrides = None, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Run a recipe at each ratio of its sweep section, up to export, and plot quality against size and speed.

    If every variant fails, an earlier frontier is kept, and the exit code is that of the first failure.
    """
    from lwc.core import distributed
    from lwc.pipeline.preflight import MACHINE, Subject, run_checks
    from lwc.pipeline.run import run_folder
    from lwc.pipeline.stages import stages_until
    from lwc.pipeline.sweep import sweep as sweep_recipe
    from lwc.report.frontier import frontier_html, frontier_markdown

    if distributed.count() > 1:
        raise LwcError("lwc sweep runs in one process", "run it without torchrun or accelerate", exit_code=USAGE)
    loaded = load(recipe, overrides)
    run_checks(MACHINE, Subject(loaded, stages_until("export")))
    with RunView() as view:
        rows = sweep_recipe(loaded, runs, view.event)
    failed = [row["error"]["exit_code"] for row in rows if row["error"]]
    succeeded = len(failed) < len(rows)
    folder, markdown = run_folder(runs, loaded), frontier_markdown(rows)
    if succeeded:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "frontier.md").write_text(markdown, encoding="utf-8")
        (folder / "frontier.html").write_text(frontier_html(rows), encoding="utf-8")
    if as_json:
        print_json(rows)
    else:
        typer.echo(render.harmless(markdown))
    if not succeeded:
        raise typer.Exit(failed[0])
    render.note(f"frontier: {folder / 'frontier.html'}")
    raise typer.Exit(OK)


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders; the first is the reference")],
    out: Annotated[Path | None, typer.Option(help="folder for compare.md and compare.html")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs: recipes, quality (with a paired test if the task has one), ratios, latency, cost."""
    from lwc.report.compare import compare as compare_runs
    from lwc.report.compare_html import to_html, to_markdown

    found = compare_runs(runs)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "compare.md").write_text(to_markdown(found), encoding="utf-8")
        (out / "compare.html").write_text(to_html(found), encoding="utf-8")
        render.note(f"written: {out / 'compare.html'}, {out / 'compare.md'}")
    if as_json:
        print_json(found)
    elif out is None:
        typer.echo(render.harmless(to_markdown(found)))
