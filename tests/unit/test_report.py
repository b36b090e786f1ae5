"""The report: schema, verdict, self-contained HTML, escaping, and what was not measured."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from lwc.cli import terminal as render
from lwc.metrics.classification import classification_quality, retention
from lwc.recipe import Recipe
from lwc.report.build import build_report, report_schema

NASTY = "<script>alert('x')</script>"
ENVIRONMENT = {"date": "2026-01-02T03:04:05+00:00", "cpu": "Some CPU", "cores": 2, "gpu": False,
               "memory_gib": 15.6, "libraries": {"torch": "2.6.0", "tensorrt": None}}  # fmt: skip
GATES: list[dict[str, Any]] = [
    {"metric": "retention.macro_f1", "op": ">=", "value": 0.5},
    {"metric": "latency.shapes.0.compressed_ms", "op": "<=", "value": 0.6, "relative_to": "latency.shapes.0.base_ms"},
    {"metric": "serving.http.latency_ms.p95", "op": "<=", "value": 100},
]


def make_recipe(gates: list[dict[str, Any]] | None = None, fields: tuple[str, ...] = ("body",)) -> Recipe:
    return Recipe.model_validate(
        {
            "schema_version": 1,
            "name": "amazon",
            "description": "reviews <b>bold</b>",
            "data": {"source": {"kind": "mcauley", "paths": ["r.json"]}, "text_fields": fields},
            "model": {"kind": "config"},
            "target": {"ratio": 2.0, "of": "blocks"},
            "gates": GATES if gates is None else gates,
        }
    )


def write(folder: Path, name: str, content: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def make_stages(root: Path, serving: bool = True, collapse: bool = False) -> dict[str, Path]:
    """Small stage folders as a finished run leaves them."""
    rng = np.random.default_rng(0)
    labels = (rng.random(300) < 0.65).astype(int)
    strength = {"base": 2.2, "unrecovered": 0.5, "compressed": 0.0 if collapse else 2.0}
    logits = {k: rng.normal(size=(300, 2)) + s * np.eye(2)[labels] for k, s in strength.items()}
    if collapse:
        logits["compressed"] = np.tile([0.0, 1.0], (300, 1))
    quality: dict[str, Any] = {k: classification_quality(labels, z, 200, 1) for k, z in logits.items()}
    quality["floors"] = {
        "majority": classification_quality(labels, np.tile([0.0, 0.6], (300, 1)), 200, 1),
        "tfidf": classification_quality(labels, rng.normal(size=(300, 2)) + np.eye(2)[labels], 200, 1),
    }
    guess = {k: z.argmax(1) for k, z in logits.items()}
    write(root / "evaluate", "evaluation.json", {
        "n": 300, "n_train": 900, "label_names": [NASTY, "great $x_1$"], "quality": quality,
        "truncated": {"count": 12, "of": 300, "max_length": 64},
        "bootstrap": {"resamples": 200, "level": 0.95, "seed": 1},
        "retention": retention(labels, guess["base"], guess["compressed"], 200, 1),
        "retention_unrecovered": retention(labels, guess["base"], guess["unrecovered"], 200, 1),
    })  # fmt: skip
    methods = {
        name: {"scores": list(rng.random(6) * scale), "unit": unit, "seconds": 1.5, "weight": 1.0, "details": {}}
        for name, scale, unit in (("block_influence", 0.4, "1 − cos"), ("fisher", 1e-5, "mean squared gradient"),
                                  ("taylor", 30.0, "|w·g|"), ("ablation", 0.9, "Δ loss, nats"))
    }  # fmt: skip
    write(root / "score", "importance.json", {
        "blocks": 6, "examples": 256, "methods": methods, "excluded": {},
        "fused": {"scores": [5.5, 5.0, 4.0, 3.0, 2.5, 1.0], "ranking": [0, 1, 2, 3, 4, 5]},
        "kendall_tau": {"names": list(methods), "matrix": np.eye(4).tolist()},
    })  # fmt: skip
    write(root / "select", "selection.json", {
        "strategy": "fused", "blocks_before": 6, "kept": [0, 1, 4], "removed": [2, 3, 5],
        "target": {"ratio": 2.0, "of": "blocks"}, "ratios": {"blocks": 2.0, "params": 1.31, "size": 1.3},
        "params_before": 22_713_000, "params_after": 17_389_000,
    })  # fmt: skip
    write(root / "export", "export.json", {
        "files": {"base": {"bytes": 90_000_000}, "compressed": {"bytes": 69_000_000}},
        "ratios": {"size": 90 / 69, "latency": 1.9},
        "parity": {"max_abs_diff": 3e-6, "label_agreement": 1.0, "tolerance": 1e-4, "passed": True, "cases": []},
        "latency": {"ratio": 1.9, "shapes": [
            {"batch": 1, "length": 64, "base_ms": 10.0, "compressed_ms": 5.2, "ratio": 1.92}]},
    })  # fmt: skip
    write(
        root / "data",
        "source.json",
        {"source": "amazon-sample", "note": NASTY, "files": [{"name": "a.rdb", "bytes": 9, "sha256": "ab" * 32}]},
    )
    write(
        root / "data",
        "quality.json",
        {
            "rows_read": 1000,
            "rows_used": 950,
            "rows_bad": {"empty text": 3},
            "duplicates": {"exact": 47, "near": 0},
            "split_by": "random",
            "splits": {"train": {"rows": 900, "labels": {NASTY: 300, "great": 600}}},
        },
    )
    if serving:
        one = {"requests": 900, "errors": 0, "error_rate": 0.0, "throughput_rps": 60.0,
               "latency_ms": {"p50": 20.0, "p95": 41.0, "p99": 55.0, "mean": 23.0, "max": 90.0},
               "served": {"accuracy": 0.83, "macro_f1": 0.8, "n": 300, "matches_offline": 1.0,
                          "offline_accuracy": 0.83, "note": f"over {NASTY}"}}  # fmt: skip
        write(root / "verify", "serving.json", {"http": one, "grpc": one})
        for protocol in ("http", "grpc"):
            np.save(root / "verify" / f"latencies_{protocol}.npy", rng.gamma(6, 4, 900).astype(np.float32))
    names = ["data", "score", "select", "evaluate", "export"] + (["verify"] if serving else [])
    return {name: root / name for name in names}


def build(tmp_path: Path, recipe: Recipe | None = None, **settings: bool) -> tuple[dict[str, Any], str, str]:
    stages = make_stages(tmp_path / "stages", **settings)
    times = {name: {"seconds": 1.0, "hit": False} for name in stages}
    out = tmp_path / "out"
    report = build_report(recipe or make_recipe(), stages, ENVIRONMENT, times, out)
    return report, (out / "report.html").read_text("utf-8"), (out / "report.md").read_text("utf-8")


class Assets(HTMLParser):
    """Collects tags, and every attribute that could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for key, value in attrs if key in {"src", "href", "srcset", "data", "action"}]


