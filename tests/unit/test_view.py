"""What a run shows while it works: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest

from lwc.cli import terminal as render
from lwc.cli.view import RunView
from lwc.core.progress import Step, part


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def watched(view: RunView, clock: Clock, seconds: int, event: Callable[[int], None] = lambda second: None) -> None:
    """Let time pass, second by second, as the view's own thread sees it."""
    for _ in range(seconds):
        clock.now += 1
        event(int(clock.now))
        view.remind()


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_log_has_a_line_every_30_seconds_with_all_that_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with RunView(clock) as view:
        view.event("start", "train", "fine-tunes the model")
        watched(
            view,
            clock,
            95,
            lambda second: view.event("progress", "train", Step(2 * second, 218, "loss 0.412 · macro-F1 0.809")),
        )
        view.event("progress", "train", "190 steps, kept the last")
        view.event("done", "train", "1 min 35 s")
        watched(view, clock, 60)
    assert said(capsys) == [
        "… train     fine-tunes the model",
        "  train     0:30 · step 60/218 · loss 0.412 · macro-F1 0.809 · 2.0 it/s · 1:19 left",
        "  train     1:00 · step 120/218 · loss 0.412 · macro-F1 0.809 · 2.0 it/s · 0:49 left",
        "  train     1:30 · step 180/218 · loss 0.412 · macro-F1 0.809 · 2.0 it/s · 0:19 left",
        "✓ train     1 min 35 s · 190 steps, kept the last",
    ]


def test_a_short_stage_has_no_line_and_each_stage_has_its_own_30_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with RunView(clock) as view:
        for stage in ("remove", "export"):
            view.event("start", stage, "")
            watched(view, clock, 29)
            view.event("done", stage, "29.0 s")
    assert [line[0] for line in said(capsys)] == ["…", "✓", "…", "✓"]


def test_a_stage_that_says_nothing_is_alive_and_a_text_takes_the_place_of_a_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    with RunView(clock) as view:
        view.event("start", "export", "")
        view.event("wait", "export", "waiting for another run")
        watched(view, clock, 30)
        view.event("progress", "export", "")
        watched(view, clock, 30)
        view.event("progress", "export", Step(3, 4))
        view.event("progress", "export", "parity of base")
        watched(view, clock, 3600)
    lines = said(capsys)
    assert lines[1:5] == [
        "… export    waiting for another run",
        "  export    0:30 · waiting",
        "  export    1:00 · running",
        "  export    1:30 · parity of base",
    ]
    assert lines[-1] == "  export    1:01:00 · parity of base"


