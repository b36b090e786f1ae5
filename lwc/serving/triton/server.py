"""The embedded Triton server: the binary of the nvidia-pytriton wheel, started and stopped without Docker."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import psutil

from lwc.core import http
from lwc.core.children import ProcessGroup
from lwc.core.errors import USAGE, ServingError
from lwc.serving.triton.embedded import assemble_backends, safe_flags
from lwc.serving.triton.environment import ServerEnvironment, ensure

HOST = "127.0.0.1"
STOP_SECONDS = 10.0
LOG_LINES = 15
# The Python backend starts its processes through a shell, with paths that it does not quote and Python reads as ASCII.
_ODD = re.compile(r"[^\w@%+=:,./-]", re.ASCII)


class TritonServer:
    """Serve a model repository on this machine for the length of a ``with`` block.

    Port 0 picks a free port; started again, a server keeps its ports. ``log_path`` is removed on exit with the
    temporary folder; errors quote its last lines. With ``control`` whoever sends ``key`` as the header ``x-lwc-key``
    may load and unload models.
    """

    def __init__(
        self,
        repository: Path,
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        startup_seconds: float = 60.0,
        control: bool = False,
        key: str = "",
    ) -> None:
        self.repository = Path(repository).resolve()
        self.startup_seconds = startup_seconds
        self._ports = {"HTTP": http_port, "gRPC": grpc_port, "metrics": metrics_port}
        self._id = f"lwc-{uuid.uuid4().hex[:12]}"
        self.control = control
        self._key = key or uuid.uuid4().hex  # not the id, which the server tells everybody
        self._folder: Path | None = None
        self._link: Path | None = None  # to a repository whose path the Python backend does not take
        self._process: subprocess.Popen[bytes] | None = None
        self._group: ProcessGroup | None = None
        self._instances: set[str] = set()

    @property
    def http_url(self) -> str:
        """``127.0.0.1:port`` of the HTTP endpoint."""
        return self._url("HTTP")

    @property
    def grpc_url(self) -> str:
        """``127.0.0.1:port`` of the gRPC endpoint."""
        return self._url("gRPC")

    @property
    def metrics_url(self) -> str:
        """``127.0.0.1:port`` of the metrics endpoint (its page is ``/metrics``)."""
        return self._url("metrics")

    @property
    def log_path(self) -> Path:
        """The server's log, there while the server runs."""
        if self._folder is None:
            raise ServingError("the server is not started, so it has no log")
        return self._folder / "server.log"

    @property
    def running(self) -> bool:
        """Whether the server process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the server."""
        if self._process is None:
            raise ServingError("the server is not started, so it has no process")
        return self._process.pid

    @property
    def dead_instances(self) -> list[str]:
        """Model instances whose process ended while their model is loaded.

        The server goes on answering "ready" for them while every request to them fails: only a restart helps.
        """
        living = _instances(self.pid)
        self._instances |= living
        return sorted(name for name in self._instances - living if self._is_loaded(name))

    def _is_loaded(self, instance: str) -> bool:
        """Whether the model of an instance is loaded and runs in processes: a rollout may make it an ensemble."""
        model = instance.rsplit("_", 2)[0]
        described = _get(self.http_url, f"/v2/models/{model}")
        return described is not None and json.loads(described).get("platform") != "ensemble"

    def __enter__(self) -> TritonServer:
        if self._process is not None:
            raise ServingError("this server is already started")
        if not self.repository.is_dir():
            raise ServingError(f"model repository {self.repository} is not a folder")
        server = ensure()
        self._ports = _choose_ports(self._ports)
        try:
            self._start(server)
            self._wait_until_ready()
            self._instances = _instances(self.pid)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, polite: bool = True) -> None:
        """Stop the server and everything it started, then remove its temporary folder. Safe to call again.

        A polite stop lets requests end, for ten seconds; a broken server is better killed at once.
        """
        process, self._process = self._process, None
        group, self._group = self._group, None
        self._instances = set()
        members = _family(process)
        try:
            if process is not None and polite and process.poll() is None:
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_SECONDS)
        finally:
            if group is not None:
                group.kill()
            if process is not None:
                process.wait()
            psutil.wait_procs(members, timeout=5)
            for left in Path("/dev/shm").glob(f"{self._id}*"):
                left.unlink(missing_ok=True)
            folder, self._folder, self._link = self._folder, None, None
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    def _url(self, name: str) -> str:
        if not self._ports[name]:
            raise ServingError("the server is not started, so it has no address")
        return f"{HOST}:{self._ports[name]}"

    def _start(self, server: ServerEnvironment) -> None:
        plain = None if _ODD.search(tempfile.gettempdir()) is None else "/tmp"
        self._folder = Path(tempfile.mkdtemp(prefix="lwc-triton-", dir=plain))
        if _ODD.search(str(self.repository)):
            self._link = self._folder / "models"
            self._link.symlink_to(self.repository, target_is_directory=True)
        backends = assemble_backends(self._folder / "backends", server)
        command = [
            str(server.triton / "bin" / "tritonserver"),
            f"--id={self._id}",
            f"--model-repository={self._link or self.repository}",
            f"--backend-directory={backends}",
            f"--backend-config=python,shm-region-prefix-name={self._id}",
            *(f"--{name}-address={HOST}" for name in ("http", "grpc", "metrics")),
            *(f"--{name.lower()}-port={port}" for name, port in self._ports.items()),
            "--allow-gpu-metrics=false",
            f"--exit-timeout-secs={int(STOP_SECONDS) - 2}",
            *safe_flags(self._key, self.control),
        ]
        self._group = ProcessGroup([self._folder, Path(f"/dev/shm/{self._id}*")])
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env=server.variables(),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=self._group.id,
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.startup_seconds
        models = sorted(path.parent.name for path in self.repository.glob("*/config.pbtxt"))
        checks = ["/v2/health/ready", *(f"/v2/models/{name}/ready" for name in models)]
        while checks:
            if not self.running:
                code = self._process.returncode if self._process else None
                raise ServingError(f"Triton ended while starting (exit code {code}). {self._log_tail()}")
            if time.monotonic() > deadline:
                raise ServingError(
                    f"Triton was not ready after {self.startup_seconds:g} seconds, still waiting for {checks[0]}. "
                    f"{self._log_tail()}"
                )
            if _get(self.http_url, checks[0]) is not None:
                checks.pop(0)
            else:
                time.sleep(0.1)
        answer = _get(self.http_url, "/v2")
        name = json.loads(answer).get("name") if answer else None
        if name != self._id or not self.running:
            raise ServingError(f"{self.http_url} is answered by another server ({name!r}), not by the one just started")

    def _log_tail(self) -> str:
        text = self.log_path.read_text(encoding="utf-8", errors="replace")
        if self._link is not None:
            text = text.replace(str(self._link), str(self.repository))
        # Less its tables, and CUDA's absence.
        lines = [line for line in text.splitlines() if line[:1] not in ("", "|", "+") and "CudaDriver" not in line]
        errors = [line for line in lines if line.startswith(("E", "error:"))][-LOG_LINES:]
        tail = [line for line in lines[-LOG_LINES:] if line not in errors]
        return "Its log says:\n" + "\n".join([*errors, *(["..."] if errors and tail else []), *tail])