def test_report_json_follows_the_schema(tmp_path: Path) -> None:
    schema = report_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    report, _, _ = build(tmp_path)
    jsonschema.validate(report, schema)
    jsonschema.validate(json.loads((tmp_path / "out" / "report.json").read_text("utf-8")), schema)
    assert report["verdict"]["passed"]
    assert report["ratios"] == {"blocks": 2.0, "params": 1.31, "size": pytest.approx(1.3043, abs=1e-3), "latency": 1.9}


def test_nothing_measured_is_null_and_says_so(tmp_path: Path) -> None:
    report = build_report(make_recipe(), {}, {}, {}, tmp_path)
    jsonschema.validate(report, report_schema())
    assert report["ratios"] == dict.fromkeys(("blocks", "params", "size", "latency"))
    assert not report["verdict"]["passed"]
    assert all("not measured" in gate["reason"] for gate in report["gates"])
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.count("not measured") > 8
    assert "0.00×" not in page
    assert "0.000" not in page


def add(stages: Path, stage: str, name: str, more: dict[str, Any]) -> None:
    path = stages / stage / name
    write(path.parent, name, {**(json.loads(path.read_text()) if path.is_file() else {}), **more})


def test_each_lever_shows_its_own_ratio_and_cost(tmp_path: Path) -> None:
    assert "lever" not in build(tmp_path / "none")[2]
    stages = make_stages(tmp_path / "stages")
    add(tmp_path / "stages", "export", "export.json", {
        "int8": {"mode": "static", "fallback": ["bert.encoder.layer.1"], "ratios": {"size": 3.91, "latency": 1.57},
                 "test": {"accuracy_fp32": 0.818, "accuracy_int8": 0.812, "macro_f1_fp32": 0.795,
                          "macro_f1_int8": 0.788, "agreement": 0.981},
                 "retention": {key: {"value": 0.99, "low": 0.98, "high": 1.0} for key in ("accuracy", "macro_f1")}},
        "fp16": {"bytes": 34_500_000, "max_abs_diff": 0.0123, "agreement": 0.992, "rows": 128, "kept_fp32": ["a", "b"]},
        "openvino": {"fp32": {"ratio": 1.08, "max_abs_diff": 2e-6}, "int8": {"ratio": 0.8, "max_abs_diff": 0.03}},
    })  # fmt: skip
    trimmed = {"before": 30_522, "after": 8_536, "coverage_of_validation": 0.52}
    add(tmp_path / "stages", "recover", "metrics.json", {"vocabulary": trimmed})
    stages["recover"] = tmp_path / "stages" / "recover"
    build_report(make_recipe(), stages, ENVIRONMENT, {}, tmp_path / "out")
    lines = (tmp_path / "out" / "report.md").read_text("utf-8").splitlines()
    vocabulary, int8, fp16, *others = (
        next(line for line in lines if line.startswith(f"| {name}"))
        for name in ("vocabulary", "int8", "fp16", "OpenVINO", "OpenVINO instead of ONNX Runtime, the same int8")
    )
    assert all(text in vocabulary for text in ("30,522 → 8,536 tokens (3.58×)", "52.0 % of the validation texts"))
    assert all(text in int8 for text in ("3.91× smaller, 1.57× faster", "accuracy 0.818 → 0.812", "98.1 %"))
    assert "in fp32: bert.encoder.layer.1" in int8.replace("\\", "")
    assert all(text in fp16 for text in ("2.00× smaller", "0.0123", "99.2 % of 128", "2 operators in fp32"))
    assert "1.08× faster; the repository serves with ONNX Runtime" in others[0]
    assert "1.25× slower" in others[1]


