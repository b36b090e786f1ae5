"""Raw records of a load test: one row a request, kept as they are. Imports nothing but the standard library.

Locust's own percentiles are rounded (to 1 ms below 100 ms, to 10 ms below 1 s), so the samples are kept here
and percentiles computed from them later.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORDS_VERSION = 1


@dataclass(frozen=True)
class Ticket:
    """One request on its way: which sample, when it was due and whether it counts."""

    number: int
    sample: int
    started: float
    measured: bool


@dataclass
class Recorder:
    """Hands out the samples in order and keeps what became of each request.

    Phases: ``warmup`` → ``measure`` → ``stop``. A request belongs to the phase it started in. The order of the
    samples starts afresh when measuring begins, so that the measured answers cover them from the first on.
    With ``rate`` (requests/s over all users) requests are due at fixed times and latency counts from the
    time a request was due: a stalled server then cannot hide its queue (coordinated omission).
    """

    samples: int
    rate: float | None = None
    clock: Callable[[], float] = time.perf_counter
    phase: str = "warmup"
    began: float = 0.0
    ended: float = 0.0
    warmup_requests: int = 0
    warmup_errors: int = 0
    rows: list[tuple[int, float, float, str | None, str | None]] = field(default_factory=list)
    _next: int = 0
    _numbers: int = 0
    _due_from: float | None = None
    _in_flight: dict[int, Ticket] = field(default_factory=dict)

    def measure(self) -> None:
        """End the warm-up: from now on requests count."""
        self.phase, self._next, self.began, self._due_from = "measure", 0, self.clock(), None

    def stop(self) -> None:
        """Hand out no more samples; requests on their way may still finish."""
        if self.phase == "measure":
            self.ended = self.clock()
        self.phase = "stop"

    def take(self) -> Ticket | None:
        """The next sample to send, or None when the test is over. It may be due in the future."""
        if self.phase == "stop":
            return None
        now = self.clock()
        if self.rate is not None:
            if self._due_from is None:
                self._due_from = now
            now = self._due_from + self._next / self.rate
        ticket = Ticket(self._numbers, self._next % self.samples, now, self.phase == "measure")
        self._numbers += 1
        self._next += 1
        return ticket

    @property
    def pending(self) -> int:
        """Requests on their way."""
        return len(self._in_flight)

    def send(self, ticket: Ticket) -> None:
        """Note that the request leaves now."""
        self._in_flight[ticket.number] = ticket

    def finish(self, ticket: Ticket, label: str | None, error: str | None) -> float:
        """Note the answer (a label's name) or the error of a request; returns its latency in ms."""
        now = self.clock()
        del self._in_flight[ticket.number]
        latency = (now - ticket.started) * 1000.0
        if ticket.measured:
            self.rows.append((ticket.sample, (ticket.started - self.began) * 1000.0, latency, label, error))
            if self.phase == "stop":
                self.ended = max(self.ended, now)
        else:
            self.warmup_requests += 1
            self.warmup_errors += error is not None
        return latency

    def as_json(self) -> dict[str, Any]:
        """The records as plain data. Requests that never came back stand in it as errors."""
        now = self.clock()
        lost = [
            (t.sample, (t.started - self.began) * 1000.0, (now - t.started) * 1000.0, None, "no answer in time")
            for t in self._in_flight.values()
            if t.measured
        ]
        return {
            "version": RECORDS_VERSION,
            "measured": self.began > 0.0,
            "duration_s": max(0.0, self.ended - self.began),
            "rate": self.rate,
            "warmup": {"requests": self.warmup_requests, "errors": self.warmup_errors},
            "columns": ["sample", "start_ms", "latency_ms", "label", "error"],
            "rows": self.rows + lost,
        }

    def write(self, path: Path) -> None:
        """Write the records atomically: the file is whole or not there."""
        part = path.with_name(path.name + ".part")
        with part.open("w", encoding="utf-8") as file:
            json.dump(self.as_json(), file, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
