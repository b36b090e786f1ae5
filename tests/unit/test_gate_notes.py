"""What is said of a gate on an interval: what an end of it shows, and where the test split decides nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_runs import make_run, wrong
from typer.testing import CliRunner

from lwc.cli import main as cli
from lwc.cli import terminal
from lwc.core.store import read_json
from lwc.metrics.classification import retention
from lwc.recipe import Gate
from lwc.report.compare import compare
from lwc.report.compare_html import to_markdown
from lwc.report.gate_notes import explained
from lwc.report.gates import decide


def interval(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


REPORT: Any = {
    "task": "classification",
    "quality": {
        "base": {"n": 995, "accuracy": interval(0.847, 0.825, 0.868)},
        "compressed": {"n": 995, "accuracy": interval(0.824, 0.801, 0.846)},
    },
    "retention": {"accuracy": interval(0.973, 0.957, 0.992), "macro_f1": interval(1.0, 1.0, 1.0)},
    "export": {"int8": {"retention": {"accuracy": interval(0.97, 0.95, 0.99)}}},
    "data": {"quality": {"splits": {"test": {"majority_share": 0.81}}}},
    "ratios": {"latency": 2.28},
}


def note(metric: str, op: str, value: float, at: str = "value", report: Any = REPORT, **more: Any) -> str:
    gates = [Gate.model_validate({"metric": metric, "op": op, "value": value, "at": at, **more})]
    (found,) = explained(gates, decide(gates, report), report)
    return found["note"]


def test_a_gate_on_the_lower_end_is_a_non_inferiority_test() -> None:
    known = (
        "The lower end of the 95% interval of accuracy retention is 95.7%: with 97.5% confidence (one-sided; paired"
        " bootstrap, n = 995 texts), the compressed model keeps at least 95.7% of the base's accuracy."
    )
    passed = f"{known} This is a non-inferiority test with a margin of 5%."
    failed = f"{known} A loss of more than 3%, the margin of this non-inferiority test, is not ruled out."
    assert note("retention.accuracy", ">=", 0.95, "low") == passed
    assert note("retention.accuracy", ">=", 0.97, "low") == failed
    assert "the int8 model keeps at least 95% of" in note("export.int8.retention.accuracy", ">=", 0.94, "low")


def test_other_ends_say_what_they_bound() -> None:
    accuracy = note("quality.compressed.accuracy", ">=", 0.8, "low")
    assert (
        "97.5% confidence (one-sided; bootstrap, n = 995 texts), accuracy of the compressed model is at least"
        in accuracy
    )
    assert "non-inferiority" not in accuracy
    lenient = note("retention.accuracy", ">=", 0.99, "high")
    assert "keeps at most 99.2% of the base's accuracy. The gate fails only if the whole interval misses" in lenient


def test_where_less_is_better_the_retention_is_of_the_base() -> None:
    report = {
        "task": "causal_lm",
        "quality": {"compressed": {"n": 80}},
        "retention": {"perplexity": interval(0.93, 0.91, 0.95)},
    }
    said = note("retention.perplexity", ">=", 0.9, "low", report)
    assert "n = 80 slices" in said
    assert "the perplexity of the base is at least 91% of that of the compressed model" in said


@pytest.mark.parametrize(("value", "outcome"), [(0.99, "fails"), (0.96, "passes")])
def test_a_value_whose_interval_contains_the_threshold_decides_nothing(value: float, outcome: str) -> None:
    assert note("retention.accuracy", ">=", value) == (
        f"The test split (n = 995 texts) cannot decide whether accuracy retention is >= {value:.0%}, because the 95%"
        f" interval, 95.7% to 99.2%, contains that limit: the gate {outcome} by chance. Use `at: low` to judge by"
        " the lower end."
    )


@pytest.mark.parametrize("op", [">=", ">", "<=", "<"])
@pytest.mark.parametrize("value", [0.9, 0.957, 0.96, 0.973, 0.98, 0.992, 1.0])
def test_it_is_said_exactly_where_the_two_ends_disagree(op: str, value: float) -> None:
    gates = [Gate(metric="retention.accuracy", op=op, value=value, at=at) for at in ("low", "high")]  # type: ignore[arg-type]
    low, high = (one["passed"] for one in decide(gates, REPORT))
    said = note("retention.accuracy", op, value)
    assert bool(said) == (low != high)
    assert not said or f"`at: {'low' if '>' in op else 'high'}`" in said


def test_nothing_is_said_where_there_is_nothing_to_say() -> None:
    assert note("ratios.latency", ">=", 2.28) == ""
    assert note("retention.macro_f1", ">=", 1.0) == "", "an interval without width decides"
    assert note("retention.spearman", ">=", 0.9, "low") == "", "its reason says that it was not measured"


def test_the_interval_of_one_model_says_nothing_against_another_model() -> None:
    relative = {"relative_to": "quality.base.accuracy"}
    assert note("quality.compressed.accuracy", ">=", 0.96, **relative) == ""
    plain = {"relative_to": "data.quality.splits.test.majority_share"}
    assert "contains that limit" in note("quality.compressed.accuracy", ">=", 1.0, **plain)


def test_the_lower_end_is_below_the_truth_in_97_5_percent_of_samples() -> None:
    """The claim of the sentence, on models whose retention is known: (0.85 − 0.055 + 0.035) / 0.85."""
    random = np.random.default_rng(5)
    truth, misses, samples = 0.83 / 0.85, 0, 400
    for _ in range(samples):
        kind = random.choice(4, size=995, p=[0.795, 0.055, 0.035, 0.115])
        base, compressed = np.isin(kind, (0, 1)).astype(int), np.isin(kind, (0, 2)).astype(int)
        misses += retention(np.ones(995, dtype=int), base, compressed, 400, 1)["accuracy"]["low"] > truth
    assert 0.008 < misses / samples < 0.05, "2.5% plus and minus three standard errors, and the bootstrap's own error"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    gates = [
        {"metric": "retention.accuracy", "op": ">=", "value": 0.99, "at": "low"},
        {"metric": "quality.compressed.accuracy", "op": ">=", "value": 0.9},
    ]
    return make_run(tmp_path, "one", wrong(*range(40)), gates=gates)


NAMED = re.compile(r"retention.accuracy \(lower end, 95%\) = 0\.9\d+ \(must be >= 0\.99\)")
MISSED = re.compile(r"FAIL retention.accuracy \(lower end, 95%\) is 0\.9\d+, must be >= 0\.99: short by 0\.0\d+\n")


def test_terminal_report_and_comparison_name_the_end(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = read_json(run / "report.json")
    end, value = report["gates"]
    assert (end["at"], end["value"]) == ("low", report["retention"]["accuracy"]["low"])
    terminal.decision(report["gates"], report["verdict"])
    shown = capsys.readouterr().err
    assert MISSED.search(shown)
    assert end["note"] in shown
    assert "cannot decide" in value["note"]
    assert value["note"] in shown
    assert NAMED.search(report["verdict"]["decision"])
    page = (run / "report.html").read_text("utf-8")
    assert "retention.accuracy (lower end, 95%)" in page
    assert "non-inferiority" in page
    assert "cannot decide" in (run / "report.md").read_text("utf-8")
    other = make_run(run.parent, "two", wrong(1))
    assert "retention.accuracy (lower end, 95%) &gt;=" in to_markdown(compare([run, other]))


def test_validate_lists_the_metrics_of_a_recipe_even_if_a_gate_is_wrong(tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "schema_version: 1\nname: small\nmodel: {kind: config, blocks: 2}\ntarget: {ratio: 2, of: blocks}\n"
        "gates: [{metric: retention.acuracy, op: '>=', value: 0.9}]\n"
    )
    done = CliRunner().invoke(cli.app, ["validate", str(recipe), "--metrics"])
    assert done.exit_code == 2
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["retention.accuracy", "interval"] in lines
    assert ["ratios.latency"] in lines
    assert ["retention.accuracy.low"] not in lines
