"""What is served, in the report: its own ratios and quality, the decision, the chart, and what is to be doubted."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from test_report import ENVIRONMENT, add, make_recipe, make_stages

from lwc.cli import terminal
from lwc.report.build import build_report, report_schema
from lwc.report.gate_names import unmeasured
from lwc.report.latency import doubt

SHAPES = ((1, 24.0, 16.0, 4.0), (8, 160.0, 96.0, 16.0))
INT8 = {
    "mode": "dynamic", "fallback": [], "ratios": {"size": 3.9, "latency": 1.6},
    "test": {"accuracy_fp32": 0.9, "accuracy_int8": 0.85, "macro_f1_fp32": 0.9, "macro_f1_int8": 0.85,
             "agreement": 0.95},
}  # fmt: skip


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def served(precision: str = "int8", why: str = "", spread: float = 0.05, waited: float = 0.0) -> dict[str, Any]:
    """``served`` of export.json: 4 and 6 times as fast as the uncut model in ONNX Runtime, 6 and 10 as in PyTorch."""
    rows = [
        {"batch": batch, "length": 64, "eager_ms": eager, "base_ms": base, "served_ms": ms, "ratio": base / ms,
         "ratio_eager": eager / ms, "spread": {"eager": 0.01, "base": 0.02, "served": spread}}
        for batch, eager, base, ms in SHAPES
    ]  # fmt: skip
    ratios = {"params": 2.8, "size": 11.0, "latency": 24**0.5, "latency_eager": 60**0.5}
    return {
        "precision": precision, "why": why, "path": "compressed/model.onnx",
        "params": {"base": 28_000, "served": 10_000}, "bytes": {"base": 110_000_000, "served": 10_000_000},
        "ratios": ratios,
        "latency": {"ratio": ratios["latency"], "ratio_eager": ratios["latency_eager"], "shapes": rows,
                    "waited": waited, "threads": 2, "repeats": 20},
    }  # fmt: skip


def with_int8(root: Path, accuracy: float = 0.85, kept: float = 0.944) -> dict[str, Any]:
    """`served` with the int8 graph's own quality, of which the others are those of the checkpoint."""
    quality = json.loads((root / "evaluate" / "evaluation.json").read_text())["quality"]["compressed"]
    own = {**quality, "accuracy": interval(accuracy), "macro_f1": interval(accuracy)}
    retained = {key: interval(kept) for key in ("accuracy", "macro_f1", "balanced_accuracy")}
    return {**served(), "quality": own, "retention": retained}


def build(
    root: Path, export: dict[str, Any], gates: list[dict[str, Any]] | None = None, **stages: bool
) -> dict[str, Any]:
    """A report whose export stage left this besides."""
    folders = make_stages(root / "stages", **stages)
    given = with_int8(root / "stages") if export.get("served") == "int8" else export["served"]
    add(root / "stages", "export", "export.json", {**export, "served": given})
    return dict(build_report(make_recipe(gates), folders, ENVIRONMENT, {}, root / "out"))


def test_every_figure_of_the_verdict_is_that_of_the_int8_graph(tmp_path: Path) -> None:
    report = build(tmp_path, {"served": "int8", "int8": INT8})
    jsonschema.validate(report, report_schema())
    assert "served" not in report["export"], "one place for each figure"
    found, said = report["served"], report["verdict"]
    assert found["ratios"] == {
        "blocks": 2.0, "params": 2.8, "size": 11.0, "latency": 24**0.5, "latency_eager": 60**0.5
    }  # fmt: skip
    assert said["gained"].startswith(
        "Gained: 3 of 6 blocks (2.00× in blocks), 2.80× fewer parameters, 11.00× smaller file, 4.90× lower latency than"
        " the uncut model in ONNX Runtime, 7.75× lower than in PyTorch eager; as served: int8, CPU."
    )
    assert "as served (int8, CPU): accuracy 0." in said["cost"]
    assert "→ 0.850 (0.840–0.860), retention 94.4 % (93.4–95.4)" in said["cost"]
    page = (tmp_path / "out" / "report.html").read_text()
    for figure in ("4.90×", "7.75×", "11.00×", "2.80×", "2.00×", "94.4 %"):
        assert figure in page[: page.index("<section>")]