def test_a_latency_states_its_spread_and_the_search_for_it(tmp_path: Path) -> None:
    stages = make_stages(tmp_path / "stages")

    def shape(ms: float, spread: float) -> dict[str, Any]:
        return {"batch": 1, "length": 64, "base_ms": 10.0, "compressed_ms": ms, "ratio": 10 / ms,
                "spread": {"base": 0.013, "compressed": spread}}  # fmt: skip

    add(tmp_path / "stages", "export", "export.json", {"latency": {"ratio": 1.9, "shapes": [shape(5.2, 0.021)]}})
    measured = [{"blocks": n, "ratio": 10 / n, "shapes": [shape(n, 0.004 * n)]} for n in (3, 6)]
    add(tmp_path / "stages", "select", "selection.json", {"latency": measured})
    build_report(make_recipe(), stages, ENVIRONMENT, {}, tmp_path / "out")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (tmp_path / "out" / "report.md").read_text("utf-8").splitlines()
    ]
    assert ["1 × 64", "10.00", "5.20", "1.92×", "2.1 %"] in rows
    assert ["3", "3.33×", "1.3 %"] in rows
    assert ["6", "1.67×", "2.4 %"] in rows


def test_run_without_serving_says_it_was_not_run(tmp_path: Path) -> None:
    report, page, text = build(tmp_path, serving=False)
    assert report["serving"] is None
    assert "Serving was not run" in page
    assert "Serving was not run" in text
    failed = report["gates"][2]
    assert not failed["passed"]
    assert failed["value"] is None
    assert "serving.http.latency_ms.p95 = not measured" in report["verdict"]["summary"]


def test_html_is_one_self_contained_file(tmp_path: Path) -> None:
    _, page, _ = build(tmp_path)
    assets = Assets()
    assets.feed(page)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(assets.tags)
    assert assets.tags.count("img") == 5
    assert all(source.startswith("data:image/png;base64,") for source in assets.loads)
    assert not re.search(r"https?://|@import|url\(", page)
    assert "viewport" in page
    assert "@media print" in page


def test_names_from_data_are_escaped(tmp_path: Path) -> None:
    _, page, text = build(tmp_path)
    assert NASTY not in page
    assert "&lt;script&gt;" in page
    assert "<b>bold</b>" not in page
    assert NASTY not in text


def test_verdict_comes_first_and_says_removed_cost_gained(tmp_path: Path) -> None:
    report, page, text = build(tmp_path)
    summary = report["verdict"]["summary"]
    assert summary.startswith("Deploy: all 5 gates passed. Removed 3 of 6 blocks (2, 3, 5); kept 3 blocks (0, 1, 4).")
    for part in ("accuracy", "macro-F1", "retention", "3 of 6 blocks (2.00× in blocks)", "1.31× fewer parameters",
                 "1.90× lower latency than the uncut model in ONNX Runtime", "met"):  # fmt: skip
        assert part in summary
    assert summary.endswith("All 5 gates passed: `lwc run` publishes the repository and exits with 0.")
    assert page.index("Removed 3 of 6") < page.index("<section>")
    assert text.index("Removed 3 of 6") < text.index("\n## ")


