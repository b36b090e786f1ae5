"""``lwc run --workers N``: start N processes of one command on this machine, and end them together."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lwc.core.children import ProcessGroup
from lwc.core.distributed import RENDEZVOUS
from lwc.core.errors import BUG, INTERRUPTED, OK, LwcError
from lwc.core.machine import cpu_limit

# Seconds for the others to notice that one has failed, and to end once they were told to (a server stops in ten).
_NOTICE, _STOP = 3.0, 15.0
_LOG_LINES = 30
_TOLD_TO_STOP = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _environment(rank: int, count: int, folder: Path) -> dict[str, str]:
    own = {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        # A file to meet at and the loopback interface: no port is open to anybody else, and none can be taken.
        RENDEZVOUS: str(folder / "meeting"),
        "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    cores = {"OMP_NUM_THREADS": str(max(1, cpu_limit() // count)), "NCCL_SOCKET_IFNAME": "lo"}
    return {**cores, **os.environ, **own}


def _wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)
        _wait(processes, _STOP)


def _last_lines(folder: Path, rank: int) -> list[str]:
    """What a process other than the main one has written last."""
    return (folder / f"worker-{rank}.log").read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]


def _verdict(codes: Sequence[int], folder: Path) -> int:
    """Exit code of the run, from those of the processes that ended by themselves (0 for those that still run).

    Raises:
        LwcError: the cause is a process that was killed or that nobody has heard yet.
        KeyboardInterrupt: a process was interrupted.
    """
    failed = {rank: code for rank, code in enumerate(codes) if code != OK}
    # Those that lost another process (130) are not the cause where there is another one.
    causes = {rank: code for rank, code in failed.items() if code != INTERRUPTED} or failed
    if not causes:
        return OK
    rank, code = next(iter(causes.items()))
    if code < 0:
        name = signal.Signals(-code).name
        stopped = -code in _TOLD_TO_STOP
        hint = "check that there is enough memory for all workers; " if -code == signal.SIGKILL else ""
        said = [] if stopped or rank == 0 else _last_lines(folder, rank)  # of a crash the log may name the cause
        ended = f"worker {rank} of {len(codes)} was ended by {name}; the other workers were stopped"
        raise LwcError(
            "\n".join([f"{ended}:", *said] if said else [ended]),
            f"{hint}rerun the same command to resume from the last checkpoint",
            exit_code=INTERRUPTED if stopped else BUG,
        )
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if rank > 0:  # the main one has spoken for itself
        raise LwcError(
            "\n".join([f"worker {rank} of {len(codes)} failed:", *_last_lines(folder, rank)]),
            "rerun the same command to resume from the last checkpoint",
            exit_code=code,
        )
    return code


def launch(command: Sequence[str], count: int) -> int:
    """Run ``command`` in ``count`` processes that see each other (`lwc.core.distributed`); their exit code.

    The first is the main one and has this terminal; the others say nothing. When one fails, the others are ended: those
    that wait for it notice by themselves, the rest is told to stop, then killed.

    Raises:
        LwcError: a process was killed (exit 130), crashed (1), or failed where only it could say why (its own code).
    """
    with (
        tempfile.TemporaryDirectory(prefix="lwc-workers-") as name,
        ProcessGroup([Path(name)]) as group,  # Ctrl-C comes to this process alone, which stops them once
    ):
        folder = Path(name)
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(count):
                with (folder / f"worker-{rank}.log").open("wb") as log:
                    quiet = None if rank == 0 else log
                    processes.append(
                        subprocess.Popen(
                            command,
                            env=_environment(rank, count, folder),
                            stdin=subprocess.DEVNULL,
                            stdout=quiet,
                            stderr=quiet,
                            process_group=group.id,
                        )
                    )
            while all(process.poll() in (None, OK) for process in processes):
                if all(process.poll() == OK for process in processes):
                    return OK
                time.sleep(0.05)
            _wait(processes, _NOTICE)
            return _verdict([process.poll() or OK for process in processes], folder)
        finally:
            _stop(processes)
