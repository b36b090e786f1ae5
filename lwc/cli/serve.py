"""Commands around a Triton repository: build, check, serve, deploy, load-test."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lwc.cli import terminal as render
from lwc.cli.options import AsJson, print_json, show
from lwc.core.errors import OK, USAGE, RecipeError

ServerUrl = Annotated[
    str | None,
    typer.Option(help="HTTP host:port of the server that reads DIR (key: LWC_ADMIN_KEY); by default, none"),
]
LoadSeconds = Annotated[float, typer.Option("--seconds", min=1.0, help="timeout for loading a model")]


def repo_check(
    repository: Annotated[Path, typer.Argument(help="any Triton model repository")],
    gpus: Annotated[int | None, typer.Option(help="GPUs of the target; by default unchecked")] = None,
    here: Annotated[bool, typer.Option("--here", help="check for the GPU and TensorRT of this machine")] = False,
    start: Annotated[
        bool, typer.Option("--start", help="load every model into the embedded Triton; runs the code of Python models")
    ] = False,
    seconds: LoadSeconds = 300.0,
    as_json: AsJson = False,
) -> None:
    """Find problems that Triton would refuse or silently accept. Exit 2 if there is an error."""
    from lwc.serving.checks.model import Machine
    from lwc.serving.checks.run import examine, this_machine
    from lwc.serving.triton.environment import ensure

    if start:
        ensure(render.note)  # before the rest, which may take a while
    found = examine(repository, this_machine() if here else Machine(gpus=gpus), start, seconds)
    show(found, as_json, render.inspection)
    raise typer.Exit(OK if found.sound else USAGE)


def serve(
    repository: Annotated[Path, typer.Argument(help="a repository folder, e.g. triton_models/amazon_2.5x")],
    http_port: Annotated[int, typer.Option(help="0 picks a free one")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="0 picks a free one")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="0 picks a free one")] = 8002,
    docker: Annotated[bool, typer.Option("--docker", help="use the official image, and print its command")] = False,
    control: Annotated[bool, typer.Option("--control", help="allow `lwc deploy` (key: LWC_ADMIN_KEY)")] = False,
) -> None:
    """Serve a repository until Ctrl-C: embedded Triton on 127.0.0.1, or the official image."""
    from lwc.serving.triton.foreground import serve_docker, serve_embedded

    key = os.environ.get("LWC_ADMIN_KEY", "")
    if docker and control:
        raise RecipeError(
            "--control works only with the embedded server", "set LWC_MODEL_CONTROL=explicit for deploy/serve.sh"
        )
    if docker:
        raise typer.Exit(serve_docker(repository, http_port, grpc_port, metrics_port, render.note))
    serve_embedded(repository, http_port, grpc_port, metrics_port, render.note, control, key)


@dataclass(frozen=True)
class Checks:
    """What the new version must pass before it takes over."""

    samples: Annotated[Path | None, typer.Option(help="labelled texts to send to both versions")] = None
    min_agreement: Annotated[float | None, typer.Option(min=0.0, max=1.0)] = None
    min_accuracy: Annotated[float | None, typer.Option(min=0.0, max=1.0)] = None
    max_latency_ratio: Annotated[float | None, typer.Option(min=0.0, help="new ÷ live, median latency")] = None


def deploy(
    repository: Annotated[Path, typer.Argument(help="the new version, e.g. triton_models/amazon_2.5x")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="the repository that a server reads")],
    checks: Checks,
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="live name, if REPOSITORY has another")
    ] = None,
    url: ServerUrl = None,
    seconds: LoadSeconds = 300.0,
    as_json: AsJson = False,
) -> None:
    """Add a version, check it and switch to it without a failed request. Exit 3: the live version stays."""
    from lwc.serving.rollout.canary import Limits
    from lwc.serving.rollout.run import Target
    from lwc.serving.rollout.run import deploy as roll_out

    target = Target(to, url, os.environ.get("LWC_ADMIN_KEY", ""), seconds)
    limits = Limits(checks.min_agreement, checks.min_accuracy, checks.max_latency_ratio)
    result = roll_out(repository, target, checks.samples, limits, render.note, name)
    if as_json:
        print_json(result)
    elif result["check"]:
        render.tree(result["check"])


def rollback(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="the repository that a server reads")],
    url: ServerUrl = None,
    model: Annotated[str | None, typer.Option(help="model name, if DIR has several deployed models")] = None,
    seconds: LoadSeconds = 300.0,
    as_json: AsJson = False,
) -> None:
    """Switch back to the previous version without a failed request."""
    from lwc.serving.rollout.run import Target
    from lwc.serving.rollout.run import rollback as roll_back

    result = roll_back(Target(directory, url, os.environ.get("LWC_ADMIN_KEY", ""), seconds), model, render.note)
    if as_json:
        print_json(result)
