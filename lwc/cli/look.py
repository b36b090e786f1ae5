"""Commands that describe data, models and this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from lwc.cli import terminal as render
from lwc.cli.options import AsJson, Overrides, RecipePath, load, print_json, show
from lwc.cli.view import RunView

if TYPE_CHECKING:
    from lwc.report.content_types import DataQuality


def data_inspect(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Read, clean and split a recipe's data and show its quality report. Nothing is kept."""
    from lwc.pipeline.purposes import data
    from lwc.pipeline.stages import inspect
    from lwc.report.data_warnings import data_warnings

    loaded = load(recipe, overrides)
    with RunView() as view, view.stage("data", data(loaded, {})) as say:
        quality = inspect(loaded, say)
    show(quality, as_json, render.tree)
    for text in data_warnings(cast("DataQuality", quality), loaded.task.name, loaded.train.skip):
        render.warning(text)


def data_ingest(
    recipe: RecipePath,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="default: ingested/<recipe name>")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="processes; default: one for each CPU")] = None,
    as_json: AsJson = False,
) -> None:
    """Read a source of any size into cleaned, deduplicated, split shards, with a quality report. Can be resumed."""
    from lwc.data.ingest.run import ingest
    from lwc.report.data_page import Ingested, data_page
    from lwc.report.data_warnings import data_warnings

    loaded = load(recipe, overrides)
    folder = out or Path("ingested") / loaded.name
    with RunView() as view, view.stage("ingest", "reads, cleans, de-duplicates and splits the data") as say:
        quality = ingest(loaded.data, loaded.seed, folder, workers, say)
        say(f"{quality['rows_read']:,} rows read, {quality['rows_used']:,} kept")
    page = folder / "quality.html"
    labels, task, found = loaded.data.labels, loaded.task.name, cast(Ingested, quality)
    page.write_text(data_page(found, loaded.name, labels, task), encoding="utf-8")
    for text in data_warnings(found, task):
        render.warning(text)
    if as_json:
        print_json(quality)
    bad = sum(quality["rows_bad"].values())
    render.places({
        "shards": str(folder), "bad rows": f"{folder / 'quarantine.jsonl'} ({bad:,})", "report": str(page),
    })  # fmt: skip


def families(as_json: AsJson = False) -> None:
    """List the model types whose blocks can be removed, and those that are refused, with the reason."""
    from lwc.models.families import families_table

    show(families_table(), as_json, render.families)


def doctor(as_json: AsJson = False) -> None:
    """Check what this machine can do. Each missing piece is listed with its fix."""
    from lwc.cli.doctor import examine

    show(examine(), as_json, render.doctor_table)
