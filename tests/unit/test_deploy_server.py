"""deploy/: the image holds what the text model needs, and serve.sh starts a real Triton that is locked down."""

from __future__ import annotations

import ast
import contextlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from deploy_files import DEPLOY, GPU_METRICS, METRICS, ROOT
from fronts import text_front
from packaging.requirements import Requirement
from ports import free_ports
from tiny_repository import tiny_repository

from lwc.core.errors import MissingDependency, ServingError
from lwc.recipe import Package
from lwc.serving.rollout.control import connect
from lwc.serving.rollout.run import Target, deploy, rollback
from lwc.serving.triton.config import as_text, front_model
from lwc.serving.triton.embedded import assemble_backends
from lwc.serving.triton.environment import ensure


def instructions() -> list[tuple[str, str]]:
    """(INSTRUCTION, rest) of the Dockerfile, comments out and continued lines joined."""
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(word.upper(), rest) for word, _, rest in (line.partition(" ") for line in joined if line.strip())]


def stage(name: str) -> list[tuple[str, str]]:
    """Instructions of a stage, its FROM included."""
    rows, on = [], False
    for word, rest in instructions():
        if word == "FROM":
            on = rest.endswith(f" AS {name}")
        if on:
            rows.append((word, rest))
    return rows


def test_the_image_is_built_on_triton_and_runs_as_nobody_special() -> None:
    rows = instructions()
    assert ("ARG", "TRITON=nvcr.io/nvidia/tritonserver:26.07-py3") in rows
    froms = [rest for word, rest in rows if word == "FROM"]
    assert froms == ["${TRITON} AS packages", "${TRITON} AS server", "server AS baked", "server"]
    server = stage("server")
    assert [rest for word, rest in server if word == "USER"] == ["1000:1000"]
    assert "USER" not in {word for word, _ in stage("baked")}
    assert ("ENTRYPOINT", '["/opt/lwc/serve.sh"]') in server
    [check] = [rest for word, rest in server if word == "HEALTHCHECK"]
    assert check.endswith('CMD ["python3", "/opt/lwc/ready.py"]')
    [install] = [rest for word, rest in stage("packages") if word == "RUN"]
    assert {"--require-hashes", "--no-deps", "--only-binary=:all:"} <= set(install.split())


def test_the_build_finds_its_files_through_the_ignore_file() -> None:
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert "**" in allowed
    sources = [
        word
        for instruction, rest in instructions()
        if instruction == "COPY" and "--from=" not in rest
        for word in rest.split()[:-1]
        if not word.startswith("--")
    ]
    assert sources.count("${REPOSITORY}") == 1
    for source in set(sources) - {"${REPOSITORY}"}:
        assert (ROOT / source).is_file()
        assert f"!{source}" in allowed


def test_the_image_holds_what_the_text_model_imports() -> None:
    shipped = [ROOT / "lwc" / "tasks" / "backends" / name for name in ("text_model.py", "text_reader.py")]
    shipped.append(ROOT / "lwc" / "data" / "cleaning.py")
    imported = set()
    for node in (node for path in shipped for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.split(".")[0])
    text = (DEPLOY / "requirements.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([\w-]+)==([\w.]+) \\$", text, re.MULTILINE))
    # Triton's Python backend brings its own module and NumPy.
    imported -= {path.stem for path in shipped}
    assert imported - sys.stdlib_module_names == {*pins, "numpy", "triton_python_backend_utils"}
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", text)) >= len(pins)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ranges = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    assert all(version in ranges[name] for name, version in pins.items()), "writes and reads tokenizer.json differently"


def flags(folder: Path, *arguments: str, **variables: str) -> list[str]:
    """What serve.sh would start tritonserver with."""
    fake = folder / "tritonserver"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    fake.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [DEPLOY / "serve.sh", *arguments], env={"PATH": path, **variables}, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_serve_sh_gives_the_flags_of_production(tmp_path: Path) -> None:
    given = flags(tmp_path, "--log-verbose=1", LWC_ADMIN_KEY="secret", LWC_HTTP_PORT="8080")
    for flag in (
        "--model-repository=/models",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        "--exit-on-error=true",
        "--strict-readiness=true",
        "--http-port=8080",
        "--grpc-port=8001",
    ):
        assert flag in given
    closed = "shared-memory,model-config,model-repository,statistics,trace,logging:x-lwc-key=secret"
    assert f"--http-restricted-api={closed}" in given
    assert f"--grpc-restricted-protocol={closed}" in given
    assert given[-1] == "--log-verbose=1"
    assert not [flag for flag in given if "gpu-metrics" in flag]


