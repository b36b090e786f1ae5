"""The embedded Triton server with a tiny ONNX model and a tiny Python model, over HTTP and gRPC."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
import tritonclient.grpc
import tritonclient.http
from onnx import TensorProto, helper, numpy_helper
from tritonclient.utils import InferenceServerException

from lwc.core.errors import ServingError
from lwc.serving.triton import server as server_module
from lwc.serving.triton.embedded import RESTRICTED_HEADER
from lwc.serving.triton.server import TritonServer, docker_command

pytestmark = pytest.mark.serving

LINEAR = """
name: "linear"
backend: "onnxruntime"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [ 4 ] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [ 3 ] }]
instance_group [{ kind: KIND_CPU count: 1 }]
dynamic_batching { max_queue_delay_microseconds: 20000 }
parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
parameters { key: "inter_op_thread_count" value: { string_value: "1" } }
"""
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
        return [
            pb_utils.InferenceResponse([
                pb_utils.Tensor("same", pb_utils.get_input_tensor_by_name(request, "text").as_numpy())
            ])
            for request in requests
        ]
"""


def add_linear(repository: Path, config: str = LINEAR) -> Path:
    """Add a model that computes x @ w + b, with a gather that fails when x holds a value out of range."""
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(4, 3)).astype(np.float32)
    bias = generator.normal(size=(3,)).astype(np.float32)
    zeros = np.zeros(100, dtype=np.float32)
    nodes = [
        helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["zeros", "index"], ["nothing"]),
        helper.make_node("Add", ["x", "nothing"], ["x_checked"]),
        helper.make_node("MatMul", ["x_checked", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["y"]),
    ]
    constants = {"w": weights, "b": bias, "zeros": zeros}
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path = repository / "linear" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    (repository / "linear" / "config.pbtxt").write_text(config)
    return path


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the temporary files of this test's servers alone: others may run beside it."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def leftovers(server: TritonServer, temporary: Path) -> list[Path]:
    """Temporary folders and shared memory that this server left behind."""
    return [*Path("/dev/shm").glob(f"{server._id}*"), *temporary.glob("lwc-triton-*")]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    add_linear(folder)
    (folder / "echo" / "1").mkdir(parents=True)
    (folder / "echo" / "1" / "model.py").write_text(ECHO_MODEL)
    (folder / "echo" / "config.pbtxt").write_text(ECHO)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[TritonServer]:
    with TritonServer(repository) as running:
        yield running


def ask_http(server: TritonServer, x: np.ndarray) -> np.ndarray:
    given = tritonclient.http.InferInput("x", list(x.shape), "FP32")
    given.set_data_from_numpy(x)
    with tritonclient.http.InferenceServerClient(server.http_url) as client:
        return client.infer("linear", [given]).as_numpy("y")


@pytest.mark.parametrize("rows", [1, 5, 8])
def test_http_and_grpc_equal_onnxruntime(server: TritonServer, repository: Path, rows: int) -> None:
    x = np.random.default_rng(rows).uniform(0, 9, size=(rows, 4)).astype(np.float32)
    session = onnxruntime.InferenceSession(repository / "linear/1/model.onnx", providers=["CPUExecutionProvider"])
    expected = session.run(["y"], {"x": x})[0]
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(ask_http(server, x), expected, rtol=1e-6)
    given = tritonclient.grpc.InferInput("x", list(x.shape), "FP32")
    given.set_data_from_numpy(x)
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        np.testing.assert_allclose(client.infer("linear", [given]).as_numpy("y"), expected, rtol=1e-6)


def test_concurrent_requests_each_get_their_own_answer_and_only_the_bad_ones_fail(
    server: TritonServer, repository: Path
) -> None:
    session = onnxruntime.InferenceSession(repository / "linear/1/model.onnx", providers=["CPUExecutionProvider"])
    given = [np.random.default_rng(i).uniform(0, 9, size=(1 + i % 3, 4)).astype(np.float32) for i in range(60)]
    bad = {7, 8, 30}
    for index in bad:
        given[index][0, 0] = 5000.0

    def ask(x: np.ndarray) -> np.ndarray | str:
        try:
            return ask_http(server, x)
        except InferenceServerException as error:
            return str(error)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, given))
    for index, (x, answer) in enumerate(zip(given, answers, strict=True)):
        if index in bad:
            assert isinstance(answer, str)
            assert "out of data bounds" in answer or "indices element" in answer
        else:
            np.testing.assert_allclose(answer, session.run(["y"], {"x": x})[0], rtol=1e-5)
    with urllib.request.urlopen(f"http://{server.metrics_url}/metrics", timeout=5) as page:
        counts = dict(line.rsplit(" ", 1) for line in page.read().decode().splitlines() if not line.startswith("#"))
    labels = '{model="linear",version="1"}'
    executed, answered = (float(counts[f"nv_inference_{kind}{labels}"]) for kind in ("exec_count", "request_success"))
    assert 0 < executed < answered, "no requests were batched together, so the test proves nothing"


