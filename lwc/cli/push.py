"""`lwc push`: a finished run's model to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lwc.cli import terminal as render


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a finished run, e.g. runs/amazon_2.5x")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="USER/NAME on the hub; made if it is not there")],
    private: Annotated[bool, typer.Option("--private", help="make the repository private")] = False,
    endpoint: Annotated[str | None, typer.Option(help="address of the hub; by default HF_ENDPOINT")] = None,
) -> None:
    """Upload a run's model folder with its model card to the Hugging Face hub (token: `hf auth login` or HF_TOKEN)."""
    from lwc.pipeline.hub import push as upload

    render.note(upload(run, repo_id, private, endpoint, render.note))
