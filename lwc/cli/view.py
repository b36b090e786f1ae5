"""Feedback while a command works: a line for each stage, and a bar in a terminal or a line now and then in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lwc.cli import terminal as render
from lwc.core.progress import Say, Step
from lwc.report.formats import duration

SECONDS_BETWEEN_LINES = 30.0
"""Between signs of life in a log."""

_LONGEST_BAR, _SHORTEST_BAR = 30, 8


@dataclass(frozen=True)
class Running:
    """A stage at work, as far as it has said. Never changed, so that threads may read it.

    Args:
        began: when; all times are seconds of one clock.
        said: its last progress text; may be a `Step`.
        step: its last `Step`: what a part of a loop says in words between its steps does not end the loop.
        result: its last text that is no step, which is worth keeping when the stage ends.
        since: when the loop's first step was heard, and its number: a resumed loop starts late.
        heard: when the last step was heard.
    """

    stage: str
    began: float
    said: str = ""
    result: str = ""
    step: Step | None = None
    since: tuple[float, int] = (0.0, 0)
    heard: float = 0.0

    def after(self, text: str, now: float) -> Running:
        """The same stage after it has said ``text``."""
        if not isinstance(text, Step):
            return replace(self, said=text, result=text)
        last = self.step
        same = last is not None and last.total == text.total and last.done <= text.done
        return replace(self, said=text, step=text, since=self.since if same else (now, text.done), heard=now)

    def elapsed(self, now: float) -> str:
        """How long the stage has been at work."""
        return clock(now - self.began)

    def pace(self) -> float | None:
        """Seconds a step; None while fewer than two steps were heard."""
        if not isinstance(self.said, Step):
            return None
        start, first = self.since
        taken = self.said.done - first
        return (self.heard - start) / taken if taken > 0 and self.heard > start else None

    def speed(self) -> str:
        """Steps a second, or seconds a step where these are more; empty while not known."""
        pace = self.pace()
        if pace is None or not isinstance(self.said, Step) or not self.said.counted:
            return ""
        return f"{1 / pace:.1f} it/s" if pace <= 1 else f"{pace:.1f} s/it"

    def left(self, now: float) -> str:
        """Time left; empty while not known."""
        pace = self.pace()
        if pace is None or not isinstance(self.said, Step):
            return ""
        left = pace * (self.said.total - self.said.done) - (now - self.heard)
        return f"{clock(max(0.0, left))} left"


def clock(seconds: float) -> str:
    """``1:05``, or ``2:01:05``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class RunView:
    """Shows the events of a pipeline (`lwc.pipeline.run.Event`); used as a context manager.

    In a terminal the last line is the running stage's, with a bar if it counts steps. Elsewhere a line is printed every
    30 s, also while the stage says nothing: a thread prints it, which ends with the view.
    """

    def __init__(
        self, now: Callable[[], float] = time.monotonic, seconds_between_lines: float = SECONDS_BETWEEN_LINES
    ) -> None:
        # FORCE_COLOR makes a log a terminal to rich: colours are harmless there, a bar is not.
        self._interactive = render.console.is_interactive and render.console.file.isatty()
        self._now, self._between = now, seconds_between_lines
        self._running: Running | None = None
        self._due = 0.0
        # A sign of life must not follow the end of its stage. The bar takes no lock: rich holds its own meanwhile.
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._reminder = threading.Thread(target=self._remind_until_ended, name="lwc-view", daemon=True)
        self._live = Live(get_renderable=self._bar, console=render.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> RunView:
        if self._interactive:
            self._live.start()
        else:
            self._reminder.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running = None
        if self._interactive:
            self._live.stop()
        else:
            self._ended.set()
            self._reminder.join()

    @contextmanager
    def stage(self, name: str, purpose: str) -> Iterator[Say]:
        """Show work that is no stage of a pipeline as one; gives the function that takes its progress."""
        began = self._now()
        self.event("start", name, purpose)
        yield partial(self.event, "progress", name)
        self.event("done", name, duration(self._now() - began))

    def event(self, kind: str, stage: str, text: str) -> None:
        """A pipeline event."""
        with self._lock:
            now = self._now()
            if kind == "progress":
                if self._running is not None:
                    self._running = self._running.after(text, now)
            elif kind == "warning":
                render.warning(text)
            elif kind == "note":
                render.line(f"[dim]note:[/dim] {escape(text)}")
            elif kind == "variant":
                render.line(f"\n[bold]{escape(text)}[/bold]")
            else:
                self._stage_event(kind, stage, text, now)

    def _stage_event(self, kind: str, stage: str, text: str, now: float) -> None:
        if kind == "start":
            self._running, self._due = Running(stage, now), now + self._between
        elif kind == "wait" and self._running is not None:
            self._running = replace(self._running, said="waiting")
        elif kind == "done" and self._running is not None:
            text = _joined(text, self._running.result)
            self._running = None
        if self._interactive:
            self._live.refresh()  # or the line below would be followed by the stage before
        render.line(f"{render.MARKS[kind]} {stage:<9} {escape(text)}")

    def remind(self) -> None:
        """Print how far the running stage is, if that is due."""
        with self._lock:
            now, running = self._now(), self._running
            if running is None or now < self._due:
                return
            self._due = now + self._between
            said = _joined(running.elapsed(now), running.said or "running", running.speed(), running.left(now))
            render.line(f"  {running.stage:<9} {escape(said)}")

    def _remind_until_ended(self) -> None:
        wait = self._between
        while not self._ended.wait(wait):
            self.remind()
            # A stage that begins meanwhile is not due before this wait is over.
            wait = self._between if self._running is None else max(0.0, self._due - self._now())

    def _bar(self) -> RenderableType:
        running, now = self._running, self._now()
        if running is None:
            return Group()
        said = running.said
        line = Text(f"  {running.stage:<9} ", style="cyan")
        if not isinstance(said, Step) or not said.total:
            line.append(_joined(running.elapsed(now), said))
            line.truncate(render.console.width, overflow="ellipsis")
            return line
        left = running.left(now)
        text, end = Text(f" {said}", style="cyan"), Text(f" · {left}" if left else "", style="cyan")
        room = render.console.width - line.cell_len - end.cell_len
        width = max(_SHORTEST_BAR, min(_LONGEST_BAR, room - text.cell_len))
        text.truncate(max(1, room - width), overflow="ellipsis")
        grid = Table.grid()
        grid.add_row(line, ProgressBar(said.total, said.done, width=width), text + end)
        return grid


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)
