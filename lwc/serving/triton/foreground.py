"""Serve a repository in the foreground until the user stops it."""

from __future__ import annotations

import subprocess
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from lwc.core.errors import MissingDependency, RecipeError, ServingError
from lwc.serving.checks.model import Machine
from lwc.serving.checks.run import check_repository
from lwc.serving.triton.config import parse
from lwc.serving.triton.environment import ensure
from lwc.serving.triton.readme import curl_commands
from lwc.serving.triton.server import HOST, TritonServer, docker_command

IMAGE = "lwc-triton:26.07"
CACHE_BYTES = 64 * 1024**2
# The official image lacks one package that the text model needs.
DOCKERFILE = """\
FROM nvcr.io/nvidia/tritonserver:26.07-py3
RUN pip install --no-cache-dir 'tokenizers>=0.20,<1'
"""


RESTARTS = 3
RESTART_SECONDS = 600.0
WATCH_SECONDS = 0.5
# The embedded server has no GPU backend, whatever the machine has.
EMBEDDED = Machine(gpus=0)
_NOTICE = """\
The embedded server is for development and tests; in production use an image of 26.07 or later (--docker).
Ctrl-C stops it."""


def check_servable(repository: Path, say: Callable[[str], None], machine: Machine = EMBEDDED) -> None:
    """Refuse what the server would refuse, with both sides of each fault; say what it would ignore."""
    if not repository.is_dir() or not any(repository.glob("*/config.pbtxt")):
        raise RecipeError(
            f"{repository}: no Triton model repository (no */config.pbtxt)", "give the folder that `lwc run` printed"
        )
    for line in check_repository(repository, machine):
        say(line)


def serve_embedded(
    repository: Path,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    say: Callable[[str], None],
    control: bool = False,
    key: str = "",
) -> None:
    """Serve on 127.0.0.1 until Ctrl-C; a server with a dead model process, which never comes back, starts again.

    Raises:
        ServingError: it does not start, or died once more than ``RESTARTS`` times within ``RESTART_SECONDS``.
    """
    if control and not key:
        raise RecipeError("--control without a key", "set LWC_ADMIN_KEY, here and for `lwc deploy`")
    if not (control and repository.is_dir() and not any(repository.glob("*/"))):  # empty: the first deploy fills it
        check_servable(repository, say)
    ensure(say)  # the first time it takes a while
    server = TritonServer(repository, http_port, grpc_port, metrics_port, control=control, key=key)
    starts: deque[float] = deque(maxlen=RESTARTS + 1)
    while True:
        starts.append(time.monotonic())
        with server:
            say(f"ready  http {server.http_url}  grpc {server.grpc_url}  metrics {server.metrics_url}")
            say(f"log    {server.log_path}")
            if len(starts) == 1:
                for command in curl_commands(repository, server.http_url):
                    say(f"try    {command}")
                say(_NOTICE)
            try:
                while server.running and not (dead := server.dead_instances):
                    time.sleep(WATCH_SECONDS)
            except KeyboardInterrupt:
                say("stopping")
                return
            what = f"model processes died: {', '.join(dead)}" if server.running else "the server ended by itself"
            log = server.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
            server.stop(polite=False)  # it would wait for the dead
        tail = "\n".join(log[-15:])
        if len(starts) > RESTARTS and starts[-1] - starts[0] < RESTART_SECONDS:
            raise ServingError(
                f"{what}, {len(starts)} times in {RESTART_SECONDS:g} seconds; the end of its log:\n{tail}",
                "find the cause: memory, a text, or the model's own code",
            )
        say(f"{what}; starting again. The end of its log:\n{tail}")


def serve_docker(
    repository: Path, http_port: int, grpc_port: int, metrics_port: int, say: Callable[[str], None]
) -> int:
    """Print the commands that serve in the official image, and run them; returns the exit status."""
    check_servable(repository, say, Machine())
    build = ["docker", "build", "--tag", IMAGE, "-"]
    serve = docker_command(repository.resolve(), http_port, grpc_port, metrics_port, IMAGE)
    configs = [parse(path.read_text(encoding="utf-8")) for path in sorted(repository.glob("*/config.pbtxt"))]
    if any(config.response_cache.enable for config in configs):
        serve.append(f"--cache-config=local,size={CACHE_BYTES}")
    if any(group.kind == group.KIND_GPU for config in configs for group in config.instance_group):
        serve.insert(2, "--gpus=all")
    say(f"{' '.join(build)} <<'EOF'\n{DOCKERFILE}EOF")
    say(" ".join(serve))
    for command in curl_commands(repository, f"{HOST}:{http_port}"):
        say(f"try    {command}")
    try:
        built = subprocess.run(build, input=DOCKERFILE, text=True, check=False)
        if built.returncode != 0:
            raise MissingDependency("docker cannot build the image (see its message above)", "start the Docker engine")
        return subprocess.run(serve, check=False).returncode
    except FileNotFoundError as error:
        raise MissingDependency(
            "docker is not installed", "install it, or run the printed commands elsewhere"
        ) from error
