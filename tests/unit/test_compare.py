"""Runs side by side: the paired tests, when there is none and why, and what the tables say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_runs import LABELS, N, make_run, wrong
from test_report_served import interval, served

from lwc.core.errors import USAGE, RecipeError
from lwc.core.store import RECORD, write_json
from lwc.recipe import Recipe
from lwc.report.build import build_report
from lwc.report.compare import compare, differences
from lwc.report.compare_html import to_html, to_markdown
from lwc.report.paired import holm, mcnemar


def test_mcnemar_by_hand() -> None:
    # 5 rows only the first gets right, 1 only the second: 2 · (C(6,0) + C(6,1)) / 2^6 = 14 / 64.
    labels = np.zeros(20, dtype=int)
    first, second = labels.copy(), labels.copy()
    second[:5] = 1
    first[5] = 1
    first[6:9] = second[6:9] = 1  # both wrong: no part of the test
    assert mcnemar(labels, first, second) == (5, 1, pytest.approx(14 / 64))
    assert mcnemar(labels, first, first) == (0, 0, 1.0)


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_paired_test_counts_rows_and_signs(tmp_path: Path) -> None:
    slow = make_run(tmp_path, "slow", wrong(*range(40)))
    fast = make_run(tmp_path, "fast", wrong(*range(10), 50))
    c = compare([slow, fast])
    (test,) = c["tests"]
    assert test["tested"]
    assert (test["only_run_right"], test["only_reference_right"], test["n"]) == (30, 1, N)
    gained = test["difference"]["accuracy"]
    assert gained["value"] == pytest.approx(29 / N)
    assert 0 < gained["low"] < gained["value"] < gained["high"] < 0.12
    assert test["p"] < 0.001
    assert "fast is better than slow: accuracy +0.073" in to_markdown(c)
    back = compare([fast, slow])["tests"][0]
    assert back["difference"]["accuracy"]["value"] == pytest.approx(-29 / N)
    assert back["p"] == pytest.approx(test["p"])
    json.dumps(c, allow_nan=False)


def test_rows_are_paired_by_id_not_by_place(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(N)
    ids = np.array([f"r{i:03d}" for i in range(N)])
    answers = wrong(3, 5, 8)
    one = make_run(tmp_path, "one", answers)
    two = make_run(tmp_path, "two", answers[order], LABELS[order], ids[order])
    (test,) = compare([one, two])["tests"]
    assert test["tested"]
    assert (test["only_run_right"], test["only_reference_right"], test["p"]) == (0, 0, 1.0)
    assert "No difference shown" in to_markdown(compare([one, two]))


def test_no_test_and_the_reason_in_words(tmp_path: Path) -> None:
    flipped = LABELS.copy()
    flipped[7] = 1 - flipped[7]
    runs = [
        make_run(tmp_path, "first", wrong(1)),
        make_run(tmp_path, "shorter", wrong(1)[:300], LABELS[:300]),
        make_run(tmp_path, "foreign", wrong(1), ids=np.array([f"r{i + 1:03d}" for i in range(N)])),
        make_run(tmp_path, "relabelled", wrong(1), flipped),
        make_run(tmp_path, "gone", wrong(1), keep=False),
        make_run(tmp_path, "unrecorded", wrong(1)),
        make_run(tmp_path, "tested", wrong(2)),
    ]
    (runs[5] / RECORD).unlink()
    c = compare(runs)
    reasons = {test["run"]: test["reason"] for test in c["tests"]}
    assert reasons["shorter"] == "the test rows differ: 400 and 300"
    assert reasons["foreign"] == "the test rows differ: 1 of 400 ids are not in the reference"
    assert reasons["relabelled"] == "the test labels differ: 1 of 400 rows"
    assert "gone" in reasons["gone"]
    assert "stages.json" in reasons["unrecorded"]
    assert [test["run"] for test in c["tests"] if test["tested"]] == ["tested"]
    assert "other test rows" in " ".join(c["notes"])
    text = to_markdown(c)
    assert "shorter against first: not tested, because the test rows differ" in text
    without = compare([runs[4], runs[0]])["tests"][0]
    assert not without["tested"]
    assert without["reason"].startswith("gone: ")


def test_predictions_of_another_report_are_not_used(tmp_path: Path) -> None:
    one, two = make_run(tmp_path, "one", wrong(1)), make_run(tmp_path, "two", wrong(2))
    report = json.loads((two / "report.json").read_text())
    report["quality"]["compressed"]["accuracy"]["value"] = 0.5
    write_json(two / "report.json", report)
    (test,) = compare([one, two])["tests"]
    assert "ran again after the report" in test["reason"]


def test_what_differs_in_the_recipes(tmp_path: Path) -> None:
    one = make_run(tmp_path, "one", wrong(1))
    two = make_run(tmp_path, "two", wrong(1), target={"ratio": 3.0, "of": "blocks"},
                   score={"methods": [{"method": "fisher"}, {"method": "taylor"}]})  # fmt: skip
    rows = {row["key"]: row["values"] for row in compare([one, two])["differences"]}
    assert rows["target.ratio"] == [2.0, 3.0]
    assert rows["score.methods.0.method"] == ["block_influence", "fisher"]
    assert rows["score.methods.3.method"] == ["ablation", None]
    assert "name" not in rows
    assert "target.of" not in rows
    assert differences([{"name": "a", "x": [1, 2]}, {"name": "b", "x": [1, 2]}]) == []


def test_what_each_run_serves_is_beside_its_ratios(tmp_path: Path) -> None:
    one, two = (make_run(tmp_path, name, wrong(1)) for name in ("one", "two"))
    report = json.loads((two / "report.json").read_text())
    report["served"] = {**served(), "quality": None, "retention": {"accuracy": interval(0.97)}}
    report["served"]["ratios"]["blocks"] = 2.0
    write_json(two / "report.json", report)
    rows = [line.strip("| ").split(" | ") for line in to_markdown(compare([one, two])).splitlines()]
    assert ["as served", "–", "int8"] in rows
    assert ["as served: latency\\_eager", "–", "7.75×"] in rows
    assert ["as served: accuracy retained", "–", "97.0 % (96.0–98.0)"] in rows


def test_what_each_run_serves_and_its_base_on_the_same_server(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, name, wrong(1)) for name in ("searched", "alone", "unserved")]

    def highest(rate: float | None) -> dict[str, Any]:
        spread = {"n": 3, "low": 40.0, "median": 45.5, "high": 49.0} if rate else None
        return {"unloaded_ms": {"p50": 5.0, "p95": 8.0}, "rate_rps": rate, "missed_rps": None, "p95_ms": spread,
                "achieved_rps": None, "why": [], "rates_tried": 4, "rates_in_doubt": 0, "steps": []}  # fmt: skip

    limits: list[Any] = [
        {"objective": {"max_p95_ms": 50.0}, "protocol": "http", "compressed": highest(184.0), "base": highest(62.0),
         "ratio": {"value": 2.97, "low": 2.7, "high": 3.2}},
        {"objective": {"max_p95_ms": 50.0}, "compressed": highest(None), "base": None, "ratio": None},
    ]  # fmt: skip
    for folder, limit in zip(runs, limits, strict=False):
        report = json.loads((folder / "report.json").read_text())
        one = {"requests": 900, "errors": 0, "throughput_rps": 166.2, "latency_ms": {"p95": 38.24}}
        write_json(folder / "report.json", {**report, "serving": {"http": {**one, "limit": limit}}})
    c = compare(runs)
    assert c["runs"][0]["serving"]["http"]["limit"]["base"]["rate_rps"] == 62.0
    rows = {row[0]: row[1:] for line in to_markdown(c).splitlines() if len(row := line.strip("| ").split(" | ")) == 4}
    unknown = "not measured"
    assert rows["http: p95"] == ["38.2 ms", "38.2 ms", unknown]
    assert rows["http: answered"] == ["166 requests/s", "166 requests/s", unknown]
    assert rows["highest rate"] == ["184 requests/s at p95 45.5 ms; p95 ≤ 50 ms", "no rate; p95 ≤ 50 ms", unknown]
    assert rows["highest rate of the base"] == ["62 requests/s at p95 45.5 ms; p95 ≤ 50 ms", unknown, unknown]
    assert rows["highest rate ÷ that of the base"] == ["2.97 (2.70–3.20)", unknown, unknown]


def test_a_report_of_an_earlier_version_is_compared_with_a_dash_for_what_it_lacks(tmp_path: Path) -> None:
    now, before = (make_run(tmp_path, name, wrong(*range(40))) for name in ("now", "before"))
    report = json.loads((now / "report.json").read_text())
    report["served"] = {**served(), "quality": None, "retention": None}
    report["served"]["ratios"]["blocks"] = 2.0
    write_json(now / "report.json", report)
    old = json.loads((before / "report.json").read_text())
    for section in ("served", "artifacts"):
        del old[section]
    old["verdict"] = {"passed": True, "removed": "Removed nothing.", "words": "of an earlier lwc"}
    for gate in old["gates"]:
        for added in ("at", "note", "standing"):
            del gate[added]
    write_json(before / "report.json", old)
    c = compare([now, before])
    rows = [line.strip("| ").split(" | ") for line in to_markdown(c).splitlines()]
    assert ["as served", "int8", "–"] in rows
    assert c["runs"][1]["gates"][0]["at"] == "value"
    (gate,) = [row for row in rows if row[0].startswith("retention.accuracy")]
    assert gate[1] == gate[2]


def test_tables_hold_ratios_latency_gates_and_cost(tmp_path: Path) -> None:
    one = make_run(tmp_path, "one", wrong(1))
    two = make_run(tmp_path, "two", wrong(*range(200)), cpu="Another CPU")
    c = compare([one, two])
    assert [run["cost"]["total"] for run in c["runs"]] == [95.5, 95.5]
    assert [run["passed"] for run in c["runs"]] == [True, False]
    assert c["runs"][0]["latency"][0]["compressed_ms"] == 5.25
    assert "different machines" in c["notes"][0]
    page = to_html(c)
    for part in (
        "10.00 → 5.25 ms (1.90×)",
        "FAIL: 0.5",
        "pass: 1.1",
        "1 min 35 s",
        "1 of 2 passed",
        "1.40×",
        "floor: the majority class",
    ):
        assert part in page
    assert not re.search(r"https?://|@import|url\(|<script|<link", page)


def test_two_gates_on_one_metric_both_show(tmp_path: Path) -> None:
    gates = [{"metric": "retention.accuracy", "op": ">=", "value": value} for value in (0.25, 0.75)]
    page = to_html(compare([make_run(tmp_path, name, wrong(1), gates=gates) for name in ("one", "two")]))
    assert page.count("must be &gt;= 0.25") == page.count("must be &gt;= 0.75") == 2


def test_names_are_escaped_and_equal_names_told_apart(tmp_path: Path) -> None:
    one = make_run(tmp_path / "a", "same", wrong(1), description="<script>")
    two = make_run(tmp_path / "b<i>", "same", wrong(1))
    c = compare([one, two])
    assert [run["name"] for run in c["runs"]] == [str(one), str(two)]
    assert "b<i>" not in to_html(c)


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    one = make_run(tmp_path, "one", wrong(1))
    (tmp_path / "empty").mkdir()
    old = tmp_path / "old"
    old.mkdir()
    write_json(old / "report.json", {"schema_version": 0})
    for runs, message in (
        ([one], "1 run to compare"),
        ([], "0 runs to compare"),
        ([one, tmp_path / "empty" / ".." / "one"], "is the same run as"),
        ([one, tmp_path / "empty"], "no report.json in it"),
        ([one, tmp_path / "nowhere"], "no such folder"),
        ([one, old], "schema version 0"),
    ):
        with pytest.raises(RecipeError, match=message) as caught:
            compare(runs)
        assert caught.value.hint
        assert caught.value.exit_code == USAGE


def test_a_run_that_measured_nothing_reads_not_measured(tmp_path: Path) -> None:
    one = make_run(tmp_path, "one", wrong(1))
    recipe = Recipe.model_validate(
        {"schema_version": 1, "name": "bare", "model": {"kind": "config"}, "target": {"ratio": 2, "of": "blocks"}}
    )
    build_report(recipe, {}, {}, {}, tmp_path / "bare")
    page = to_html(compare([one, tmp_path / "bare"]))
    assert page.count("not measured") > 4
    assert "0.00×" not in page


def test_runs_of_a_task_without_right_answers_are_compared_without_a_test(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, name, wrong(*rows)) for name, rows in (("one", (1,)), ("two", (2, 3)))]
    for folder, error in zip(runs, (0.5, 0.6), strict=True):
        report = json.loads((folder / "report.json").read_text())
        around = {"value": error, "low": 0.4, "high": 0.7}
        found = {"n": N, "mean_absolute_error": around, "spearman": around}
        report["quality"] = {**dict.fromkeys(("base", "unrecovered", "compressed"), found), "floors": {"median": found}}
        write_json(folder / "report.json", {**report, "task": "regression", "retention": None})
    c = compare(runs)
    assert [(test["tested"], test["why"]) for test in c["tests"]] == [(False, "no such test")]
    text = to_markdown(c)
    assert "two against one: not tested, because the paired test counts answers" in text
    assert "floor: the median of train" in text
    assert "accuracy" not in text.partition("## What differs")[0]
    write_json(runs[1] / "report.json", {**json.loads((runs[1] / "report.json").read_text()), "task": "causal_lm"})
    with pytest.raises(RecipeError, match="different tasks: regression, causal_lm"):
        compare(runs)