def test_the_terminal_says_what_the_report_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report: Any = build(tmp_path, {"served": "int8", "int8": INT8})
    terminal.quality_table(report)
    terminal.verdict(report["verdict"])
    terminal.decision(report["gates"], report["verdict"])
    said = capsys.readouterr().err
    assert re.search(r"as served, int8 +0\.850", said)
    for part in ("decision", "cost", "gained"):
        assert report["verdict"][part] in said


def test_without_int8_the_checkpoint_is_what_is_served(tmp_path: Path) -> None:
    report = build(tmp_path, {"served": served("fp32")})
    assert report["served"]["quality"] == report["quality"]["compressed"]
    assert report["served"]["retention"] == report["retention"]
    assert "as served: fp32, CPU" in report["verdict"]["gained"]
    assert report["verdict"]["alerts"] == []


def test_a_fallback_is_said_and_its_gates_fail_with_the_reason(tmp_path: Path) -> None:
    why = "int8 takes 1.64 times as long as fp32 on this machine (1×64)"
    gates = [{"metric": "export.int8.retention.accuracy", "op": ">=", "value": 0.5},
             {"metric": "served.retention.accuracy", "op": ">=", "value": 0.5}]  # fmt: skip
    report = build(tmp_path, {"served": served("fp32", why)}, gates)
    assert f"fp32 is served, although the recipe asks for int8: {why}." in report["verdict"]["alerts"]
    absent, always = report["gates"][:2]
    assert (absent["passed"], absent["reason"]) == (False, f"int8 is not served: {why}")
    assert always["passed"]
    assert why in report["verdict"]["decision"]
    assert why in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(("kept", "warned"), [(0.944, True), (0.978, False)])
def test_a_gate_that_only_fp32_passes_is_called_out(tmp_path: Path, kept: float, warned: bool) -> None:
    folders = make_stages(tmp_path / "stages")
    given = with_int8(tmp_path / "stages", kept=kept)
    add(tmp_path / "stages", "export", "export.json", {"int8": INT8, "served": given})
    limits = {"retention.accuracy": 0.95, "served.retention.accuracy": 0.9}
    gates = [{"metric": metric, "op": ">=", "value": value} for metric, value in limits.items()]
    report = build_report(make_recipe(gates), folders, ENVIRONMENT, {}, tmp_path / "out")
    assert report["gates"][1]["value"] == kept
    told = [line for line in report["verdict"]["alerts"] if "covers the fp32 model" in line]
    assert bool(told) == warned
    assert all("Gate served.retention.accuracy." in line for line in told)


def test_a_floor_that_is_better_is_the_first_thing_said_though_every_gate_passes(tmp_path: Path) -> None:
    folders = make_stages(tmp_path / "stages")
    evaluation = json.loads((tmp_path / "stages" / "evaluate" / "evaluation.json").read_text())
    evaluation["quality"]["floors"]["tfidf"] |= {"accuracy": interval(0.99), "macro_f1": interval(0.985)}
    add(tmp_path / "stages", "evaluate", "evaluation.json", evaluation)
    add(tmp_path / "stages", "export", "export.json", {"served": served("fp32")})
    found = build_report(make_recipe(), folders, ENVIRONMENT, {}, tmp_path / "out")["verdict"]
    assert (found["passed"], found["deploy"]) == (True, False)
    assert found["decision"] == (
        "Do not deploy, because the model does not beat TF-IDF + logistic regression in accuracy and macro-F1,"
        " although the gates passed."
    )
    # The terminal, report.md and the page end with the same words; the gate that they offer fails this run.
    assert "`lwc run` publishes the repository and exits with 0, although" in found["gates"]
    offered = re.search(r"\{metric: .*\}", found["gates"])
    assert offered
    for written in ("report.md", "report.html"):
        text = (tmp_path / "out" / written).read_text().replace("\\_", "_").replace("<wbr>", "")
        assert "publishes the repository and exits with 0, although the model should not be deployed" in text
    stricter = make_recipe([yaml.safe_load(offered[0])])
    assert unmeasured(stricter) == []
    again = build_report(stricter, folders, ENVIRONMENT, {}, tmp_path / "again")["verdict"]
    assert (again["passed"], again["deploy"]) == (False, False)
    assert [one.partition(":")[0] for one in found["alerts"]] == [
        f"The {model} model does not beat TF-IDF + logistic regression" for model in ("base", "compressed")
    ]
    page = (tmp_path / "out" / "report.html").read_text()
    assert '<p class="lead bad">Do not deploy' in page
    assert "exits with 0, although" in page[: page.index("<section>")]
    assert all(alert.partition(":")[0] in page[: page.index("<section>")] for alert in found["alerts"])


