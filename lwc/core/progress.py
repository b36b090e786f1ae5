"""How a stage says how far it is: plain texts, and steps of a loop."""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[str], None]


class Step(str):
    """A progress text that also knows how far its loop is, for a bar and the time left.

    It is a text wherever a text will do: ``Step(12, 218, "loss 0.412")`` is "step 12/218 · loss 0.412".

    Args:
        done: steps taken.
        total: steps that end the loop; it should be most of what its stage has left to do.
        note: what else to show, such as the loss.
        counted: whether the text has the count. A reader of files counts bytes, and shows rows instead.
    """

    done: int
    total: int
    note: str
    counted: bool

    def __new__(cls, done: int, total: int, note: str = "", counted: bool = True) -> Step:
        parts = [f"step {done}/{total}"] if counted else []
        made = super().__new__(cls, " · ".join([*parts, *([note] if note else [])]))
        made.done, made.total, made.note, made.counted = done, total, note, counted
        return made


def part(say: Say, name: str, before: int, total: int, weight: int = 1) -> Say:
    """Progress of one part of a longer loop: its steps count as steps of the whole loop.

    Args:
        before: weight of the parts that are done.
        total: weight of all parts.
        weight: weight of this part; parts of twice the weight have twice the steps.
    """

    def said(text: str) -> None:
        if isinstance(text, Step):
            scale = text.total / weight
            note = f"{name} · {text.note}" if text.note else name
            say(Step(round(before * scale) + text.done, round(total * scale), note, text.counted))
        else:
            say(f"{name}: {text}")

    return said