def test_failed_gates_are_named_with_value_and_threshold(tmp_path: Path) -> None:
    recipe = make_recipe([{"metric": "retention.macro_f1", "op": ">=", "value": 1.5}])
    report, page, _ = build(tmp_path, recipe)
    assert not report["verdict"]["passed"]
    said = report["verdict"]["summary"]
    figures = r"retention\.macro_f1 = \d\.\d+ \(must be >= 1\.5\)"
    assert re.match(rf"Do not deploy, because a gate failed: {figures}\. ", said)
    assert len(re.findall(figures, said)) == 1, "once is enough"
    assert "1 of 3 gates failed: retention.macro_f1. So `lwc run` publishes nothing and exits with 3." in said
    assert ">Do not deploy, because a gate failed: retention." in page


def test_every_failed_gate_has_its_figures_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = make_recipe([
        {"metric": "retention.macro_f1", "op": ">=", "value": 1.5},
        {"metric": "quality.compressed.accuracy", "op": ">", "value": 2, "relative_to": "quality.base.accuracy"},
        {"metric": "serving.http.error_rate", "op": "<=", "value": -1},
    ])  # fmt: skip
    report, page, _ = build(tmp_path, recipe)
    said, gates = report["verdict"]["summary"], report["gates"]
    for gate in gates[:3]:
        assert said.count(f"{gate['metric']} = ") == 1
    render.decision(gates[:3], report["verdict"])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("FAIL")]
    value = f"{gates[1]['value']:.6g}"
    assert lines[1].count(value) == 1
    assert f"must be > {gates[1]['threshold']:.6g} (2 × quality.base.accuracy): short by" in lines[1]
    assert "2 × quality.<wbr>base.<wbr>accuracy" in page


def test_a_missed_target_fails_the_run_and_says_so_though_every_gate_passes(tmp_path: Path) -> None:
    recipe = make_recipe([{"metric": "retention.macro_f1", "op": ">=", "value": 0.5}])
    recipe = recipe.model_copy(update={"target": recipe.target.model_copy(update={"ratio": 2.5})})
    found = build(tmp_path, recipe)[0]["verdict"]
    assert not found["passed"]
    assert found["gates"] == (
        "All 3 gates passed, but the target was missed, so `lwc run` publishes nothing and exits with 3."
    )
    assert found["decision"] == "Do not deploy, because the target of 2.50× in blocks was missed at 2.00×."
    assert "missed at 2.00×" in found["gained"]


def test_the_terminal_has_a_line_for_each_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = build(tmp_path, serving=False)[0]["verdict"]
    render.verdict(found)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [found["removed"], found["cost"], found["gained"], *found["alerts"], *found["warnings"]]
    assert len(lines) > 3


def test_the_terminal_names_a_failed_gate_once_and_by_how_much(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gates = [
        {"metric": "ratios.blocks", "op": ">=", "value": 2.25},
        {"metric": "ratios.params", "op": ">=", "value": 1},
        {**GATES[1], "value": 0.5},
        {"metric": "served.ratios.size", "op": ">=", "value": 1},
    ]  # fmt: skip
    report = build(tmp_path, make_recipe(gates), serving=False)[0]
    render.decision(report["gates"], report["verdict"])
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("pass")] == ["ratios.params"]
    assert lines[-4:] == [
        "FAIL ratios.blocks is 2, must be >= 2.25: short by 0.25",
        "FAIL latency.shapes.0.compressed_ms is 5.2, must be <= 5 (0.5 × latency.shapes.0.base_ms): over by 0.2",
        "FAIL served.ratios.size = not measured (must be >= 1): served was not measured",
        "Do not deploy: 3 of 4 gates failed.",
    ]
    assert "\n".join(lines).count("ratios.blocks") == 1


def test_no_gates_is_not_called_a_pass(tmp_path: Path) -> None:
    report, page, _ = build(tmp_path, make_recipe([]))
    assert "No gates were set" in report["verdict"]["summary"]
    assert (report["verdict"]["passed"], report["verdict"]["deploy"]) == (True, None)
    assert ">Not decided, because the recipe sets no gates.<" in page


