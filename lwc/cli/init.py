"""`lwc init`: a recipe for the user's own data and checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lwc.cli import terminal as render
from lwc.core.errors import RecipeError
from lwc.core.store import write_whole


def init(
    data: Annotated[list[Path], typer.Argument(metavar="DATA...", help="tables of texts and labels: CSV, Parquet, …")],
    model: Annotated[str | None, typer.Option("--model", help="checkpoint: folder, hub id or package:<module>")] = None,
    name: Annotated[str | None, typer.Option(help="name of the recipe; by default that of the data")] = None,
    out: Annotated[Path | None, typer.Option(help="file to write; by default NAME.yaml")] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite the file")] = False,
) -> None:
    """Look at data and a checkpoint, and write a commented recipe for them. Trains nothing."""
    from lwc.pipeline.draft import DEFAULT_MODEL, draft, named_after

    chosen = name or named_after(str(data[0]))
    path = out or Path(f"{chosen}.yaml")
    if path.exists() and not force:
        raise RecipeError(f"{path} exists", "choose another --name or --out, or overwrite it with --force")
    text, found = draft([str(one) for one in data], model or DEFAULT_MODEL, chosen)
    from lwc.recipe.file import parse_recipe

    parse_recipe(text, str(path))
    write_whole(path, text.encode())
    for line in found:
        render.note(line)
    render.places({"recipe": str(path)})
    render.note(f"check the lines marked (guess), then: lwc validate {path} --deep && lwc run {path}")
