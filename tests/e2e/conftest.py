"""One Triton for all tests that only ask a repository: each file's models are loaded into it, and unloaded again."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lwc.serving.triton.embedded import RESTRICTED_HEADER
from lwc.serving.triton.server import TritonServer

KEY = "the key of the shared server"


def tell(server: TritonServer, path: str) -> Any:
    """Send an order to the server's repository interface; returns its answer."""
    url = f"http://{server.http_url}/v2/repository/{path}"
    with urllib.request.urlopen(urllib.request.Request(url, b"{}", {RESTRICTED_HEADER: KEY})) as answer:
        return json.loads(answer.read() or b"null")


@pytest.fixture(scope="session")
def shared_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server with an empty repository. Tests of starting, of stopping and of what dies have servers of their own."""
    with TritonServer(tmp_path_factory.mktemp("shared"), control=True, key=KEY) as server:
        yield server


@pytest.fixture(scope="module")
def load(shared_triton: TritonServer) -> Iterator[Callable[[Path], TritonServer]]:
    """Loads all models of a repository into the shared server; they leave it with the last test of the file."""
    loaded: list[str] = []

    def load_all(repository: Path) -> TritonServer:
        names = {path.parent.name for path in repository.glob("*/config.pbtxt")} - set(loaded)
        # A text model is warmed up through its token model, which has its name and more.
        for name in sorted(names, key=len, reverse=True):
            shutil.copytree(repository / name, shared_triton.repository / name)
            loaded.append(name)
            tell(shared_triton, f"models/{name}/load")
        return shared_triton

    yield load_all
    for name in reversed(loaded):
        tell(shared_triton, f"models/{name}/unload")
    while any(one.get("state", "UNAVAILABLE") != "UNAVAILABLE" for one in tell(shared_triton, "index")):
        time.sleep(0.05)
    for name in loaded:
        shutil.rmtree(shared_triton.repository / name)
