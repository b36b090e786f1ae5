"""`lwc store`: what the stage store contains, and freeing its space."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from lwc.cli import terminal as render
from lwc.cli.options import AsJson, Runs, print_json

_UNITS = ("B", "kB", "MB", "GB", "TB")


def _size(count: float) -> str:
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {_UNITS[-1]}"


def _age(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"


def store_ls(runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """List stage results with their size and age, and the runs that use them."""
    from lwc.pipeline.housekeeping import contents

    found, now = contents(runs), time.time()
    if as_json:
        print_json([{**vars(one), "path": str(one.path)} for one in found])
        return
    table = Table("stage", "result", "size", "age", "used by", box=None)
    for one in found:
        users = ", ".join(one.runs) or ("in use" if one.held else "no run")
        table.add_row(one.stage, one.name, _size(one.bytes), _age(now - one.written), escape(users))
    render.console.print(table)
    free = sum(one.bytes for one in found if not one.needed)
    total = sum(one.bytes for one in found)
    render.note(f"{_size(total)} in {len(found)} results, of which {_size(free)} are used by no run: lwc store prune")


def store_prune(
    runs: Runs = Path("runs"),
    older_than: Annotated[float, typer.Option(min=0.0, metavar="DAYS", help="keep what is younger")] = 0.0,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="also delete interrupted work, which a run would resume")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list what would be deleted")] = False,
) -> None:
    """Delete stage results that no run uses. A run's results stay as long as its folder does."""
    from lwc.pipeline.housekeeping import contents, prune, unneeded

    going = unneeded(contents(runs), older_than, unfinished)
    if dry_run:
        for one in going:
            render.note(f"{one.stage} {one.name}  {_size(one.bytes)}")
        render.note(f"would free {_size(sum(one.bytes for one in going))} in {len(going)} results")
        return
    freed = prune(going, lambda one: render.note(f"deleted {one.stage} {one.name}  {_size(one.bytes)}"))
    render.note(f"freed {_size(freed)}")
