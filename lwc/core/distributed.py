"""Several processes that train, score and evaluate as one.

They are started by ``lwc run --workers``, ``torchrun`` or ``accelerate launch``, which tell each its RANK and the
WORLD_SIZE. With one process, the default, every function here passes its argument through and no torch is imported.

Every process calls the functions in the same order. What they exchange goes through host memory (gloo); only the
gradients on GPUs go through NCCL.
"""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from lwc.core.errors import INTERRUPTED, LwcError, MissingDependency
from lwc.core.machine import cpu_asked_for

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")

RENDEZVOUS = "LWC_RENDEZVOUS"
"""Where the processes of ``lwc run --workers`` meet: a file. Other launchers give MASTER_ADDR and MASTER_PORT."""

# The others wait while the main process reads data. A process that dies is noticed at once, by its closed connection.
_PATIENCE = timedelta(days=1)


class PeerLost(LwcError):
    """Another process of this run ended; its message is the cause (exit 130)."""

    exit_code = INTERRUPTED


def launched() -> bool:
    """Whether ``lwc run --workers`` started this process, and says why it ended."""
    return RENDEZVOUS in os.environ


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def count() -> int:
    """How many processes work together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that writes and speaks."""
    return rank() == 0


@contextmanager
def alone() -> Iterator[None]:
    """For what one process does while the others wait: it, and those it starts, see no others."""
    before = os.environ.pop("WORLD_SIZE", None)
    try:
        yield
    finally:
        if before is not None:
            os.environ["WORLD_SIZE"] = before


@contextmanager
def noticing_loss() -> Iterator[None]:
    """Turn what the libraries raise when another process is gone into `PeerLost`."""
    try:
        yield
    except RuntimeError as error:
        import torch.distributed as group

        if isinstance(error, group.DistError) or "gloo" in str(error):
            raise PeerLost(
                "another process of this run ended", "see its log; rerun the same command to resume"
            ) from error
        raise


def _joined() -> Any:
    """``torch.distributed``, once all processes have met.

    Raises:
        MissingDependency: there are GPUs, but none for this process.
    """
    import torch
    import torch.distributed as group

    if group.is_initialized():
        return group
    backend, place = "gloo", int(os.environ.get("LOCAL_RANK", "0"))
    if on_gpu():
        if place >= torch.cuda.device_count():
            raise MissingDependency(
                f"worker {place} has no GPU: this machine has {torch.cuda.device_count()}",
                "use as many workers as there are GPUs",
            )
        torch.cuda.set_device(place)
        backend = "cpu:gloo,cuda:nccl"
    meeting = os.environ.get(RENDEZVOUS)
    with noticing_loss():
        group.init_process_group(
            backend,
            init_method=f"file://{meeting}" if meeting else "env://",
            rank=rank(),
            world_size=count(),
            timeout=_PATIENCE,
        )
    return group


def on_gpu() -> bool:
    """Whether this process computes on an NVIDIA GPU: one is there, not ruled out by `accelerate launch --cpu`."""
    import torch

    return torch.cuda.is_available() and not cpu_asked_for()


def join() -> None:
    """Meet the other processes, where there are any: before a library does it in its own way."""
    if count() > 1:
        _joined()


def leave() -> None:
    """The common work is done: from here on each process is by itself. All call it at the same place."""
    if count() == 1:
        return
    import torch.distributed as group

    if group.is_initialized():
        # A wrapped model in a reference cycle keeps the group's threads, and a process that exits with them aborts.
        gc.collect()
        group.destroy_process_group()
    del os.environ["WORLD_SIZE"]


@contextmanager
def leaving_on_error() -> Iterator[None]:
    """Leave also where the common work fails, so that this process ends with the exit code of its error."""
    try:
        yield
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # they hold the wrapped model
        leave()
        raise


def broadcast(value: T) -> T:
    """The main process's ``value``, in all of them."""
    if count() == 1:
        return value
    box: list[T] = [value]
    with noticing_loss():
        _joined().broadcast_object_list(box, src=0)
    return box[0]


def from_main(compute: Callable[[], T]) -> T:
    """What the main process computes by itself, while the others wait."""
    if count() == 1:
        return compute()
    if not is_main():
        return broadcast(cast(T, None))
    with alone():
        value = compute()
    return broadcast(value)


def gather(value: T) -> list[T]:
    """The values of all processes, by rank, in all of them."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    with noticing_loss():
        _joined().all_gather_object(values, value)
    return values


def spread(items: Sequence[T], function: Callable[[T], R]) -> list[R]:
    """``[function(item) for item in items]``, each item done by one process; all get the whole list."""
    processes = count()
    if processes == 1:
        return [function(item) for item in items]
    shares = gather([function(item) for item in items[rank() :: processes]])
    return [shares[place % processes][place // processes] for place in range(len(items))]


def total(value: float) -> float:
    """Sum over the processes, in float64."""
    if count() == 1:
        return value
    import torch

    sum_ = torch.tensor(value, dtype=torch.float64)
    with noticing_loss():
        _joined().all_reduce(sum_)
    return float(sum_)


def share(rows: Sequence[int]) -> tuple[Sequence[int], float]:
    """(this process's rows of a batch, their weight): Σ over processes of weight × mean over rows is the batch's mean.

    Every so-manyth row, so that a batch sorted by length gives all of them equal work. Where there are fewer rows than
    processes, each takes all of them, with equal weights.
    """
    processes = count()
    if len(rows) < processes:
        return rows, 1 / processes
    mine = rows[rank() :: processes]
    return mine, len(mine) / len(rows)


def by_rows(values: Tensor, rows: int) -> Tensor:
    """``values``, sums over this process's ``rows``, replaced by what so many rows have on the whole batch's average.

    The denominator of a loss that is a ratio of sums: its row-weighted mean over the processes is then the ratio of the
    whole batch's sums.
    """
    if count() == 1:
        return values
    import torch

    sums = torch.cat([values.detach().double().reshape(-1), values.new_tensor([rows], dtype=torch.float64)])
    with noticing_loss():
        _joined().all_reduce(sums)
    return (sums[:-1] * (rows / sums[-1])).to(values.dtype).reshape(values.shape)
