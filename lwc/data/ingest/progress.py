"""How far a long read is: rows a second, share of the bytes, time to go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Meter:
    """Counts bytes and rows from several threads and tells ``say`` about them, once a second at most."""

    def __init__(self, what: str, total: int, say: Callable[[str], None]) -> None:
        self.what, self.total, self.say = what, total, say
        self.done = self.rows = 0
        self._start = self._told = time.monotonic()
        self._lock = threading.Lock()

    def took(self, count: int) -> None:
        """``count`` more bytes (or whatever ``total`` is of) are done."""
        with self._lock:
            self.done += count

    def counted(self, rows: int) -> None:
        """``rows`` more rows are done."""
        with self._lock:
            self.rows += rows
            now = time.monotonic()
            if now - self._told < 1:
                return
            self._told = now
            text = self.text(now - self._start)
        self.say(text)

    def text(self, seconds: float) -> str:
        """The state after so many seconds."""
        parts = [f"{self.what} {self.rows:,} rows, {self.rows / max(seconds, 1e-9):,.0f} rows/s"]
        share = min(1.0, self.done / self.total) if self.total else 0.0
        if share > 0:
            left = round(seconds / share - seconds)
            parts.append(f"{share:.0%}, {left // 60} min {left % 60:02d} s to go")
        return ", ".join(parts)
