"""Raw records of a load test: one row a request, kept as they are. Imports nothing heavy.

Locust's own percentiles are rounded (to 1 ms below 100 ms, to 10 ms below 1 s), so the samples are kept here
and percentiles computed from them later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

RECORDS_VERSION = 3
COLUMNS = ("sample", "start_ms", "wait_ms", "latency_ms", "answer", "error")
NO_ANSWER = "no answer in time"
Row = tuple[int, float, float, float, object, str | None]


@dataclass(eq=False)
class Ticket:
    """One request: which sample, when it was due, whether it counts and when it left."""

    sample: int
    started: float
    measured: bool
    sent: float | None = None


@dataclass
class Recorder:
    """Hands out the samples in order and keeps what became of each request.

    Phases: ``warmup`` → ``measure`` → ``stop``. A request belongs to the phase it was due in. The order of the
    samples starts afresh when measuring begins, so that the measured answers cover them from the first on.
    Latency counts from the time a request was due, also where no connection was free to send it then: a
    stalled server cannot hide its queue (coordinated omission).
    """

    samples: int
    # Of several that share the samples each takes every ``step``-th from its ``first`` on.
    first: int = 0
    step: int = 1
    clock: Callable[[], float] = time.perf_counter
    phase: str = "warmup"
    began: float = 0.0
    ended: float = 0.0
    warmup_requests: int = 0
    warmup_errors: int = 0
    answered_in_window: int = 0
    rows: list[Row] = field(default_factory=list)
    _next: int = 0
    _open: set[Ticket] = field(default_factory=set)

    def measure(self) -> None:
        """End the warm-up: from now on requests count."""
        self.phase, self._next, self.began = "measure", 0, self.clock()

    def stop(self) -> None:
        """Hand out no more samples; requests that were due may still be sent and answered."""
        if self.phase == "measure":
            self.ended = self.clock()
        self.phase = "stop"

    def take(self, due: float | None = None) -> Ticket | None:
        """The next sample, due now or at ``due`` (this clock, s); None when the test is over."""
        if self.phase == "stop":
            return None
        sample = (self.first + self._next * self.step) % self.samples
        ticket = Ticket(sample, self.clock() if due is None else due, self.phase == "measure")
        self._open.add(ticket)
        self._next += 1
        return ticket

    @property
    def pending(self) -> int:
        """Measured requests that are due or on their way."""
        return sum(ticket.measured for ticket in self._open)

    def send(self, ticket: Ticket) -> None:
        """Note that the request leaves now."""
        ticket.sent = self.clock()

    def finish(self, ticket: Ticket, answer: object, error: str | None) -> float:
        """Note the answer (JSON) or the error of a request; returns its latency in ms.

        Every answer that comes within the measured window counts for the throughput, whenever its request was due:
        what the window loses at its end it gains at its start.
        """
        now = self.clock()
        if self.phase == "measure" and error is None:
            self.answered_in_window += 1
        if ticket.measured:
            self.rows.append(self._row(ticket, now, answer, error))
        else:
            self.warmup_requests += 1
            self.warmup_errors += error is not None
        self._open.remove(ticket)
        return (now - ticket.started) * 1000.0

    def _row(self, ticket: Ticket, now: float, answer: object, error: str | None) -> Row:
        sent = now if ticket.sent is None else ticket.sent
        start, wait, latency = ticket.started - self.began, sent - ticket.started, now - ticket.started
        return (ticket.sample, start * 1000.0, wait * 1000.0, latency * 1000.0, answer, error)

    def as_json(self) -> dict[str, Any]:
        """The records as plain data. Requests that were due and got no answer stand in it as errors."""
        now, waiting = self.clock(), sorted(self._open, key=lambda ticket: ticket.started)
        lost = [self._row(ticket, now, None, NO_ANSWER) for ticket in waiting if ticket.measured]
        return {
            "version": RECORDS_VERSION,
            "measured": self.began > 0.0,
            "window_s": max(0.0, self.ended - self.began),
            "answered_in_window": self.answered_in_window,
            "warmup": {"requests": self.warmup_requests, "errors": self.warmup_errors},
            "columns": list(COLUMNS),
            "rows": self.rows + lost,
        }


def merge_records(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The records of several workers as one; the processor time is that of the busiest."""
    return {
        **parts[0],
        "measured": all(part["measured"] for part in parts),
        "window_s": max(part["window_s"] for part in parts),
        "answered_in_window": sum(part["answered_in_window"] for part in parts),
        "warmup": {key: sum(part["warmup"][key] for part in parts) for key in parts[0]["warmup"]},
        "cpu_s": max(part["cpu_s"] for part in parts),
        "rows": [row for part in parts for row in part["rows"]],
    }