def docker_command(repository: Path, http_port: int, grpc_port: int, metrics_port: int, image: str) -> list[str]:
    """The command that serves the same repository in the official image, or in one built on it."""
    ports = zip((http_port, grpc_port, metrics_port), (8000, 8001, 8002), strict=True)
    return [
        "docker", "run", "--rm", "--shm-size=1g", "--user=1000:1000",
        *(f"--publish={HOST}:{outside}:{inside}" for outside, inside in ports),
        f"--volume={Path(repository).resolve()}:/models:ro",
        image,
        "tritonserver", "--model-repository=/models", *safe_flags(uuid.uuid4().hex),
    ]  # fmt: skip


def _choose_ports(asked: dict[str, int]) -> dict[str, int]:
    ports: dict[str, int] = {}
    with contextlib.ExitStack() as held:
        for name, port in sorted(asked.items(), key=lambda item: item[1] == 0):  # the given ports first
            probe = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            if port:  # a port in TIME_WAIT is free for a server, so it must not count as busy
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except (OSError, OverflowError) as error:
                raise ServingError(
                    f"{name} port {port} on {HOST} cannot be used: {error}",
                    "choose another port, or 0 for a free one",
                    USAGE,
                ) from error
            chosen = int(probe.getsockname()[1])
            if chosen in ports.values():
                raise ServingError(f"port {chosen} is given twice", "give HTTP, gRPC and metrics a port each", USAGE)
            ports[name] = chosen
    return ports


def _get(url: str, path: str) -> bytes | None:
    try:
        answer = http.request("GET", f"http://{url}{path}", seconds=5)
    except http.NoAnswer:
        return None
    return answer.content if answer.status_code == 200 else None


def _instances(pid: int) -> set[str]:
    """Model instances with a living Python process under the server: the last argument but one of each."""
    found = set()
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            arguments = child.cmdline()
            if arguments and arguments[0].endswith("triton_python_backend_stub"):
                found.add(arguments[-2])
    return found


def _family(process: subprocess.Popen[bytes] | None) -> list[psutil.Process]:
    """What the server started and has not reaped."""
    if process is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            return list(psutil.Process(process.pid).children(recursive=True))
    return []
