"""Options that commands share, and functions to load a recipe, run the line and print JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from lwc.cli.view import RunView
from lwc.core.errors import OK

if TYPE_CHECKING:  # `lwc --help` reads no recipe
    from lwc.pipeline.run import StageResult
    from lwc.recipe import Recipe
    from lwc.recipe.file import Check

T = TypeVar("T")

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="recipe file, e.g. recipes/amazon_2.5x.yaml")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="override one key, e.g. --set train.epochs=1; can be repeated", metavar="KEY=VALUE"),
]
Runs = Annotated[Path, typer.Option("--runs", help="folder for runs and the stage store")]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON on stdout")]


def load(path: Path, overrides: list[str] | None, *more: Check) -> Recipe:
    """The recipe of a file, with ``--set`` applied, and its gates and the variants of its sweep checked.

    ``more`` are further checks, whose findings are listed with the recipe's other problems.
    """
    from lwc.api.run import read_recipe

    return read_recipe(path, overrides or (), *more)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take dataclasses: their fields become options of the command line.

    Typer reads a command's signature, so this gives it one with a keyword for each field.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    flat: list[Parameter] = []
    for parameter in signature(command).parameters.values():
        if parameter.name in groups:
            types = get_type_hints(groups[parameter.name], include_extras=True)
            flat += [
                Parameter(
                    one.name,
                    Parameter.KEYWORD_ONLY,
                    default=Parameter.empty if one.default is MISSING else one.default,
                    annotation=types[one.name],
                )
                for one in fields(groups[parameter.name])
            ]
        else:
            flat.append(parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[parameter.name]))

    @wraps(command)
    def run(**given: object) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{one.name: given.pop(one.name) for one in fields(kind)})
        command(**given)

    run.__signature__ = Signature(flat)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in flat}
    return run


def print_json(value: object) -> None:
    """``value`` on stdout. What a terminal would obey instead of showing is escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=vars)
    escaped = (one if one == "\n" or one.isprintable() else json.dumps(one)[1:-1] for one in text)
    typer.echo(text if text.isascii() else "".join(escaped))


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
    with RunView() as view:
        return run_stages(recipe, runs, view.event, until)
