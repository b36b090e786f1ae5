"""Progress of a long read: rows, rows per second, and how much of the input is done."""

from __future__ import annotations

import threading
import time

from lwc.core.progress import Say, Step


class Meter:
    """Counts bytes and rows of several threads, and reports them to ``say`` at most once a second."""

    def __init__(self, what: str, total: int, say: Say) -> None:
        self.what, self.total, self.say = what, total, say
        self.done = self.rows = 0
        self._start = self._told = time.monotonic()
        self._lock = threading.Lock()

    def took(self, count: int) -> None:
        """Add ``count`` bytes, or other units of ``total``."""
        with self._lock:
            self.done += count

    def counted(self, rows: int) -> None:
        """Add ``rows`` rows."""
        with self._lock:
            self.rows += rows
            now = time.monotonic()
            if now - self._told < 1:
                return
            self._told = now
            step = self.step(now - self._start)
        self.say(step)

    def step(self, seconds: float) -> Step:
        """The progress after so many seconds."""
        note = f"{self.what} {self.rows:,} rows, {self.rows / max(seconds, 1e-9):,.0f} rows/s"
        return Step(min(self.done, self.total), self.total, note, counted=False)
