"""No process outlives the one that started it, however that one ended."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lwc.core.children import ProcessGroup

PATIENCE_S = 120.0

# A child with a child of its own, started by a thread that is gone; `nested`: in a group of the child's.
STARTS = """
import os, signal, subprocess, sys, threading, time
from pathlib import Path
from lwc.core.children import ProcessGroup
folder = Path(sys.argv[1])
GRANDCHILD = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(600)"
CHILD = f'''
import os, subprocess, sys, time
from lwc.core.children import ProcessGroup
group = ProcessGroup() if {sys.argv[2] == "nested"} else None
subprocess.Popen([sys.executable, "-c", {GRANDCHILD!r}], process_group=group and group.id)
print(os.getpid(), flush=True)
time.sleep(600)
'''
with ProcessGroup([folder / "left", folder / "behind*"]) as group:
    def start():
        subprocess.Popen([sys.executable, "-c", CHILD], process_group=group.id)
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    sys.stdin.read()
    sys.exit(os._exit(3) if sys.argv[2] == "exit" else 0)
"""

POOL = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from lwc.core.children import end_with_parent
def work():
    print(os.getpid(), flush=True)
    time.sleep(600)
if __name__ == "__main__":
    with ProcessPoolExecutor(2, get_context("spawn"), end_with_parent) as pool:
        for _ in range(2):
            pool.submit(work)
"""


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether a process has ended; whoever inherited it may not have reaped it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def script(folder: Path, text: str) -> Path:
    path = folder / "starts.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "nested", "exit", "leave"])
def test_children_and_grandchildren_end_with_their_parent(tmp_path: Path, how: str) -> None:
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / "inside").touch()
    (tmp_path / "behind-1").touch()
    (tmp_path / "left over").touch()
    (tmp_path / "other").touch()
    command = [sys.executable, str(script(tmp_path, STARTS)), str(tmp_path), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        members = [int(parent.stdout.readline()) for _ in range(2)]
        assert not any(map(gone, members)), "the thread that started them has ended, they have not"
        if how in ("exit", "leave"):
            parent.stdin.close()
        else:
            parent.send_signal(signal.SIGTERM if how == "SIGTERM" else signal.SIGKILL)
        assert parent.wait() == {"exit": 3, "leave": 0, "SIGTERM": -15}.get(how, -9)
        wait_until(lambda: all(map(gone, members)), f"alive: {members}")
    if how != "leave":  # a process that ends in order deletes its own
        wait_until(
            lambda: sorted(p.name for p in tmp_path.iterdir()) == ["left over", "other", "starts.py"], "left behind"
        )


def test_workers_of_a_pool_end_with_their_parent(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, str(script(tmp_path, POOL))], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
        wait_until(lambda: all(map(gone, workers)), f"alive: {workers}")


def test_a_group_that_is_killed_leaves_neither_members_nor_helpers() -> None:
    before = {child.pid for child in psutil.Process().children()}
    with ProcessGroup() as group:
        child = subprocess.Popen(["/bin/sleep", "600"], process_group=group.id)
        assert len(psutil.Process().children()) == len(before) + 3
    assert child.wait() == -signal.SIGKILL
    group.kill()
    assert {child.pid for child in psutil.Process().children()} == before


def started_alone(path: Path) -> Iterator[str]:
    """Calls in a Python file that start a process which would outlive this one."""
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            given = {keyword.arg for keyword in call.keywords}
            pool = name in ("Pool", "ProcessPoolExecutor")
            if (name == "Popen" and "process_group" not in given) or (pool and "initializer" not in given):
                yield f"{path.name}:{call.lineno} {name}"


def test_whatever_starts_a_process_ties_it() -> None:
    root = Path(__file__).parents[2]
    files = [*(root / "lwc").rglob("*.py"), *(root / "benchmarks").glob("*.py")]
    assert [found for path in files for found in started_alone(path)] == []
