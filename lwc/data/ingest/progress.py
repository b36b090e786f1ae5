"""Progress of a long read: rows per second, share of the bytes, time left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Meter:
    """Counts bytes and rows of several threads, and reports them to ``say`` at most once a second."""

    def __init__(self, what: str, total: int, say: Callable[[str], None]) -> None:
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
            text = self.text(now - self._start)
        self.say(text)

    def text(self, seconds: float) -> str:
        """The progress after so many seconds."""
        parts = [f"{self.what} {self.rows:,} rows, {self.rows / max(seconds, 1e-9):,.0f} rows/s"]
        share = min(1.0, self.done / self.total) if self.total else 0.0
        if share > 0:
            left = round(seconds / share - seconds)
            parts.append(f"{share:.0%}, {left // 60} min {left % 60:02d} s to go")
        return ", ".join(parts)
