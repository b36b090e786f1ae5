"""Commands that describe data, models and this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional, cast

import typer

from lwc.cli.options import AsJson, Overrides, RecipePath, load, print_json


def data_inspect(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Read, clean and split a recipe's data and show its quality report. Nothing is kept."""
    from lwc.cli import terminal as render
    from lwc.pipeline.stages import inspect

    quality = inspect(load(recipe, overrides))
    if as_json:
        print_json(quality)
    else:
        render.tree(quality)


def data_ingest(
    recipe: RecipePath,
    overrides: Overrides = None,
    out: Annotated[Optional[Path], typer.Option(help="default: ingested/<recipe name>")] = None,  # noqa: UP045
    workers: Annotated[Optional[int], typer.Option(min=1, help="processes; default: one for each CPU")] = None,  # noqa: UP045
    as_json: AsJson = False,
) -> None:
    """Read a source of any size into cleaned, deduplicated, split shards, with a quality report. Can be resumed."""
    from lwc.cli import terminal as render
    from lwc.data.ingest.run import ingest
    from lwc.report.data_page import Ingested, data_page

    loaded = load(recipe, overrides)
    folder = out or Path("ingested") / loaded.name
    with render.RunView() as view:

        def say(text: str) -> None:
            view.event("progress", "ingest", text)

        quality = ingest(loaded.data, loaded.seed, folder, workers, say)
    page = folder / "quality.html"
    page.write_text(data_page(cast(Ingested, quality), loaded.name), encoding="utf-8")
    if as_json:
        print_json(quality)
    used, read = quality["rows_used"], quality["rows_read"]
    render.note(
        f"{read:,} rows read, {used:,} kept, {sum(quality['rows_bad'].values()):,} in {folder / 'quarantine.jsonl'}"
    )
    render.note(f"report: {page}")


def families(as_json: AsJson = False) -> None:
    """List the model types whose blocks can be removed, and those that are refused, with the reason."""
    from lwc.cli import terminal as render
    from lwc.models.families import families_table

    rows = families_table()
    if as_json:
        print_json(rows)
    else:
        render.families(rows)


def doctor(as_json: AsJson = False) -> None:
    """Check what this machine can do. Each missing piece is listed with its fix."""
    from lwc.cli import terminal as render
    from lwc.cli.doctor import examine

    checks = examine()
    if as_json:
        print_json([check.__dict__ for check in checks])
    else:
        render.doctor_table(checks)
