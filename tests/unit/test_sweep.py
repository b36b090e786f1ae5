"""A sweep: which variants, what is kept of each, failures that do not stop it, and the frontier."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lwc.cli.main import app
from lwc.core.errors import LwcError, MissingDependency, RecipeError, TargetError
from lwc.core.progress import Step
from lwc.core.store import write_json
from lwc.pipeline import sweep as sweeping
from lwc.pipeline.run import Event, StageResult
from lwc.pipeline.sweep import sweep, variants
from lwc.recipe import Recipe
from lwc.report.frontier import find_frontier, frontier_html, frontier_markdown, pareto


def make_recipe(sweep: dict[str, Any] | None, **changes: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "schema_version": 1,
            "name": "tiny",
            "model": {"kind": "config", "blocks": 12},
            "target": {"ratio": 1.5, "of": "blocks"},
            "select": {"strategy": "greedy", "keep_first": 1},
            "sweep": sweep,
            **changes,
        }
    )


def around(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.02, "high": value + 0.02}


def fake_run(runs: Path, event: Event, recipe: Recipe, until: str | None) -> dict[str, StageResult]:
    """Stage folders as the pipeline leaves them: the more is asked, the less accurate."""
    ratio = recipe.target.ratio
    own = {"quality": {"accuracy": around(0.8), "macro_f1": around(0.79)},
           "retention": {"accuracy": around(0.96), "macro_f1": around(0.95)}}  # fmt: skip
    reduced = own if recipe.export.int8 else {}
    quality: dict[str, Any] = {
        model: {"n": 100, "accuracy": around(value), "macro_f1": around(value - 0.01), "confusion": []}
        for model, value in (("base", 0.9), ("unrecovered", 0.7 - 0.05 * ratio), ("compressed", 0.95 - 0.05 * ratio))
    }
    quality["floors"] = {"majority": quality["unrecovered"] | {"accuracy": around(0.51)}}
    contents: dict[str, tuple[str, dict[str, Any]]] = {
        "train": ("metrics.json", {}),
        "select": ("selection.json", {
            "kept": list(range(round(12 / ratio))), "ratios": {"blocks": ratio, "params": ratio - 0.5, "size": 99.0},
        }),
        "evaluate": ("evaluation.json", {
            "quality": quality, "retention": {"accuracy": around(0.98), "macro_f1": around(0.97)}}),
        "export": ("export.json", {"served": {"ratios": {"size": 1.25, "latency": ratio - 0.1}, **reduced},
                                   "ratios": {"size": 1.0, "latency": 1.0}}),
    }  # fmt: skip
    results = {}
    for stage, (name, content) in contents.items():
        event("done", stage, "1.0 s")
        folder = runs / recipe.name / stage
        folder.mkdir(parents=True)
        write_json(folder / name, content)
        results[stage] = StageResult(folder, 10.0, hit=stage == "train")
        if stage == until:
            break
    return results


def silent(kind: str, stage: str, text: str) -> None:
    pass


def swept(tmp_path: Path, recipe: Recipe, until: str = "export", fails: str = "") -> list[dict[str, Any]]:
    def run(variant: Recipe, runs: Path, event: Event, until: str | None) -> dict[str, StageResult]:
        if variant.name == fails:
            event("start", "select", "never run")
            raise TargetError("out of reach", "ask for less")
        return fake_run(runs, event, variant, until)

    return sweep(recipe, tmp_path, silent, run, until)


def test_a_variant_for_each_ratio() -> None:
    found = variants(make_recipe({"ratios": ["1.5x", 2, 4]}))
    assert [one.name for one in found] == ["tiny-1.5x", "tiny-2x", "tiny-4x"]
    assert [one.target.ratio for one in found] == [1.5, 2.0, 4.0]
    assert all(one.sweep is None and one.target.of == "blocks" for one in found)
    assert {(one.select.strategy, one.select.keep_first) for one in found} == {("greedy", 1)}


def test_a_variant_for_each_strategy_numbered_where_two_have_one_name() -> None:
    select = [{"strategy": "fused"}, {"strategy": "random", "draw": 3}, {"strategy": "random", "draw": 4}]
    found = variants(make_recipe({"ratios": [2, 3], "select": select}))
    names = [one.name for one in found]
    assert names[:3] == ["tiny-2x-fused", "tiny-2x-random-1", "tiny-2x-random-2"]
    assert len(set(names)) == 6
    assert [getattr(one.select, "draw", None) for one in found[:3]] == [None, 3, 4]
    (only,) = variants(make_recipe({"ratios": [2], "select": [{"strategy": "drop_top"}]}))
    assert (only.name, only.select.strategy) == ("tiny-2x", "drop_top")


def test_variants_share_the_answers_of_their_base_until_the_last_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def run(variant: Recipe, runs: Path, event: Event, until: str | None, *, answers: Path) -> dict[str, StageResult]:
        seen.append((answers / "said.npy").exists())
        answers.mkdir(parents=True, exist_ok=True)
        (answers / "said.npy").touch()
        return fake_run(runs, event, variant, until)

    monkeypatch.setattr(sweeping, "run_line", run)
    rows = sweep(make_recipe({"ratios": [2, 3, 4]}), tmp_path, silent)
    assert seen == [False, True, True]
    assert [row["error"] for row in rows] == [None] * 3
    assert not list(tmp_path.rglob("said.npy"))


def test_what_cannot_be_swept_is_told_before_anything_runs(tmp_path: Path) -> None:
    def run(*_: Any) -> dict[str, StageResult]:
        raise AssertionError("nothing may run")

    for sweep_section, message in (
        (None, "no sweep section"),
        ({"ratios": [2, "2x"]}, "gives tiny-2x twice"),
        ({"ratios": [1]}, "sweep.ratios.0: 1x removes nothing"),
        ({"ratios": [2, 40]}, "40x with greedy.*12 blocks allow at most 12"),
        ({"ratios": [2], "select": [{"strategy": "single", "method": "shap"}]}, "'shap' is not one of score.methods"),
    ):
        with pytest.raises(RecipeError, match=message) as caught:
            sweep(make_recipe(sweep_section), tmp_path, silent, run)
        assert caught.value.hint
    with pytest.raises(RecipeError, match="2x with greedy: name: "):
        variants(make_recipe({"ratios": [2]}, name="n" * 63))
    with pytest.raises(RecipeError, match="no stage 'exprt'"):
        sweep(make_recipe({"ratios": [2]}), tmp_path, silent, run, "exprt")


def test_rows_hold_what_the_stages_left(tmp_path: Path) -> None:
    row, _ = swept(tmp_path, make_recipe({"ratios": [2, 4]}))
    assert (row["name"], row["ratio"], row["of"], row["strategy"]) == ("tiny-2x", 2.0, "blocks", "greedy")
    assert row["kept"] == [0, 1, 2, 3, 4, 5]
    # Size is the measured one of the served graph, not the planned one.
    assert row["ratios"] == {"blocks": 2.0, "params": 1.5, "size": 1.25, "latency": 1.9}
    assert row["compressed"] == {"accuracy": around(0.85), "macro_f1": around(0.84)}
    assert row["base"]["accuracy"]["value"] == 0.9
    assert row["unrecovered"]["accuracy"]["value"] == pytest.approx(0.6)
    assert row["floor"]["accuracy"] == around(0.51)
    assert row["retention"]["macro_f1"] == around(0.97)
    assert (row["seconds"], row["fresh_seconds"], row["error"]) == (40.0, 30.0, None)


def test_rows_hold_the_quality_of_what_is_served(tmp_path: Path) -> None:
    row, *_ = swept(tmp_path, make_recipe({"ratios": [2]}, export={"int8": {}}))
    assert row["compressed"] == {"accuracy": around(0.8), "macro_f1": around(0.79)}
    assert row["retention"]["accuracy"] == around(0.96)


def test_stages_that_did_not_run_are_none(tmp_path: Path) -> None:
    rows = swept(tmp_path, make_recipe({"ratios": [2]}), until="evaluate")
    assert rows[0]["ratios"] == {"blocks": 2.0, "params": 1.5, "size": None, "latency": None}
    assert rows[0]["compressed"] is not None
    f = find_frontier(rows)
    assert f.optimal == {"params": [True], "latency": [None]}
    assert "Accuracy against latency: not measured" in frontier_markdown(rows)


def test_a_variant_that_fails_does_not_stop_the_rest(tmp_path: Path) -> None:
    rows = swept(tmp_path, make_recipe({"ratios": [2, 3, 4]}), fails="tiny-3x")
    assert [row["name"] for row in rows if row["error"] is None] == ["tiny-2x", "tiny-4x"]
    said = {"message": "out of reach", "hint": "ask for less", "exit_code": 2}
    assert rows[1]["error"] == {"stage": "select", **said}
    assert rows[1]["compressed"] is None
    assert "floor: the majority class" in frontier_markdown(rows)
    f = find_frontier(rows)
    assert f.failed == ["tiny-3x"]
    assert f.best("params") == ["tiny-2x", "tiny-4x"]
    assert "tiny-3x failed in select: out of reach (ask for less)" in frontier_markdown(rows)
    assert "2 of 3 finished" in frontier_html(rows)
    json.dumps(rows, allow_nan=False)


@pytest.mark.parametrize("stage", [None, "data", "train"])
def test_what_all_variants_share_fails_once_and_a_target_out_of_reach_is_one_variants_own(
    tmp_path: Path, stage: str | None
) -> None:
    asked: list[str] = []

    def run(variant: Recipe, runs: Path, event: Event, until: str | None) -> dict[str, StageResult]:
        asked.append(variant.name)
        if stage is not None:
            event("start", stage, "never run")
        raise problem

    problem: LwcError = MissingDependency("no such model", "install it")
    with pytest.raises(MissingDependency):
        sweep(make_recipe({"ratios": [2, 3, 4]}), tmp_path, silent, run)
    assert asked == ["tiny-2x"]
    problem = TargetError("out of reach", "ask for less")
    assert len(sweep(make_recipe({"ratios": [2, 3, 4]}), tmp_path, silent, run)) == 3


def test_a_sweep_of_failures_leaves_the_earlier_frontier_and_ends_with_their_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = {"stage": "recover", "message": "diverged", "hint": "", "exit_code": 1}
    rows = [{**row, "error": error} for row in swept(tmp_path, make_recipe({"ratios": [2, 3]}))]
    monkeypatch.setattr(sweeping, "sweep", lambda *_: rows)
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(json.dumps(make_recipe({"ratios": [2, 3]}).model_dump(mode="json", exclude_none=True)))
    page = tmp_path / "runs" / "tiny" / "frontier.html"
    page.parent.mkdir(parents=True)
    page.write_text("an earlier one")
    done = CliRunner().invoke(app, ["sweep", str(recipe), "--runs", str(tmp_path / "runs")])
    assert done.exit_code == 1, done.output
    assert "diverged" in done.output
    assert page.read_text() == "an earlier one"
    rows[0]["error"] = None
    assert CliRunner().invoke(app, ["sweep", str(recipe), "--runs", str(tmp_path / "runs")]).exit_code == 0
    assert page.read_text() != "an earlier one"


def test_a_bug_is_not_taken_for_a_failed_variant(tmp_path: Path) -> None:
    def run(*_: Any) -> dict[str, StageResult]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sweep(make_recipe({"ratios": [2]}), tmp_path, silent, run)


def test_each_variant_is_announced_and_what_all_share_is_said_once(tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []

    def run(variant: Recipe, runs: Path, event: Event, until: str | None) -> dict[str, StageResult]:
        event("warning", "data", "30% of the rows are duplicates.")
        event("progress", "train", Step(1, 2))
        return fake_run(runs, event, variant, until)

    sweep(make_recipe({"ratios": [2, 3]}), tmp_path, lambda kind, stage, text: said.append((kind, text)), run, "train")
    assert said == [
        ("variant", "tiny-2x (1 of 2)"), ("warning", "30% of the rows are duplicates."), ("progress", "step 1/2"),
        ("done", "1.0 s"), ("variant", "tiny-3x (2 of 2)"), ("progress", "step 1/2"), ("done", "1.0 s"),
    ]  # fmt: skip
    assert isinstance(said[2][1], Step), "with a bar, as in a run"


def test_pareto_by_hand() -> None:
    assert pareto([(1, 0.9), (2, 0.8), (2, 0.7), (1.5, 0.8), (3, 0.75)]) == [True, True, False, False, True]
    assert pareto([(2, 0.8), (2, 0.8)]) == [True, True]  # equals do not beat each other
    assert pareto([]) == []


def made_row(
    name: str, params: float, latency: float | None, accuracy: float, strategy: str = "fused"
) -> dict[str, Any]:
    ratios = {"blocks": params, "params": params, "size": params, "latency": latency}
    return {
        "recipe": "tiny", "task": "classification", "name": name, "ratio": params, "of": "params",
        "strategy": strategy, "select": {}, "kept": [0, 1], "floor": None,
        "ratios": ratios, "seconds": 60.0, "fresh_seconds": 30.0, "error": None,
        **{model: {key: around(value) for key in ("accuracy", "macro_f1")}
           for model, value in (("base", 0.9), ("unrecovered", accuracy - 0.2), ("compressed", accuracy))},
        "retention": {"accuracy": around(accuracy / 0.9), "macro_f1": around(accuracy / 0.9)},
    }  # fmt: skip


def test_the_frontier_differs_by_axis_and_the_base_takes_part() -> None:
    f = find_frontier([
        made_row("a", 1.5, 2.5, 0.89), made_row("b", 2.0, 2.0, 0.88),
        made_row("slower", 0.9, 0.8, 0.85), made_row("better", 1.0, 1.0, 0.91),
    ])  # fmt: skip
    assert (f.best("params"), f.best("latency")) == (["better", "a", "b"], ["better", "a"])
    assert f.optimal["latency"] == [True, False, False, True]
    worse = [made_row("slower", 0.9, 0.8, 0.85)]
    assert not find_frontier(worse).best("params")
    assert not find_frontier(worse).best("latency")
    assert "The uncut model is at least as good in accuracy" in frontier_markdown(worse)


def test_a_sweep_is_drawn_by_the_headline_of_its_task_and_lower_may_be_better() -> None:
    def row(name: str, params: float, error: float) -> dict[str, Any]:
        made = made_row(name, params, params, 0.5) | {"task": "regression", "floor": None}
        quality = {"mean_absolute_error": around(error), "spearman": around(0.8)}
        return made | dict.fromkeys(("unrecovered", "compressed", "retention"), quality) | {
            "base": {"mean_absolute_error": around(0.4), "spearman": around(0.9)}
        }  # fmt: skip

    rows = [row("a", 1.5, 0.5), row("worse", 1.4, 0.6), row("b", 2.0, 0.7)]
    assert find_frontier(rows).best("params") == ["a", "b"]
    text = frontier_markdown(rows)
    assert "mean absolute error retained" in text
    assert "accuracy" not in text
    assert frontier_html(rows).count("<img") == 1
    assert find_frontier([row("useless", 1.0, 0.5)]).best("params") == []


def test_html_is_one_self_contained_file_with_one_plot() -> None:
    rows = [made_row(f"{s}{i}<b>", 1 + i, 1 + 0.7 * i, 0.9 - 0.03 * i - 0.01 * (s == "random"), s)
            for s in ("fused", "random") for i in (1, 2, 3)]  # fmt: skip
    page = frontier_html(rows)
    assert page.count("<img") == 1
    assert 'src="data:image/png;base64,' in page
    assert "1<b>" not in page
    assert "fused1&lt;b&gt;" in page
    assert not re.search(r"https?://|@import|url\(|<script|<link", page)


def test_nothing_measured_makes_no_plot_and_no_zeros(tmp_path: Path) -> None:
    rows = swept(tmp_path, make_recipe({"ratios": [2]}), fails="tiny-2x")
    page = frontier_html(rows)
    assert "<img" not in page
    assert "0.00×" not in page
    assert "0 of 1 finished" in page
    with pytest.raises(RecipeError, match="no variants"):
        find_frontier([])
