"""Train, validation and test of user histories: the last items of each user, or a cut in time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lwc.core.arrays import Array
from lwc.core.errors import DataError
from lwc.recipe import NextItem, Split
from lwc.tasks.next_item.histories import UNKNOWN, Catalogue, Event, catalogue_of


@dataclass(frozen=True)
class Question:
    """What a user had taken until ``time``, oldest first, and what came next; items as ids."""

    user: str
    history: tuple[str, ...]
    target: str
    time: int


@dataclass(frozen=True)
class Divided:
    """Train histories by user, and one question a user for validation and for test."""

    train: dict[str, list[Event]]
    validation: list[Question]
    test: list[Question]


def _question(user: str, before: Sequence[Event], target: Event) -> Question:
    return Question(user, tuple(event.item for event in before), target.item, target.time)


def leave_last_out(found: Mapping[str, Sequence[Event]]) -> Divided:
    """The last item of each user is the test question, the one before it the validation question.

    A user with fewer than three items is in train only. Train holds what *other* users did after a question was
    asked: that is the custom of the field, and kinder than life; ``split: time`` is not.
    """
    held = {user: events for user, events in found.items() if len(events) >= 3}
    return Divided(
        {user: list(events[:-2] if user in held else events) for user, events in found.items()},
        [_question(user, events[:-2], events[-2]) for user, events in held.items()],
        [_question(user, events[:-1], events[-1]) for user, events in held.items()],
    )


def by_time(found: Mapping[str, Sequence[Event]], shares: Split) -> Divided:
    """Train is all before a moment, validation the time after it, test the newest.

    The shares of ``data.split`` are of the events in time order. A user's question is the first item after the cut,
    asked with all that the user had taken before the cut; users who are new then have no history and no question.
    """
    times = np.sort([event.time for events in found.values() for event in events])
    first = int(times[int(len(times) * (1 - shares.validation - shares.test))])
    second = int(times[int(len(times) * (1 - shares.test))])
    train = {user: [event for event in events if event.time < first] for user, events in found.items()}

    def questions(start: int, end: float) -> Iterable[Question]:
        for user, events in found.items():
            before = [event for event in events if event.time < start]
            after = [event for event in events if start <= event.time < end]
            if before and after:
                yield _question(user, before, after[0])

    return Divided(
        {user: events for user, events in train.items() if events},
        list(questions(first, second)),
        list(questions(second, float("inf"))),
    )


def divide(found: Mapping[str, Sequence[Event]], task: NextItem, shares: Split) -> tuple[Divided, Catalogue]:
    """The split that the task asks for, and the catalogue of its train part.

    Raises:
        DataError: a part has no rows, or the catalogue fewer than two items.
    """
    if not found:
        raise DataError(f"no user has {task.min_history} items", "use more data, or lower task.min_history")
    divided = leave_last_out(found) if task.split == "leave_last_out" else by_time(found, shares)
    catalogue = catalogue_of((event.item for events in divided.train.values() for event in events), task.min_count)
    if len(catalogue) < 2:
        raise DataError(
            f"{len(catalogue)} items occur {task.min_count} times in train", "use more data, or lower task.min_count"
        )
    for name, part in (("validation", divided.validation), ("test", divided.test)):
        if not part:
            raise DataError(
                f"the {name} split has no questions: nobody with a history took something then",
                "use more data, larger data.split shares, or task.split: leave_last_out",
            )
    return divided, catalogue


@dataclass(frozen=True)
class Questions:
    """Questions in the catalogue's numbers: ``seen`` known items of each history, oldest first, and the target (N,).

    A target that train has never seen is `UNKNOWN`: no model can name it, and it counts as missed. ``skipped`` (N,) are
    the items of the history that the catalogue lacks, ``times`` (N,) when the question was asked.
    """

    users: list[str]
    seen: list[list[int]]
    targets: Array
    skipped: Array
    times: Array
    histories: list[list[str]]

    def __len__(self) -> int:
        return len(self.seen)


def write_train(train: Mapping[str, Sequence[Event]], path: Path) -> None:
    """Train histories as Parquet: user, items, times."""
    table = pa.table(
        {
            "user": pa.array(list(train), pa.string()),
            "items": pa.array([[event.item for event in events] for events in train.values()], pa.list_(pa.string())),
            "times": pa.array([[event.time for event in events] for events in train.values()], pa.list_(pa.int64())),
        }
    )
    pq.write_table(table, path)


def write_questions(questions: Sequence[Question], path: Path) -> None:
    """Questions as Parquet: user, history, target, time."""
    table = pa.table(
        {
            "user": pa.array([question.user for question in questions], pa.string()),
            "history": pa.array([list(question.history) for question in questions], pa.list_(pa.string())),
            "target": pa.array([question.target for question in questions], pa.string()),
            "time": pa.array([question.time for question in questions], pa.int64()),
        }
    )
    pq.write_table(table, path)


@dataclass(frozen=True)
class Train:
    """Train histories in the catalogue's numbers, and the time of each event."""

    items: list[list[int]]
    times: list[list[int]]


def load_train(data_dir: Path) -> Train:
    """``train.parquet`` in the catalogue's numbers; items that are too rare for the catalogue are left out."""
    numbers = Catalogue.read(data_dir / "catalogue.json").numbers()
    table = pq.read_table(data_dir / "train.parquet").to_pydict()
    rows = [
        [(numbers[item], time) for item, time in zip(items, times, strict=True) if item in numbers]
        for items, times in zip(table["items"], table["times"], strict=True)
    ]
    return Train([[number for number, _ in row] for row in rows], [[time for _, time in row] for row in rows])


def load_questions(data_dir: Path, split: str) -> Questions:
    """``validation`` or ``test`` in the catalogue's numbers."""
    numbers = Catalogue.read(data_dir / "catalogue.json").numbers()
    table = pq.read_table(data_dir / f"{split}.parquet").to_pydict()
    seen = [[numbers[item] for item in history if item in numbers] for history in table["history"]]
    lengths = [len(history) for history in table["history"]]
    return Questions(
        table["user"],
        seen,
        np.array([numbers.get(target, UNKNOWN) for target in table["target"]], dtype=np.int64),
        np.array([length - len(known) for length, known in zip(lengths, seen, strict=True)], dtype=np.int64),
        np.array(table["time"], dtype=np.int64),
        table["history"],
    )