def test_model_control_is_off_unless_asked_for_with_a_key(tmp_path: Path) -> None:
    explicit = {"--model-control-mode=explicit", "--load-model=*", "--strict-readiness=false"}
    given = flags(tmp_path, LWC_MODEL_CONTROL="explicit", LWC_ADMIN_KEY="secret")
    assert explicit <= set(given)
    assert len([flag for flag in given if flag.startswith(("--model-control", "--strict"))]) == 2
    for variables in ({"LWC_MODEL_CONTROL": "explicit"}, {"LWC_MODEL_CONTROL": "all", "LWC_ADMIN_KEY": "secret"}):
        with pytest.raises(subprocess.CalledProcessError) as refused:
            flags(tmp_path, **variables)
        assert "LWC_MODEL_CONTROL" in refused.value.stderr


def test_without_a_key_each_start_makes_one_that_nobody_knows(tmp_path: Path) -> None:
    keys = set()
    for _ in range(2):
        for flag in flags(tmp_path, LWC_ADMIN_KEY=""):
            if "restricted" in flag:
                keys.add(flag.rpartition("=")[2])
    assert len(keys) == 2, "HTTP and gRPC share a key, two starts do not"
    assert all(len(key) >= 32 for key in keys)


def test_a_model_that_asks_for_a_response_cache_gets_one(tmp_path: Path) -> None:
    for name, package in (("plain", Package()), ("cached", Package(response_cache=True))):
        (tmp_path / name / "m").mkdir(parents=True)
        config = as_text(front_model("m", text_front(2, {}), package))
        (tmp_path / name / "m" / "config.pbtxt").write_text(config, encoding="utf-8")
    plain = flags(tmp_path, LWC_REPOSITORY=str(tmp_path / "plain"))
    assert not [flag for flag in plain if "cache" in flag]
    assert "--cache-config=local,size=67108864" in flags(tmp_path, LWC_REPOSITORY=str(tmp_path / "cached"))
    given = flags(tmp_path, "--log-verbose=1", LWC_REPOSITORY=str(tmp_path / "cached"), LWC_CACHE_BYTES="1048576")
    assert given[-2:] == ["--cache-config=local,size=1048576", "--log-verbose=1"]