def test_a_python_model_returns_the_text_it_got(server: TritonServer) -> None:
    text = np.array([b"good product", "ünïcode 商品".encode(), b""], dtype=np.object_)
    given = tritonclient.grpc.InferInput("text", [3], "BYTES")
    given.set_data_from_numpy(text)
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        assert client.infer("echo", [given]).as_numpy("same").tolist() == text.tolist()


def test_the_ports_belong_to_the_server_and_only_on_this_machine(server: TritonServer) -> None:
    assert server.running
    assert server.log_path.is_file()
    listening = {
        f"{connection.laddr.ip.removeprefix('::ffff:')}:{connection.laddr.port}"
        for connection in psutil.Process(server.pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {server.http_url, server.grpc_url, server.metrics_url}


@pytest.mark.parametrize("argument", ["http_port", "grpc_port", "metrics_port"])
def test_a_busy_port_is_named(repository: Path, temporary: Path, argument: str) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        server = TritonServer(repository, **{argument: port})
        with pytest.raises(ServingError, match=f"port {port} "), server:
            pass
    assert not leftovers(server, temporary)


def test_the_same_port_twice_is_refused(repository: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ServingError, match="twice"), TritonServer(repository, http_port=port, grpc_port=port):
        pass


def test_a_broken_model_gives_an_error_that_quotes_the_log(tmp_path: Path, temporary: Path) -> None:
    children = set(psutil.Process().children(recursive=True))
    add_linear(tmp_path).write_bytes(b"not an onnx file")
    server = TritonServer(tmp_path)
    with pytest.raises(ServingError, match="log") as caught, server:
        pass
    assert "linear" in caught.value.message
    assert "Protobuf parsing failed" in caught.value.message or "INVALID_PROTOBUF" in caught.value.message
    assert not leftovers(server, temporary)
    assert set(psutil.Process().children(recursive=True)) == children


def test_a_wrong_output_name_or_thread_count_is_told(tmp_path: Path) -> None:
    add_linear(tmp_path / "a", LINEAR.replace('"y"', '"z"'))
    with pytest.raises(ServingError, match="outputs in the configuration are"), TritonServer(tmp_path / "a"):
        pass
    add_linear(tmp_path / "b", LINEAR.replace('string_value: "1"', 'string_value: "many"'))
    with pytest.raises(ServingError, match="intra_op_thread_count must be"), TritonServer(tmp_path / "b"):
        pass


def test_too_short_a_deadline_is_told_and_leaves_nothing(repository: Path, temporary: Path) -> None:
    server = TritonServer(repository, startup_seconds=0.05)
    with pytest.raises(ServingError, match="not ready after"), server:
        pass
    assert not leftovers(server, temporary)


@pytest.mark.parametrize("suspended", [False, True], ids=["polite", "killed"])
def test_nothing_is_left_after_exit(
    repository: Path, temporary: Path, suspended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "STOP_SECONDS", 10.0 if not suspended else 3.0)
    with TritonServer(repository) as server:
        process = psutil.Process(server.pid)
        family = [process, *process.children(recursive=True)]
        ports = [server.http_url, server.grpc_url, server.metrics_url]
        assert len(family) >= 3, "a stub for each of the two models is expected"
        if suspended:
            process.suspend()  # it cannot answer the polite signal, so it must be killed
    assert not [member for member in family if member.is_running()]
    assert not server.running
    assert not leftovers(server, temporary)
    for url in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0
    server.stop()


STARTED = """
import sys, time
from lwc.serving.triton.server import TritonServer
with TritonServer(sys.argv[1]) as server:
    print(server.pid, server._id, server._folder, flush=True)
    time.sleep(600)
"""


def test_nothing_is_left_when_the_process_that_started_it_is_killed(repository: Path) -> None:
    command = [sys.executable, "-c", STARTED, str(repository)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid, name, folder = starter.stdout.readline().split()
        process = psutil.Process(int(pid))
        family = [process, *process.children(recursive=True)]
        assert len(family) >= 3
        starter.kill()
    _, alive = psutil.wait_procs(family, timeout=120)
    assert not alive
    deadline = time.monotonic() + 120
    while Path(folder).exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(folder).exists()
    assert not list(Path("/dev/shm").glob(f"{name}*"))


def test_a_killed_model_process_is_seen_fails_its_requests_alone_and_leaves_nothing(
    repository: Path, temporary: Path
) -> None:
    with TritonServer(repository) as server:
        assert server.dead_instances == []
        (stub,) = [c for c in psutil.Process(server.pid).children() if "echo_0_0" in c.cmdline()]
        stub.kill()
        deadline = time.monotonic() + 120
        while not server.dead_instances and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.dead_instances == ["echo_0_0"]
        given = tritonclient.http.InferInput("text", [1], "BYTES")
        given.set_data_from_numpy(np.array([b"a"], dtype=np.object_))
        with (
            tritonclient.http.InferenceServerClient(server.http_url) as client,
            pytest.raises(InferenceServerException, match="'echo_0_0' is not healthy"),
        ):
            client.infer("echo", [given])
        assert ask_http(server, np.ones((1, 4), dtype=np.float32)).shape == (1, 3)
    assert not leftovers(server, temporary)


RESTRICTED_PATHS = [
    "/v2/models/linear/config", "/v2/systemsharedmemory/status", "/v2/cudasharedmemory/status", "/v2/logging",
    "/v2/trace/setting",
]  # fmt: skip


@pytest.mark.parametrize("path", RESTRICTED_PATHS)
def test_what_clients_never_need_is_closed(server: TritonServer, path: str) -> None:
    for headers in ({}, {RESTRICTED_HEADER: server._id}):  # the id is public, so it must not be the key
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(f"http://{server.http_url}{path}", headers=headers))
        assert caught.value.code == 403
    request = urllib.request.Request(f"http://{server.http_url}{path}", headers={RESTRICTED_HEADER: server._key})
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200


def test_what_clients_never_need_is_closed_over_grpc_too(server: TritonServer) -> None:
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        for call in (
            client.get_log_settings,
            client.get_model_repository_index,
            client.get_system_shared_memory_status,
            lambda: client.get_model_config("linear"),
        ):
            with pytest.raises(InferenceServerException, match="restricted"):
                call()
        assert client.is_model_ready("linear")


def test_models_cannot_be_unloaded(server: TritonServer) -> None:
    request = urllib.request.Request(f"http://{server.http_url}/v2/repository/models/linear/unload", method="POST")
    for key in ("", server._key):
        request.add_header(RESTRICTED_HEADER, key)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        assert 400 <= caught.value.code < 600
    assert ask_http(server, np.ones((1, 4), dtype=np.float32)).shape == (1, 3)


def test_docker_command_binds_this_machine_only_and_mounts_read_only(tmp_path: Path) -> None:
    command = docker_command(tmp_path, 9000, 9001, 9002, image="lwc-triton:26.07")
    assert command[:3] == ["docker", "run", "--rm"]
    assert "--publish=127.0.0.1:9000:8000" in command
    assert "--publish=127.0.0.1:9002:8002" in command
    assert f"--volume={tmp_path.resolve()}:/models:ro" in command
    image = command.index("lwc-triton:26.07")
    assert command[image + 1 : image + 3] == ["tritonserver", "--model-repository=/models"]


def test_a_path_that_a_shell_would_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python backend quotes neither the repository's path nor that of its own files; logs name the repository."""
    repository, temporary = tmp_path / "it's ünï $HOME", tmp_path / "t m p"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    path = add_linear(repository)
    with TritonServer(repository) as server:
        ask_http(server, np.zeros((1, 4), dtype=np.float32))
    path.write_bytes(b"no graph")
    with pytest.raises(ServingError) as caught, TritonServer(repository):
        pass
    assert str(repository / "linear") in str(caught.value)