def test_a_floor_that_is_better_in_one_metric_is_an_alert_and_no_verdict(tmp_path: Path) -> None:
    folders = make_stages(tmp_path / "stages")
    evaluation = json.loads((tmp_path / "stages" / "evaluate" / "evaluation.json").read_text())
    evaluation["quality"]["floors"]["tfidf"]["macro_f1"] = interval(0.985)
    add(tmp_path / "stages", "evaluate", "evaluation.json", evaluation)
    found = build_report(make_recipe(), folders, ENVIRONMENT, {}, tmp_path / "out")["verdict"]
    assert found["deploy"]
    assert "does not beat TF-IDF + logistic regression: macro-F1 0." in found["alerts"][1]


@pytest.mark.parametrize(
    ("spread", "waited", "why"),
    [
        (0.29, 0.19, ""),
        (0.97, 0.0, "times of the same call spread by 97 % of the median at 1 × 64, 97 % of the median at 8 × 64"),
        (0.05, 0.57, "other programs had the cores for 57 % of the time"),
    ],
)
def test_a_latency_that_may_be_chance_is_marked(tmp_path: Path, spread: float, waited: float, why: str) -> None:
    report: Any = build(tmp_path, {"served": served("fp32", spread=spread, waited=waited)})
    told = " ".join(report["verdict"]["alerts"])
    assert why in doubt(report["served"]["latency"])
    assert ("The latency ratios are unreliable" in told) == bool(why)
    page = (tmp_path / "out" / "report.html").read_text()
    assert ("unreliable" in page[: page.index("<section>")]) == bool(why)
    assert ("4.00× (unreliable)" in page) == (spread > 0.3)
    assert ("PyTorch eager (latencies unreliable);" in report["verdict"]["gained"]) == bool(why)


class Outline(HTMLParser):
    """Headings in order, each with whether it can be folded and is at first open; pictures with their words."""

    def __init__(self) -> None:
        super().__init__()
        self.headings: list[tuple[str, str]] = []
        self.alts: list[str] = []
        self._around, self._heading = "", False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag in ("section", "details", "header"):
            self._around = tag if tag != "details" else "open" if "open" in found else "closed"
        self._heading = tag == "h2" and self._around != "header"
        if tag == "img":
            self.alts.append(found["alt"] or "")

    def handle_data(self, data: str) -> None:
        if self._heading:
            self.headings.append((data, self._around))
            self._heading = False


def test_verdict_then_the_trade_then_the_gates_and_the_rest_folds(tmp_path: Path) -> None:
    report = build(tmp_path, {"served": "int8", "int8": INT8})
    outline = Outline()
    outline.feed((tmp_path / "out" / "report.html").read_text())
    assert outline.headings == [
        ("Accuracy kept against latency", "section"), ("Gates", "section"), ("The verdict in words", "open"),
        ("Quality", "open"), ("Size, latency and parity", "open"), ("Serving", "open"),
        ("Importance and selection", "closed"), ("Data", "closed"), ("Machine, versions, seeds", "closed"),
        ("Stages", "closed"),
    ]  # fmt: skip
    mean = (4.0 * 16.0) ** 0.5
    assert f"as served: int8: 94.4 % at {mean:.1f} ms" in outline.alts[0]
    assert "uncut, PyTorch eager: 100.0 % at 62.0 ms" in outline.alts[0]
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert markdown.index(report["verdict"]["decision"].partition(":")[0]) < markdown.index("report_trade.png")
    assert markdown.index("report_trade.png") < markdown.index("## Gates") < markdown.index("## Quality")


def test_without_a_retention_there_is_no_chart_and_the_rest_stands(tmp_path: Path) -> None:
    folders = make_stages(tmp_path / "stages")
    given = with_int8(tmp_path / "stages")
    given["retention"]["accuracy"] = {"value": None, "low": None, "high": None}
    add(tmp_path / "stages", "export", "export.json", {"served": given, "int8": INT8})
    build_report(make_recipe(), folders, ENVIRONMENT, {}, tmp_path / "out")
    assert not (tmp_path / "out" / "report_trade.png").exists()
    assert "not measured" in (tmp_path / "out" / "report.md").read_text()