def ready(model: str, port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {"LWC_MODEL": model, "LWC_HTTP_PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
    return subprocess.run(
        [sys.executable, DEPLOY / "ready.py", *arguments], env=variables, capture_output=True, text=True, check=False
    )


def test_the_health_check_asks_for_the_served_model() -> None:
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in ("/v2/models/mine/ready", "/v2/health/ready") else 400)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            assert ready("mine", server.server_port).returncode == 0
            other = ready("other", server.server_port)
            assert other.returncode == 1
            assert "/v2/models/other/ready" in other.stderr
        finally:
            server.shutdown()
    assert ready("mine", server.server_port).returncode == 1, "nobody listens there any more"


ECHO = """
name: "echo"
backend: "python"
max_batch_size: 0
input [{ name: "text" data_type: TYPE_STRING dims: [ -1 ] }]
output [{ name: "same" data_type: TYPE_STRING dims: [ -1 ] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""
ECHO_MODEL = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("same",
                pb_utils.get_input_tensor_by_name(request, "text").as_numpy())]) for request in requests]
"""


def status(url: str) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def open_over_grpc(port: int) -> list[str]:
    """Calls of the restricted interfaces that the server answers over gRPC; the open one must work."""
    grpc = pytest.importorskip("tritonclient.grpc", reason="pip install 'tritonclient[grpc,http]'")
    answered = []
    with grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
        assert client.is_model_ready("echo")
        for call, arguments in (
            ("get_model_config", ["echo"]),
            ("get_inference_statistics", ["echo"]),
            ("get_model_repository_index", []),
            ("get_system_shared_memory_status", []),
            ("get_trace_settings", []),
            ("get_log_settings", []),
        ):
            try:
                getattr(client, call)(*arguments)
                answered.append(call)
            except grpc.InferenceServerException as error:
                if "restricted" not in str(error):
                    raise
    return answered


@contextlib.contextmanager
def served(tmp_path: Path, repository: Path, model: str, **variables: str) -> Iterator[tuple[int, int, int]]:
    """Ports (HTTP, gRPC, metrics) of a real Triton that serve.sh has started, once ``model`` is ready."""
    try:
        server = ensure()
    except MissingDependency as error:
        pytest.skip(str(error))
    ports = free_ports(3)
    environment = server.variables()
    environment["PATH"] += f"{os.pathsep}{server.triton / 'bin'}"
    environment |= {"LWC_REPOSITORY": str(repository), "LWC_MODEL": model, **variables}
    environment |= dict(zip(("LWC_HTTP_PORT", "LWC_GRPC_PORT", "LWC_METRICS_PORT"), map(str, ports), strict=True))
    backends = assemble_backends(tmp_path / "backends", server)
    own = [f"--{name}-address=127.0.0.1" for name in ("http", "grpc", "metrics")]
    own += [f"--backend-directory={backends}", "--exit-timeout-secs=3"]
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen([DEPLOY / "serve.sh", *own], env=environment, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 60
        while ready(model, ports[0]).returncode != 0:
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
            time.sleep(0.2)
        yield ports[0], ports[1], ports[2]
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def echo_repository(folder: Path) -> Path:
    model = folder / "models" / "echo"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(ECHO, encoding="utf-8")
    (model / "1" / "model.py").write_text(ECHO_MODEL, encoding="utf-8")
    return model.parent


@pytest.mark.serving
def test_serve_sh_starts_a_real_triton(tmp_path: Path) -> None:
    with served(tmp_path, echo_repository(tmp_path), "echo") as ports:
        assert ready("another", ports[0]).returncode == 1
        http_url = f"http://127.0.0.1:{ports[0]}/v2"
        assert status(f"{http_url}/health/ready") == 200
        for closed in (
            "models/echo/config",
            "models/echo/stats",
            "systemsharedmemory/status",
            "trace/setting",
            "logging",
        ):
            assert status(f"{http_url}/{closed}") == 403, closed
        assert open_over_grpc(ports[1]) == []
        with urllib.request.urlopen(f"http://127.0.0.1:{ports[2]}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        found = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
        # Where the machine has a GPU its metrics come on top.
        assert found - GPU_METRICS == METRICS
        with pytest.raises(ServingError, match="403"):
            connect(f"127.0.0.1:{ports[0]}", "")


@pytest.mark.serving
def test_the_liveness_probe_finds_a_dead_model_process_that_triton_calls_ready(tmp_path: Path) -> None:
    with served(tmp_path, echo_repository(tmp_path), "echo") as ports:
        assert ready("echo", ports[0], "--alive").returncode == 0
        [process] = [one for one in psutil.Process().children(recursive=True) if "echo_0_0" in one.cmdline()]
        process.kill()
        deadline = time.monotonic() + 10
        while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.05)
        for path in ("health/live", "health/ready", "models/echo/ready"):
            assert status(f"http://127.0.0.1:{ports[0]}/v2/{path}") == 200, "Triton now reports it: simplify the probe"
        for arguments in ((), ("--alive",)):
            found = ready("echo", ports[0], *arguments)
            assert found.returncode == 1
            assert f"model processes died: {process.pid}" in found.stderr


@pytest.mark.serving
def test_with_model_control_serve_sh_takes_what_lwc_deploy_rolls_out(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    versions = [tiny_repository(tmp_path / name, bias=bias) for name, bias in (("first", 0.0), ("second", 5.0))]
    deploy(versions[0], Target(folder))
    with served(tmp_path, folder, "reviews", LWC_MODEL_CONTROL="explicit", LWC_ADMIN_KEY="secret") as ports:
        url = f"127.0.0.1:{ports[0]}"
        with pytest.raises(ServingError, match="403"):
            deploy(versions[1], Target(folder, url, "a wrong key"))
        assert generated(url) == "other"
        assert deploy(versions[1], Target(folder, url, "secret"))["version"] == 2
        assert generated(url) == "great"
        rollback(Target(folder, url, "secret"))
        assert generated(url) == "other"
        assert ready("reviews", ports[0], "--alive").returncode == 0, "unloaded models are not dead"


def generated(url: str) -> str:
    """The label of a text."""
    with urllib.request.urlopen(f"http://{url}/v2/models/reviews/generate", b'{"text": "good"}', timeout=10) as answer:
        return str(json.loads(answer.read())["label"])
