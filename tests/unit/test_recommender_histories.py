"""Histories, splits and the catalogue of the recommender."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from histories import ITEMS, recipe, write_chain

from lwc.core.errors import DataError
from lwc.pipeline.stages import inspect
from lwc.recipe import NextItem, Recipe, Split
from lwc.report.data_warnings import data_warnings
from lwc.tasks.next_item.histories import Catalogue, Event, catalogue_of, histories
from lwc.tasks.next_item.prepare import prepare
from lwc.tasks.next_item.splits import by_time, divide, leave_last_out, load_questions, load_train


def events(user: str, *pairs: tuple[str, int]) -> list[Event]:
    return [Event(user, item, time) for item, time in pairs]


def test_histories_are_in_time_order_each_item_once_at_its_first_time() -> None:
    given = events("u", ("b", 5), ("a", 1), ("b", 2), ("c", 9)) + events("short", ("a", 1))
    found, account = histories(given, 2)
    assert {user: [(event.item, event.time) for event in mine] for user, mine in found.items()} == {
        "u": [("a", 1), ("b", 2), ("c", 9)]
    }
    assert account == {"repeated_events": 1, "users_left_out": 1, "events_of_users_left_out": 1}


def test_events_of_one_moment_stand_in_an_order_that_ids_and_file_do_not_give_away() -> None:
    names = [f"i{number:02d}" for number in range(30)]
    orders = set()
    for user in ("u", "v", "w"):
        forward, _ = histories(events(user, *((name, 7) for name in names)), 1)
        backward, _ = histories(events(user, *((name, 7) for name in reversed(names))), 1)
        assert forward == backward
        orders.add(tuple(event.item for event in forward[user]))
    assert len(orders) == 3
    assert tuple(names) not in orders


def test_the_catalogue_is_the_popularity_list_and_knows_when_it_was_changed(tmp_path: Path) -> None:
    made = catalogue_of(["b", "a", "c", "b", "c", "b", "rare"], 1)
    assert made.items == ("b", "c", "a", "rare")
    assert made.counts == (3, 2, 1, 1)
    assert catalogue_of(["b", "a", "b"], 2).items == ("b",)
    path = tmp_path / "catalogue.json"
    made.write(path)
    assert Catalogue.read(path) == made
    content = json.loads(path.read_text())
    content["items"][0], content["items"][1] = content["items"][1], content["items"][0]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="SHA-256"):
        Catalogue.read(path)


def test_leave_last_out_asks_for_the_last_item_with_all_before_it() -> None:
    found, _ = histories(events("u", ("a", 1), ("b", 2), ("c", 3), ("d", 4)) + events("two", ("a", 1), ("b", 2)), 2)
    divided = leave_last_out(found)
    assert {user: [event.item for event in mine] for user, mine in divided.train.items()} == {
        "u": ["a", "b"],
        "two": ["a", "b"],
    }
    assert [(q.user, q.history, q.target) for q in divided.validation] == [("u", ("a", "b"), "c")]
    assert [(q.user, q.history, q.target) for q in divided.test] == [("u", ("a", "b", "c"), "d")]


def test_a_split_by_time_lets_nothing_of_later_into_train_or_into_a_history() -> None:
    rows = [event for n in range(40) for event in events(f"u{n % 10}", (f"i{n}", n))]
    found, _ = histories(rows, 2)
    divided = by_time(found, Split(by="time", validation=0.2, test=0.2))
    train_end = max(event.time for mine in divided.train.values() for event in mine)
    when = {f"i{n}": n for n in range(40)}
    assert train_end == 23
    assert {question.time for question in divided.validation} == set(range(24, 32))
    assert {question.time for question in divided.test} == set(range(32, 40))
    for question in divided.validation:
        assert max(when[item] for item in question.history) <= 23
    for question in divided.test:
        assert max(when[item] for item in question.history) <= 31
        assert question.time == when[question.target]


def test_what_train_never_saw_is_unknown_as_target_and_skipped_in_a_history(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    write_chain(path, users=40)
    with path.open("a", encoding="utf-8") as file:
        # z1 and z2 stand only where train does not look: as validation target (test history) and as test target.
        file.write("".join(f"x,{name},{time},t\n" for name, time in (("I001ü", 1), ("I002ü", 2), ("z1", 3), ("z2", 4))))
    made = recipe(path)
    assert isinstance(made.task, NextItem)
    quality = prepare(made, made.task, tmp_path, lambda _: None)
    assert quality["items"] == ITEMS
    assert quality["splits"]["test"]["targets_not_in_train"] == 1
    test = load_questions(tmp_path, "test")
    row = test.users.index("x")
    assert test.targets[row] == -1
    assert test.skipped[row] == 1
    numbers = Catalogue.read(tmp_path / "catalogue.json").numbers()
    assert test.seen[row] == [numbers["I001ü"], numbers["I002ü"]]
    assert sum(map(len, load_train(tmp_path).items)) == 40 * 6 + 2


def test_rows_without_user_item_or_time_are_quarantined_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    write_chain(path, users=40)
    with path.open("a", encoding="utf-8") as file:
        file.write(",I001ü,5,t\nx,,5,t\nx,I001ü,,t\nx,I001ü,soon,t\n")
    made = recipe(path)
    assert isinstance(made.task, NextItem)
    quality = prepare(made, made.task, tmp_path, lambda _: None)
    assert quality["rows_bad"] == {
        "no user": 1,
        "no item": 1,
        "no time": 1,
        "time is neither a number of seconds nor a date": 1,
    }
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == 4
    strict = recipe(path, data={**made.data.model_dump(), "max_bad_rows": 0.001})
    with pytest.raises(DataError, match="4 of 324 rows are bad"):
        prepare(strict, made.task, tmp_path, lambda _: None)


def test_inspecting_keeps_nothing_and_says_what_the_line_would(tmp_path: Path) -> None:
    write_chain(tmp_path / "shop.csv", users=40)
    made = recipe(tmp_path / "shop.csv")
    assert isinstance(made.task, NextItem)
    assert inspect(made) == prepare(made, made.task, tmp_path, lambda _: None)


def test_too_little_data_is_one_clear_error() -> None:
    task = NextItem(kind="next_item", min_history=3)
    with pytest.raises(DataError, match="no user has 3 items"):
        divide({}, task, Split())
    found, _ = histories(events("u", ("a", 1), ("b", 2)), 2)
    with pytest.raises(DataError, match="no questions"):
        divide(found, task, Split())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"kind": "pretrained", "source": "x"}}, "model.kind: pretrained"),
        ({"model": {"kind": "config", "vocab_size": 500}}, "model.vocab_size"),
        ({"vocabulary": {"trim": True}}, "vocabulary.trim"),
        ({"score": {"methods": [{"method": "mutual_information"}]}}, "mutual_information"),
        ({"export": {"latency_shapes": [{"batch": 1, "length": 9}]}}, "longer than model.max_length"),
        ({"task": {"kind": "next_item", "top_k": 5}}, "greater than or equal to 10"),
    ],
)
def test_what_items_do_not_have_is_refused_by_the_recipe(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(Path("shop.csv"), **changes)


def shop(path: Path, **data: object) -> Recipe:
    columns = {"user": "user", "item": "item", "time": "time", "rating": "stars"}
    source = {"kind": "table", "paths": [str(path)], "columns": columns}
    return recipe(path, data={"source": source, "calibration": 40, **data})


def write_ratings(path: Path, users: int = 40, seconds: int = 86_400) -> None:
    rows = [f"u{u},{(u + n) % 9},0.5,{u + n * seconds}" for u in range(users) for n in range(6)]
    path.write_text("user,item,stars,time\n" + "\n".join(rows))


def test_interactions_need_neither_a_text_nor_a_rating_of_1_to_5(tmp_path: Path) -> None:
    write_ratings(tmp_path / "r.csv")
    made = shop(tmp_path / "r.csv", labels={"scheme": "none"})
    assert isinstance(made.task, NextItem)
    quality = prepare(made, made.task, tmp_path, lambda _: None)
    assert (quality["rows_bad"], quality["events_used"], quality["events_at_a_shared_time"]) == ({}, 240, 0)
    assert data_warnings(quality, "next_item") == []
    with pytest.raises(ValueError, match=r"columns\.body is null"):
        recipe(tmp_path / "r.csv", task={"kind": "next_item", "text": {}}, data={
            "source": {"kind": "table", "paths": ["r.csv"], "columns": {"body": None}}})  # fmt: skip
    with pytest.raises(ValueError, match="at least 2 users"):
        shop(tmp_path / "r.csv", calibration=1)


@pytest.mark.parametrize(("limit", "users"), [(60, 10), (65, 10), (1000, 40)])
def test_a_limit_draws_whole_histories(tmp_path: Path, limit: int, users: int) -> None:
    write_ratings(tmp_path / "r.csv")
    made = shop(tmp_path / "r.csv", limit=limit)
    assert isinstance(made.task, NextItem)
    quality = prepare(made, made.task, tmp_path, lambda _: None)
    assert (quality["users"], quality["events_used"]) == (users, 6 * users)
    assert quality["events_beyond_limit"] == 240 - 6 * users
    test = load_questions(tmp_path, "test")
    assert {len(history) for history in test.histories} == {5}
    if users < 40:
        assert test.users != [f"u{n}" for n in range(users)], "drawn, not the head"


def test_a_limit_below_every_history_says_so(tmp_path: Path) -> None:
    write_ratings(tmp_path / "r.csv")
    made = shop(tmp_path / "r.csv", limit=5)
    assert isinstance(made.task, NextItem)
    with pytest.raises(DataError, match="limit is 5 events") as caught:
        prepare(made, made.task, tmp_path, lambda _: None)
    assert "6 or more" in caught.value.hint


def test_shared_times_and_ids_in_two_number_forms_are_counted_and_told(tmp_path: Path) -> None:
    write_ratings(tmp_path / "r.csv", seconds=0)
    with (tmp_path / "r.csv").open("a") as file:
        file.write("".join(f"\nv{n % 5},{n % 9}.0,1,{n}" for n in range(45)))
    made = shop(tmp_path / "r.csv")
    assert isinstance(made.task, NextItem)
    quality = prepare(made, made.task, tmp_path, lambda _: None)
    assert (quality["events_at_a_shared_time"], quality["events_used"], quality["items_alike"]) == (240, 285, 18)
    times, ids = data_warnings(quality, "next_item")
    assert times.startswith("84.2 % of the events (240 of 285) have the time of another event")
    assert ids.startswith("18 item ids differ from another only in number form")