def test_a_model_that_answers_the_majority_is_called_out(tmp_path: Path) -> None:
    report, page, _ = build(tmp_path, collapse=True)
    said = " ".join(report["verdict"]["alerts"])
    assert "The compressed model answers" in said
    assert "always" in said
    assert "does not beat the majority class" in said
    assert "predicts a single class" in page
    assert not any("base model answers" in text for text in report["verdict"]["alerts"])


def test_a_head_whose_labels_are_not_the_datas_is_called_out(tmp_path: Path) -> None:
    stages = make_stages(tmp_path / "stages")
    add(tmp_path / "stages", "train", "metrics.json", {"warnings": ["its head's outputs have no names"]})
    stages["train"] = tmp_path / "stages" / "train"
    report = build_report(make_recipe(), stages, ENVIRONMENT, {}, tmp_path / "out")
    assert "its head's outputs have no names" in report["verdict"]["warnings"]


def test_a_source_that_was_cut_off_is_called_out(tmp_path: Path) -> None:
    stages = make_stages(tmp_path / "stages")
    add(tmp_path / "stages", "data", "quality.json", {"rows_bad": {"truncated gzip": 1, "bad JSON": 2}})
    report = build_report(make_recipe(), stages, ENVIRONMENT, {}, tmp_path / "out")
    assert [text for text in report["verdict"]["warnings"] if "cut off" in text] == [
        "A source file is cut off (truncated gzip): an unknown number of its rows is lost. See quarantine.jsonl."
    ]


def test_text_fields_and_truncation_are_named(tmp_path: Path) -> None:
    _, page, _ = build(tmp_path, make_recipe(fields=("title", "body")))
    assert "Titles often state the label" in page
    assert "12 of 300 test texts (4.0 %) were cut at 64 tokens" in page
    assert "amazon-sample" in page
    assert "empty text: 3" in page
    assert "exact: 47" in page


def test_same_stages_same_files(tmp_path: Path) -> None:
    stages = make_stages(tmp_path / "stages")
    for name in ("one", "two"):
        build_report(make_recipe(), stages, ENVIRONMENT, {}, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted([
        "report.json", "report.md", "report.html",
        *(f"report_{plot}.png" for plot in ("importance", "agreement", "retention", "confusion", "latency")),
    ])  # fmt: skip
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_plot_of_an_earlier_report_does_not_stay(tmp_path: Path) -> None:
    build(tmp_path)
    build_report(make_recipe(), {}, {}, {}, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.png"))


def test_what_the_data_stage_noticed_is_in_verdict_and_data_section(tmp_path: Path) -> None:
    stages = make_stages(tmp_path / "stages")
    values = [{"value": "4.5", "label": "great", "rows": 500}, {"value": "2.5", "label": None, "rows": 9}]
    add(tmp_path / "stages", "data", "quality.json", {
        "duplicates": {"exact": 700, "near": 0},
        "label_values": values,
        "splits": {"test": {"rows": 300, "labels": {"Great": 2, "great": 298}}},
    })  # fmt: skip
    report = build_report(make_recipe(), stages, ENVIRONMENT, {}, tmp_path / "out")
    said = report["verdict"]["warnings"]
    assert any('"Great" (2 rows), "great" (298 rows) differ only in case' in one for one in said)
    assert any('The test split has 2 rows of "Great", fewer than 10' in one for one in said)
    assert any(one.startswith("70.2 % of the 997 labelled rows are duplicates") for one in said)
    page = (tmp_path / "out" / "report.md").read_text()
    assert "those between left out; stars are not rounded" in page
    assert "great: 4.5; left out: 2.5" in page


def test_a_retention_without_a_ratio_is_explained_and_fails_its_gate(tmp_path: Path) -> None:
    stages = make_stages(tmp_path / "stages")
    path = tmp_path / "stages" / "evaluate" / "evaluation.json"
    content = json.loads(path.read_text())
    content["retention"]["macro_f1"] = {"value": None, "low": None, "high": None}
    path.write_text(json.dumps(content))
    made = make_recipe([{"metric": "retention.macro_f1", "op": ">=", "value": 0.9}])
    report = build_report(made, stages, ENVIRONMENT, {}, tmp_path / "out")
    assert not report["verdict"]["passed"]
    assert any(one.startswith("Retention of macro-F1 is not measured: a ratio needs") for one in
               report["verdict"]["warnings"])  # fmt: skip