def test_time_left_counts_the_steps_of_this_process_and_of_this_loop(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with RunView(clock) as view:
        view.event("start", "recover", "")
        # Resumed at step 100 of 200, 4 s a step; then another loop.
        watched(view, clock, 60, lambda now: view.event("progress", "recover", Step(100 + now // 4, 200)))
        view.event("progress", "recover", Step(1, 50))
        watched(view, clock, 30)
        watched(view, clock, 30, lambda now: view.event("progress", "recover", Step(50, 50)))
    lines = said(capsys)
    assert lines[2] == "  recover   1:00 · step 115/200 · 3.9 s/it · 5:34 left"
    assert lines[3] == "  recover   1:30 · step 1/50", "one step has no pace"
    assert lines[4].endswith("0:00 left")


def test_time_left_of_a_race_is_that_of_all_its_candidates() -> None:
    # Each of four candidates takes ten steps of a second, and ten more seconds to begin and to be judged.
    clock = Clock()
    with RunView(clock) as view:
        view.event("start", "select", "a race")
        for candidate in range(3):
            say = part(partial(view.event, "progress", "select"), f"candidate {candidate + 1}/4", candidate, 4)
            say("asking the uncut model")
            clock.now += 10
            for step in range(1, 11):
                clock.now += 1
                say(Step(step, 10))
        assert view._running is not None
        # Ten steps are left, and those before took nearly two seconds each, all told.
        left = view._running.left(clock())
        assert "0:15" < left < "0:20 left", left


def test_the_thread_speaks_for_a_silent_stage_never_within_a_line_and_ends_with_the_view(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(render, "console", render._Terminal(file=written, highlight=False))
    with RunView(seconds_between_lines=0.001) as view:
        for number in range(5):
            view.event("start", f"stage{number}", "purpose")
            deadline = time.monotonic() + 60
            while f"  stage{number} " not in written.getvalue() and time.monotonic() < deadline:
                view.event("note", f"stage{number}", "a note")
                time.sleep(0.001)
            view.event("done", f"stage{number}", "1.0 s")
    assert "lwc-view" not in [thread.name for thread in threading.enumerate()]
    lines = written.getvalue().splitlines()
    shape = re.compile(r"note: a note|[…✓ ] stage(\d+) +(purpose|1\.0 s|0:00 · running)")
    assert [line for line in lines if not shape.fullmatch(line)] == []
    alive = [line for line in lines if "running" in line]
    assert {line.split()[0] for line in alive} == {f"stage{number}" for number in range(5)}
    ended = 0
    for line in lines:
        ended += line.startswith("✓")
        assert line not in alive or line.split()[0] == f"stage{ended}", "a sign of life after the end"


def test_a_stage_ends_after_a_sign_of_life_that_is_being_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    printing = threading.Event()

    def slowly(markup: str) -> None:
        if "running" in markup:
            printing.set()
            time.sleep(0.2)
        lines.append(markup)

    monkeypatch.setattr(render, "line", slowly)
    clock = Clock()
    view = RunView(clock)
    view.event("start", "export", "")
    clock.now = 30.0
    reminder = threading.Thread(target=view.remind)
    reminder.start()
    assert printing.wait(10)
    view.event("done", "export", "30.0 s")
    reminder.join()
    assert [line.split()[-1] for line in lines] == ["export", "running", "s"]


def test_the_thread_ends_with_a_failure_too(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        with RunView() as view, view.stage("report", "writes the report"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert "lwc-view" not in [thread.name for thread in threading.enumerate()]
    assert said(capsys) == ["… report    writes the report"], "what failed is not done"


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def tty(monkeypatch: pytest.MonkeyPatch) -> Tty:
    """A terminal of 80 columns."""
    monkeypatch.setenv("TERM", "xterm")
    written = Tty()
    monkeypatch.setattr(
        render, "console", render._Terminal(file=written, force_terminal=True, width=80, highlight=False)
    )
    return written


def shown(view: RunView) -> str:
    """The line of the bar, as it is at this moment."""
    with render.console.capture() as caught:
        render.console.print(view._bar())
    return re.sub(r"\x1b\[[0-9;]*m", "", caught.get()).rstrip()


def test_a_terminal_has_a_bar_with_step_loss_validation_and_time_left(tty: Tty) -> None:
    clock = Clock()
    view = RunView(clock)
    view.event("start", "train", "")
    assert shown(view) == "  train     0:00"
    for step in (10, 109):
        clock.now = float(step)
        view.event("progress", "train", Step(step, 218, "loss 0.412 · macro-F1 0.809"))
    line = shown(view)
    assert re.fullmatch(r"  train     ━+╸?╺?━* step 109/218 · loss 0\.412 · macro-F1 0\.809 · 1:49 left", line)
    assert len(line) <= 80
    view.event("progress", "train", Step(110, 218, "round 1/2, candidate 3/4 · loss 0.412 · next token accuracy 0.809"))
    assert len(shown(view)) <= 80
    assert shown(view).endswith("… · 1:46 left"), "the note is cut, not the time"
    view.event("progress", "train", Step(0, 0, "read 5 rows", counted=False))
    assert shown(view) == "  train     1:49 · read 5 rows", "a source of unknown size has no bar"
    view.event("done", "train", "")
    assert shown(view) == ""


def test_a_terminal_has_no_lines_of_a_log(tty: Tty) -> None:
    with RunView(seconds_between_lines=0.001) as view:
        assert "lwc-view" not in [thread.name for thread in threading.enumerate()]
        view.event("start", "train", "purpose")
        view.event("done", "train", "1.0 s")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", tty.getvalue())
    assert "… train     purpose" in plain
    assert "✓ train     1.0 s" in plain
    assert "running" not in plain


def test_colours_in_a_log_make_no_terminal_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(render, "console", render._Terminal(stderr=True, force_terminal=True, highlight=False))
    clock = Clock()
    with RunView(clock) as view:
        view.event("start", "train", "")
        watched(view, clock, 30)
    assert "0:30 · running" in capsys.readouterr().err


def test_a_step_is_its_text() -> None:
    assert Step(12, 218, "loss 0.412") == "step 12/218 · loss 0.412"
    assert (Step(12, 218), Step(5, 9, "read 5 rows", counted=False)) == ("step 12/218", "read 5 rows")


def test_steps_of_the_parts_are_steps_of_the_whole() -> None:
    heard: list[str] = []
    # Two candidates of 10 steps, then one of 20, as in a race.
    for name, before, weight in (("a", 0, 10), ("b", 10, 10), ("c", 20, 20)):
        say = part(heard.append, name, before, 40, weight)
        for step in range(1, weight + 1):
            say(Step(step, weight, f"loss {step}"))
    steps = [one for one in heard if isinstance(one, Step)]
    assert [(one.done, one.total) for one in steps] == [(number, 40) for number in range(1, 41)]
    assert steps[10] == "step 11/40 · b · loss 1"
    part(heard.append, "a", 0, 2)("resuming")
    assert heard[-1] == "a: resuming"
    part(heard.append, "cut model 2/3", 1, 3)(Step(4, 8))
    assert heard[-1] == "step 12/24 · cut model 2/3", "parts of one weight need no other unit"
    assert all(one.done <= other.done for one, other in pairwise(steps))
