"""Fixtures shared by all tests: tests never touch the user's cache, run folder or network settings."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

# Nothing loads from a hub in tests; a test that tried would hang on a machine without a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The models of tests are tiny, and two processes test at once: more threads would be in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the suite in the background ignores Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_finish() -> None:
    """Importing Locust patches sockets and threads of the whole process: process pools then wait for ever."""
    monkey = sys.modules.get("gevent.monkey")
    assert monkey is None or not monkey.is_module_patched("threading"), "a test imports Locust: use find_spec"


@pytest.fixture(scope="session")
def repository_root() -> Path:
    """The folder that holds pyproject.toml."""
    return ROOT


@pytest.fixture(scope="session")
def reviews_dir() -> Path:
    """Real reviews for tests that need them; skips with the reason where they are absent."""
    folder = os.environ.get("LWC_DATA_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LWC_DATA_DIR is not set to a folder of real reviews")
    return Path(folder)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier with its ONNX file, for all tests that only read it."""
    from small_repository import small_checkpoint

    return small_checkpoint(tmp_path_factory.mktemp("checkpoint"))
