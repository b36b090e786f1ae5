"""Serve a repository in the foreground until the user stops it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from lwc.errors import MissingDependency, RecipeError, ServingError
from lwc.serving.check import Machine, check_repository
from lwc.serving.server import TritonServer, docker_command
from lwc.serving.triton_config import parse

IMAGE = "lwc-triton:26.07"
CACHE_BYTES = 64 * 1024**2
# The official image lacks one package that the text model needs.
DOCKERFILE = """\
FROM nvcr.io/nvidia/tritonserver:26.07-py3
RUN pip install --no-cache-dir 'tokenizers>=0.20,<1'
"""


def _check(repository: Path, say: Callable[[str], None], machine: Machine) -> None:
    """Refuse what the server would refuse, with both sides of each fault; say what it would ignore."""
    if not repository.is_dir() or not any(repository.glob("*/config.pbtxt")):
        raise RecipeError(
            f"{repository}: no Triton model repository (no */config.pbtxt)", "give the folder that `lwc run` named"
        )
    for line in check_repository(repository, machine):
        say(line)


def serve_embedded(
    repository: Path, http_port: int, grpc_port: int, metrics_port: int, say: Callable[[str], None]
) -> None:
    """Start the embedded server on 127.0.0.1 and wait for Ctrl-C or for the server to end."""
    _check(repository, say, Machine(gpus=0))  # it has no GPU backend, whatever the machine has
    ports = {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
    with TritonServer(repository, **ports) as server:
        say(f"ready  http {server.http_url}  grpc {server.grpc_url}  metrics {server.metrics_url}")
        say(f"log    {server.log_path}")
        say(
            "The embedded server is for development and tests; in production use an image of 26.07 or later (--docker)."
        )
        say("Ctrl-C stops it.")
        try:
            while server.running and not server.dead_instances:
                time.sleep(0.5)
        except KeyboardInterrupt:
            say("stopping")
            return
        dead = server.dead_instances
        what = f"model processes died: {', '.join(dead)}" if dead else "the server ended by itself"
        tail = "\n".join(server.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise ServingError(f"{what}; the end of its log:\n{tail}", "start it again; report it if it stays")


def serve_docker(
    repository: Path, http_port: int, grpc_port: int, metrics_port: int, say: Callable[[str], None]
) -> int:
    """Print the commands that serve in the official image, and run them; returns the exit status."""
    _check(repository, say, Machine())
    build = ["docker", "build", "--tag", IMAGE, "-"]
    serve = docker_command(repository.resolve(), http_port, grpc_port, metrics_port, IMAGE)
    configs = [parse(path.read_text(encoding="utf-8")) for path in sorted(repository.glob("*/config.pbtxt"))]
    if any(config.response_cache.enable for config in configs):
        serve.append(f"--cache-config=local,size={CACHE_BYTES}")
    if any(group.kind == group.KIND_GPU for config in configs for group in config.instance_group):
        serve.insert(2, "--gpus=all")
    say(f"{' '.join(build)} <<'EOF'\n{DOCKERFILE}EOF")
    say(" ".join(serve))
    try:
        built = subprocess.run(build, input=DOCKERFILE, text=True, check=False)
        if built.returncode != 0:
            raise MissingDependency(
                "docker cannot build the image (its message stands above)", "start the Docker engine"
            )
        return subprocess.run(serve, check=False).returncode
    except FileNotFoundError as error:
        raise MissingDependency(
            "docker is not installed", "install it, or run the printed commands elsewhere"
        ) from error
