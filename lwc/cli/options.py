"""Options that commands share, and functions to load a recipe, run the line and print JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from lwc.cli import terminal as render
from lwc.core.errors import OK

if TYPE_CHECKING:  # `lwc --help` reads no recipe
    from lwc.pipeline.run import StageResult
    from lwc.recipe import Recipe

T = TypeVar("T")

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="recipe file, e.g. recipes/amazon_2.5x.yaml")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="override one key, e.g. --set train.epochs=1; can be repeated", metavar="KEY=VALUE"),
]
Runs = Annotated[Path, typer.Option("--runs", help="folder of the runs and of the stage store")]
AsJson = Annotated[bool, typer.Option("--json", help="machine-readable result on stdout")]


def load(path: Path, overrides: list[str] | None) -> Recipe:
    """The recipe of a file, with ``--set`` applied, and its gates checked."""
    from lwc.recipe.file import load_recipe
    from lwc.report.gate_names import unmeasured

    return load_recipe(path, overrides or (), [unmeasured])


def print_json(value: object) -> None:
    """``value`` on stdout."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=vars))


def show(value: T, as_json: bool, for_people: Callable[[T], None]) -> None:
    """``value`` as JSON on stdout, or for people on stderr."""
    if as_json:
        print_json(value)
    else:
        for_people(value)


def run_line(recipe: Recipe, runs: Path, until: str | None) -> dict[str, StageResult]:
    """Run the stages. Of several processes, all but the main one exit here, silently."""
    from lwc.core import distributed
    from lwc.pipeline.run import run as run_stages

    if not distributed.is_main():
        run_stages(recipe, runs, lambda kind, stage, text: None, until)
        raise typer.Exit(OK)
    with render.RunView() as view:
        return run_stages(recipe, runs, view.event, until)
