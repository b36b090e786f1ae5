"""What each task's wire sends, which answers it refuses, and how it judges the others."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from lwc.recipe import TASKS
from lwc.serving.loadtest.endpoint import wires
from lwc.tasks.endpoint import Sample, Tensor, WireError
from lwc.tasks.next_item.wire import ItemWire, ndcg
from lwc.tasks.text_wire import TextWire


def test_a_wire_is_light_and_its_settings_are_json() -> None:
    modules = sorted({path.partition(":")[0] for path in wires()})
    code = f"import sys, {', '.join(modules)}; sys.exit(any(m in sys.modules for m in ('torch', 'pandas', 'pyarrow')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    for wire in (TextWire(names=("a", "b")), ItemWire()):
        again = type(wire)(**json.loads(json.dumps(asdict(wire))))
        assert again.decode(ANSWERS[type(wire)]) == wire.decode(ANSWERS[type(wire)])


def test_what_serves_and_rolls_out_a_model_loads_no_torch() -> None:
    modules = ("rollout.run", "triton.foreground", "checks.run", "verify.run")
    code = f"import sys, {', '.join(f'lwc.serving.{name}' for name in modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, "seconds at every `lwc deploy`"


def test_every_task_names_the_wire_of_its_endpoint() -> None:
    for task in TASKS:
        assert hasattr(task.load().endpoint, "proof")
        assert task.wire in wires()


def text_answer(label: Any, *scores: float) -> dict[str, Any]:
    return {
        "label": np.array([[label]], dtype=np.object_),
        "scores": np.array([scores], dtype=np.float32),
    }


def item_answer(items: list[bytes], skipped: int = 0, scores: list[float] | None = None) -> dict[str, Any]:
    return {
        "items": np.array([items], dtype=np.object_),
        "scores": np.array([scores or range(len(items), 0, -1)], dtype=np.float32),
        "skipped": np.array([[skipped]], dtype=np.int32),
    }


ANSWERS: dict[type, dict[str, Any]] = {
    TextWire: text_answer(b"a", 0.0, 1.0),
    ItemWire: item_answer(["ü".encode(), b"b", b""], 2),
}


def test_questions_are_sent_as_bytes_in_the_shape_of_the_model() -> None:
    assert TextWire().encode("naïve ☕")["text"].tolist() == [["naïve ☕".encode()]]
    assert TextWire(input="review", shape=(1,)).encode("")["review"].tolist() == [b""]
    assert ItemWire().encode(["a", "ü"])["history"].tolist() == [[b"a", "ü".encode()]]
    assert ItemWire().encode([])["history"].tolist() == [[b""]], "an empty id stands for no item"


def test_a_title_is_sent_to_an_input_of_its_own() -> None:
    wire = TextWire(title="title")
    sent = wire.encode({"title": "ü", "text": "works"})
    assert {name: value.tolist() for name, value in sent.items()} == {"title": [["ü".encode()]], "text": [[b"works"]]}
    assert list(wire.encode("works")) == ["text"]
    with pytest.raises(ValueError, match="takes only text"):
        TextWire().encode({"title": "ü", "text": "works"})
    text, title = (Tensor(name, "BYTES", (-1, 1)) for name in ("text", "title"))
    fitting = TextWire.fitting("m", [title, text], [Tensor("label", "BYTES", (-1, 1))], None)
    assert fitting == TextWire(outputs=("label",), scores=None, title="title")
    other = Tensor("other", "BYTES", (-1, 1))
    assert TextWire.fitting("m", [text, other], [], None) is None
    assert TextWire.fitting("m", [text, Tensor("title", "BYTES", (-1, 2))], [], None) is None


def test_answers_without_labels_are_judged_by_the_offline_ones() -> None:
    samples = [Sample(1, "x", None, "a"), Sample(2, "y", None, "b")]
    found = TextWire().judge([(0, "a"), (1, "a")], samples)
    assert found is not None
    assert (found["matches_offline"], found["n"], "accuracy" in found) == (0.5, 2, False)
    assert TextWire().judge([(0, "a")], [Sample(1, "x", None, None)]) is None


def test_a_label_is_read_by_name() -> None:
    wire = TextWire(names=("a", "ça"))
    assert wire.decode(text_answer("ça".encode(), 0.25, -1.5)) == "ça"
    assert TextWire(label=None, scores=None).decode({}) is None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (text_answer(b"a", 0.0, float("nan")), "not finite"),
        (text_answer(b"a", 0.0, float("inf")), "not finite"),
        (text_answer(b"a", 0.0, 1.0, 2.0), "3 scores came back for 2 classes"),
        (text_answer(b"\xff", 0.0, 1.0), "not UTF-8"),
        (text_answer(b"c", 0.0, 1.0), "'c' is none of"),
        (text_answer(1.5, 0.0, 1.0), "1 labels of type object"),
        ({**text_answer(b"a", 0.0, 1.0), "label": np.array([b"a", b"b"], dtype=np.object_)}, "2 labels"),
    ],
)
def test_what_is_no_label_is_an_error_of_its_request(answer: dict[str, Any], words: str) -> None:
    with pytest.raises(WireError, match=words):
        TextWire(names=("a", "b")).decode(answer)


def test_items_are_read_without_the_empty_places_at_the_end() -> None:
    assert ItemWire().decode(ANSWERS[ItemWire]) == {"items": ["ü", "b"], "skipped": 2}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({**item_answer([b"a"]), "scores": np.zeros((1, 2), np.float32)}, "for one history"),
        ({**item_answer([b"a"]), "skipped": np.zeros((2, 1), np.int32)}, "for one history"),
        (item_answer([b"a"], scores=[float("nan")]), "not finite"),
        (item_answer([b"\xff"]), "not UTF-8"),
    ],
)
def test_what_is_no_list_of_items_is_an_error_of_its_request(answer: dict[str, Any], words: str) -> None:
    with pytest.raises(WireError, match=words):
        ItemWire().decode(answer)


def test_labels_are_judged_by_the_first_answer_and_agreement_by_all() -> None:
    samples = [Sample(1, "x", "a", "a"), Sample(2, "y", "b", "a"), Sample(3, "z", "b", "b")]
    answers: list[tuple[int, Any]] = [(0, "a"), (1, "a"), (0, "b")]
    found = TextWire(names=("b", "a")).judge(answers, samples)
    assert found is not None
    assert (found["accuracy"], found["offline_accuracy"], found["accuracy_difference"]) == (0.5, 0.5, 0.0)
    assert found["matches_offline"] == pytest.approx(2 / 3)
    assert found["different"] == [{"id": 1, "offline": "a", "served": "b"}]
    assert (found["n"], found["texts"], found["covered_all"], found["inconsistent_texts"]) == (2, 3, False, 1)
    assert (found["label_names"], found["confusion"]) == (["b", "a"], [[0, 1], [0, 1]])
    assert TextWire(label=None, scores=None).judge(answers, samples) is None


def test_recommendations_are_judged_over_users_and_over_all_answers() -> None:
    samples = [
        Sample(1, ["x"], "b", ["a", "b"]), Sample(2, ["y"], None, ["c"]), Sample(3, ["z"], "q", ["a"]),
    ]  # fmt: skip
    lists = [(0, ["a", "b"], 0), (1, ["c"], 2), (0, ["b", "a"], 0)]
    found = ItemWire().judge([(index, {"items": items, "skipped": n}) for index, items, n in lists], samples)
    assert found is not None
    assert found["ndcg_at_10"] == found["offline_ndcg_at_10"] == pytest.approx(1 / np.log2(3) / 2)
    assert (found["ndcg_difference"], found["matches_offline"]) == (0.0, pytest.approx(2 / 3))
    assert found["different"] == [{"id": 1, "offline": ["a", "b"], "served": ["b", "a"]}]
    assert (found["n"], found["texts"], found["covered_all"], found["inconsistent_texts"]) == (2, 3, False, 1)
    assert found["skipped_items"] == 2
    blind = [Sample(1, ["x"], None, None)]
    assert "ndcg_at_10" not in (ItemWire().judge([(0, {"items": ["a"], "skipped": 0})], blind) or {})


def test_ndcg_is_that_of_the_evaluation() -> None:
    from lwc.tasks.next_item.ranking import per_question

    lists = [[str(item) for item in range(12)]] * 4
    places = np.array([1.0, 10.0, 11.0, np.inf])
    assert ndcg(lists, ["0", "9", "10", None]) == pytest.approx(per_question(places)["ndcg_at_10"].mean())
